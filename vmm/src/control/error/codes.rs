//! Which kind of failure each refusal is.

use vm_config::{Explain, FaultCode, FaultKind};

use super::{
    BootSourceError, CommandError, DriveError, DrivePatchError, HotplugError, LoggerError,
    NetworkError,
};

impl Explain for CommandError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::BeforeStart => FaultCode::NotStarted,
            Self::AfterStart => FaultCode::AlreadyStarted,
            Self::NoPci => FaultCode::PciDisabled,
            Self::Attach(inner) => return FaultKind::Inner(inner),
            Self::Hotplug(inner) => return FaultKind::Inner(inner),
            Self::Machine(inner) => return FaultKind::Inner(inner),
            Self::BootSource(inner) => return FaultKind::Inner(inner),
            Self::Drive(inner) => return FaultKind::Inner(inner),
            Self::Network(inner) => return FaultKind::Inner(inner),
            Self::Pmem(inner) => return FaultKind::Inner(inner),
            Self::MemoryHotplug(inner) => return FaultKind::Inner(inner),
            Self::MemoryHotplugUpdate(inner) => return FaultKind::Inner(inner),
            Self::Mmds(inner) | Self::MmdsLimit(inner) => return FaultKind::Inner(inner),
            Self::MmdsConfig(inner) => return FaultKind::Inner(inner),
            Self::Vsock(inner) => return FaultKind::Inner(inner),
            Self::Console(inner) => return FaultKind::Inner(inner),
            Self::BalloonConfig(inner) => return FaultKind::Inner(inner),
            Self::BalloonUpdate(inner) | Self::Internal(inner) => return FaultKind::Inner(inner),
            Self::Start(inner) => return FaultKind::Inner(inner),
            Self::Keyboard(inner) => return FaultKind::Inner(inner),
            Self::SnapshotCreate(inner) => return FaultKind::Inner(inner),
            Self::SnapshotLoad(inner) => return FaultKind::Inner(inner),
            Self::Logger(inner) => return FaultKind::Inner(inner),
            Self::Metrics(inner) => return FaultKind::Inner(inner),
        })
    }
}

impl Explain for LoggerError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(FaultCode::LoggerFile)
    }
}

impl Explain for BootSourceError {
    fn kind(&self) -> FaultKind<'_> {
        match self {
            Self::Kernel { .. } => FaultKind::Code(FaultCode::KernelFile),
            Self::Initrd(_) => FaultKind::Code(FaultCode::InitrdFile),
            Self::CommandLine(inner) => FaultKind::Inner(inner),
        }
    }
}

impl Explain for HotplugError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::InUse => FaultCode::DeviceIdInUse,
            Self::NotFound => FaultCode::DeviceNotFound,
            Self::Root => FaultCode::RootDeviceFixed,
            Self::Paused => FaultCode::UnplugGuestPaused,
            Self::NoAnswer => FaultCode::UnplugNoAnswer,
        })
    }
}

impl Explain for DriveError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::PrivateMemory => FaultCode::VhostUserPrivateMemory,
            Self::RootExists | Self::RootIsPmem => FaultCode::RootDeviceExists,
            Self::RootAfterStart => FaultCode::RootDeviceFixed,
            Self::TooMany => FaultCode::TooManyDevices,
            Self::Create(inner) => return FaultKind::Inner(inner),
            Self::Patch(inner) => return FaultKind::Inner(inner),
        })
    }
}

impl Explain for DrivePatchError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::NotFound => FaultCode::DeviceNotFound,
            Self::NothingToChange => FaultCode::DriveNothingToChange,
            Self::BackEndDecides => FaultCode::DriveBackEndDecides,
            Self::Disk(inner) => return FaultKind::Inner(inner),
        })
    }
}

impl Explain for NetworkError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::MacInUse(_) => FaultCode::MacInUse,
            Self::TooMany => FaultCode::TooManyDevices,
            Self::NotFound => FaultCode::DeviceNotFound,
            Self::VhostLimits => FaultCode::VhostNetLimits,
            Self::VhostMmds => FaultCode::MmdsInterfaces,
            Self::Create(inner) => return FaultKind::Inner(inner),
        })
    }
}
