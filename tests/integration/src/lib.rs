//! Drives microVMs through their public API: a process, a socket, files. Nothing of the monitor is linked.
//!
//! Each test gets its own directory, process, socket and tap name, so that all of them run in parallel.

mod checksum;
mod console;
mod echo;
mod tap;
mod vm;

pub use checksum::fnv1a64;
pub use echo::boot_echo;
pub use integration_macros::vm_test;
pub use tap::Tap;
pub use vm::{TestVm, guest_kernel, monitor, run};
