//! The only user of KVM: the VM, its vCPUs and its interrupt routes behind safe calls.

// UNSAFETY: KVM keeps addresses that user space gives it (memory slots), and maps a page that both sides
// write (`kvm_run`). The types here own what those addresses point to.
#![expect(unsafe_code, reason = "KVM keeps pointers to our memory")]

#[cfg(feature = "gdb")]
mod debug;
mod error;
mod exits;
mod msrs;
mod over_memory;
mod routing;
mod slots;
mod vcpu;
mod vm;
mod wires;

#[cfg(feature = "gdb")]
pub use debug::{DebugExit, HardwareBreak, HardwareKind, MAX_HARDWARE_BREAKS, Traps};
pub use error::KvmError;
pub use exits::{Exit, ExitKind, ExitLog};
pub use msrs::MsrChangeError;
pub use routing::InterruptRoutes;
pub use slots::{MemorySlot, MemorySlots};
pub use vcpu::{BootError, BootState, EntryState, Kick, Turn, Vcpu, VcpuState};
pub use vm::{Host, InterruptControllers, KvmVm};
pub use wires::WiredLine;
