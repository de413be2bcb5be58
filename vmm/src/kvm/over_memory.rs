//! A VM's descriptor together with the memory that it is given.

use std::ops::Deref;
use std::sync::Arc;

use devices::GuestMemory;
use kvm_ioctls::VmFd;

/// A VM's descriptor, and its RAM. Whoever speaks to the VM has an `Arc` of this, not of the descriptor alone, and so does
/// each of its vCPUs: while anybody can make KVM use a memory slot, what is behind it is mapped.
pub(super) struct VmOverMemory {
    // Before `memory`, so that it closes first.
    fd: VmFd,
    memory: Arc<GuestMemory>,
}

impl VmOverMemory {
    pub(super) fn new(fd: VmFd, memory: Arc<GuestMemory>) -> Self {
        Self { fd, memory }
    }

    /// Guest memory, mapped for as long as this lives.
    pub(super) fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }
}

impl Deref for VmOverMemory {
    type Target = VmFd;

    fn deref(&self) -> &VmFd {
        &self.fd
    }
}
