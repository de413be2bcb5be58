//! Why a microVM ended.

use vm_config::ExitCause;

/// Why a microVM ended. The process exits with [`ExitReason::code`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExitReason {
    /// The guest reset the machine: the orderly end.
    #[error("the guest reset the machine")]
    Reset,
    /// The guest switched the machine off: the other orderly end.
    #[error("the guest switched the machine off")]
    PowerOff,
    /// A debugger killed it.
    #[cfg(feature = "gdb")]
    #[error("the debugger killed the machine")]
    Killed,
    /// A vCPU could not go on: triple fault.
    #[error("vCPU {vcpu} shut down (triple fault)")]
    TripleFault {
        /// Which vCPU.
        vcpu: u8,
    },
    /// KVM could not go on.
    #[error("KVM internal error on vCPU {vcpu}: suberror {suberror}, data {data:x?}")]
    InternalError {
        /// Which vCPU.
        vcpu: u8,
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
        /// What KVM says of it.
        data: Vec<u64>,
    },
    /// A vCPU stopped for a reason nobody handles, or `KVM_RUN` failed.
    #[error("vCPU {vcpu} stopped: {reason}")]
    Vcpu {
        /// Which vCPU.
        vcpu: u8,
        /// The exit reason or the error.
        reason: String,
    },
    /// The event loop itself failed.
    #[error("the event loop failed: {0}")]
    EventLoop(String),
}

impl ExitReason {
    /// Why, for programs.
    #[must_use]
    pub fn cause(&self) -> ExitCause {
        match self {
            Self::Reset => ExitCause::GuestReset,
            Self::PowerOff => ExitCause::GuestPowerOff,
            Self::TripleFault { .. } => ExitCause::TripleFault,
            _ => ExitCause::Failure,
        }
    }

    /// The process exit code: 0 for a reset and for off, 1 for everything else.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Reset | Self::PowerOff => 0,
            #[cfg(feature = "gdb")]
            Self::Killed => 0,
            _ => 1,
        }
    }
}
