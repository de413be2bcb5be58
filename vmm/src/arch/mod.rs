//! What differs between processor architectures: where things lie, how a vCPU starts, what firmware would say.
//!
//! Everything here is a function from plain data to plain data or to bytes in guest memory; the `kvm` module
//! makes the system calls. A second architecture is a second folder.

#[cfg(target_arch = "x86_64")]
pub mod x86_64;
