//! x86_64: the machine a guest finds, and the state its vCPUs start in.

pub mod layout;
pub mod regs;
