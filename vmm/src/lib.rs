//! Makes a microVM run: KVM, memory, boot, vCPUs, the event loop.
//!
//! A caller makes a [`control::Mailbox`] and its [`control::Control`], gives the second to whoever takes
//! requests, and calls [`run`] with the first on the thread that is to be the event loop.

pub mod arch;
mod attach;
pub mod boot;
mod boot_time;
mod builder;
mod bus;
mod configuration;
mod console;
pub mod control;
mod cpu_dump;
pub mod diagnosis;
mod event_loop;
mod events;
mod exit;
#[cfg(feature = "gdb")]
mod gdb;
mod generation;
mod hotplug;
mod kvm;
mod lifecycle;
mod machine;
mod memory;
mod memory_blocks;
mod messages;
pub mod metrics;
mod placement;
mod pmem;
pub mod process;
mod processors;
mod published;
mod vcpu;
mod vm;

pub use attach::AttachError;
pub use builder::StartError;
pub use cpu_dump::{CpuDumpError, dump_cpu};
pub use devices::mmds::Mmds;
pub use devices::mmds::store::StoreError as MmdsStoreError;
pub use events::{EventEntry, EventLog, EventReader, Reading};
pub use exit::ExitReason;
pub use lifecycle::Lifecycle;
pub use pmem::PmemError;
pub use published::VmState;
pub use vm::{Beginning, Vm, run};
