//! What can be wrong with a configuration, in the words existing clients look for.

use crate::{Explain, FaultCode, FaultKind};

/// A machine that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// vCPUs outside 1..=32, or an odd number above 1 with SMT.
    #[error(
        "The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is enabled."
    )]
    VcpuCount,
    /// No memory, or memory that is not whole huge pages.
    #[error("The memory size (MiB) is either 0, or not a multiple of the configured page size.")]
    MemorySize,
    /// Less memory than the balloon is to take.
    #[error("The memory size (MiB) is smaller than the previously set balloon device target size.")]
    BelowBalloon,
}

impl Explain for MachineError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::VcpuCount => FaultCode::VcpuCountInvalid,
            Self::MemorySize => FaultCode::MemorySizeInvalid,
            Self::BelowBalloon => FaultCode::MemoryBelowBalloon,
        })
    }
}

/// Text that is not a MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The provided MAC address is invalid.")]
pub struct MacAddressError;

/// Text that is not a disk's serial number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid drive serial {0:?}; use 1 to 20 printable ASCII characters")]
pub struct DriveSerialError(pub(crate) String);

/// Text that is not a log level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid LevelFilter")]
pub struct LogLevelError;
