//! What KVM or its device file refuses.

use std::io;

use vm_config::{Explain, FaultCode, FaultKind};

/// What KVM or its device file refuses.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no `/dev/kvm`.
    #[error(
        "cannot open /dev/kvm: it does not exist; load the kvm_intel or kvm_amd module, or turn on virtualization in the firmware or the outer hypervisor"
    )]
    NoDevice(#[source] io::Error),
    /// `/dev/kvm` is there, but not for this user.
    #[error(
        "cannot open /dev/kvm: this process (uid {uid}) may not; add its user to the group that `ls -l /dev/kvm` shows, or give the file to it"
    )]
    NoPermission {
        /// Effective user of this process.
        uid: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// `/dev/kvm` does not open for another reason.
    #[error("cannot open /dev/kvm")]
    Open(#[source] io::Error),
    /// The host's KVM is too old or lacks a part.
    #[error(
        "Missing KVM capabilities: {number:#x} ({name}); use a newer host kernel, or a CPU template that does not ask for them"
    )]
    MissingCapability {
        /// `KVM_CAP_*`.
        number: u32,
        /// Its name.
        name: &'static str,
    },
    /// One KVM call failed.
    #[error("{call} failed")]
    Call {
        /// The ioctl's name.
        call: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// KVM took only some of the MSRs.
    #[error("KVM_SET_MSRS stopped at MSR {index:#x}")]
    Msr {
        /// The first MSR it refused.
        index: u32,
    },
}

impl Explain for KvmError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::NoDevice(_) => FaultCode::KvmMissing,
            Self::NoPermission { .. } => FaultCode::KvmPermission,
            Self::MissingCapability { .. } => FaultCode::KvmTooOld,
            Self::Open(_) | Self::Call { .. } | Self::Msr { .. } => FaultCode::KvmFailed,
        })
    }
}

impl KvmError {
    /// For `map_err` after a call.
    pub(super) fn call(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Call {
            call,
            source: error.into(),
        }
    }
}
