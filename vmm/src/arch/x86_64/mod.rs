//! x86_64: the machine a guest finds, and the state its vCPUs start in.

pub mod acpi;
pub mod cpuid;
pub mod lapic;
pub mod layout;
pub mod mptable;
pub mod msr;
pub mod paging;
pub mod regs;
pub mod system_area;
pub mod template;
