//! `/snapshot`: requests are checked as far as a build without snapshots can check them, and then refused.

use vm_config::{DeviceId, Explain, FaultCode, FaultKind, SnapshotCreate, SnapshotLoad};

use super::{AFTER_START, BEFORE_START, Command, CommandError};
use crate::{Lifecycle, Vm};

/// `PUT /snapshot/create`.
pub struct CreateSnapshot(pub SnapshotCreate);
/// `PUT /snapshot/load`.
pub struct LoadSnapshot(pub SnapshotLoad);

/// A snapshot that cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotCreateError {
    /// The guest runs.
    #[error(
        "Cannot save the microVM state: Operation not allowed: save/restore unavailable while running; pause the microVM first"
    )]
    Running,
    /// A device whose state another process has.
    #[error(
        "Devices without snapshot support are present: vhost-user-block(id: {0}); use a drive with `path_on_host`"
    )]
    VhostUser(DeviceId),
    /// Snapshots are not built yet.
    #[error("snapshots are not in this build; leave the request out")]
    NotInThisBuild,
}

/// A snapshot that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotLoadError {
    /// The process is for another microVM already.
    #[error("Loading a microVM snapshot not allowed after configuring boot-specific resources.")]
    Configured,
    /// Snapshots are not built yet.
    #[error("snapshots are not in this build; configure the microVM and send InstanceStart")]
    NotInThisBuild,
}

impl Explain for SnapshotCreateError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::Running => FaultCode::SnapshotWhileRunning,
            Self::VhostUser(_) => FaultCode::SnapshotOfVhostUser,
            Self::NotInThisBuild => FaultCode::NotInThisBuild,
        })
    }
}

impl Explain for SnapshotLoadError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::Configured => FaultCode::SnapshotAfterConfiguration,
            Self::NotInThisBuild => FaultCode::NotInThisBuild,
        })
    }
}

impl Command for CreateSnapshot {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = AFTER_START;
    const CHANGES: bool = false;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        if vm.lifecycle == Lifecycle::Running {
            return Err(SnapshotCreateError::Running.into());
        }
        let mut drives = vm.config.drives.iter().map(|drive| &drive.config);
        if let Some(drive) = drives.find(|drive| drive.socket.is_some()) {
            return Err(SnapshotCreateError::VhostUser(drive.drive_id.clone()).into());
        }
        Err(SnapshotCreateError::NotInThisBuild.into())
    }
}

impl Command for LoadSnapshot {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;
    const CHANGES: bool = false;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        Err(if vm.is_configured {
            SnapshotLoadError::Configured.into()
        } else {
            SnapshotLoadError::NotInThisBuild.into()
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::configuration::Attachment;
    use crate::vm::tests::vm;

    #[test]
    fn a_device_whose_state_another_process_has_is_named() {
        let mut vm = vm();
        let drive = json!({ "drive_id": "far", "is_root_device": false, "socket": "/s" });
        let drive = Attachment::taken(serde_json::from_value(drive).unwrap());
        vm.config.drives.push(drive);
        vm.lifecycle = Lifecycle::Paused;
        let create = json!({ "snapshot_path": "/s", "mem_file_path": "/m" });
        let refused = vm.execute(CreateSnapshot(serde_json::from_value(create).unwrap()));
        let Err(CommandError::SnapshotCreate(why)) = refused else {
            panic!("{refused:?}");
        };
        let words = "Devices without snapshot support are present: vhost-user-block(id: far)";
        assert!(why.to_string().starts_with(words), "{why}");
    }
}
