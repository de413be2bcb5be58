//! Makes a microVM run: KVM, memory, boot, vCPUs, the event loop.
//!
//! A caller makes a [`control::Mailbox`] and its [`control::Control`], gives the second to whoever takes
//! requests, and calls [`run`] with the first on the thread that is to be the event loop.

pub mod arch;
pub mod boot;
pub mod bus;
pub mod control;
pub mod exit;
pub mod kvm;
pub mod lifecycle;
pub mod memory;
pub mod process;
mod vm;

pub use exit::ExitReason;
pub use lifecycle::Lifecycle;
pub use vm::{Settings, Vm, run};
