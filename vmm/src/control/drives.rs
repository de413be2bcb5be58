//! `/drives`.

mod patch;

use devices::virtio::VirtioDevice;
use devices::virtio::block::{self, LockWait};
use vm_config::{DeviceId, Drive, DrivePatch};

use super::plug::{MAX_DESCRIBED, Pluggable, Target, put};
use super::{ANY_STATE, Command, CommandError, DriveError};
use crate::configuration::{Attachment, Configuration};
use crate::memory::Sharing;
use crate::{Lifecycle, Vm};

/// `PUT /drives/{id}`. After the start, it is put on the PCI bus.
pub struct PutDrive(pub Drive);
/// `PATCH /drives/{id}`.
pub struct PatchDrive(pub DrivePatch);

impl Command for PutDrive {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = ANY_STATE;
    const CONFIGURES: bool = true;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        put(self, vm)
    }
}

impl Pluggable for PutDrive {
    fn describe(self, config: &mut Configuration) -> Result<(), CommandError> {
        let drive = self.0;
        let drives = &config.drives;
        let is_other_root = |other: &Attachment<Drive, Box<dyn VirtioDevice>>| {
            other.config.is_root_device && other.config.drive_id != drive.drive_id
        };
        if drive.is_root_device && drives.iter().any(is_other_root) {
            return Err(DriveError::RootExists.into());
        }
        if drive.is_root_device && config.has_root_pmem() {
            return Err(DriveError::RootIsPmem.into());
        }
        let drives = &mut config.drives;
        let place = drives
            .iter()
            .position(|d| d.config.drive_id == drive.drive_id);
        if place.is_none() && drives.len() >= MAX_DESCRIBED {
            return Err(DriveError::TooMany.into());
        }
        // An overlay and a back end serve one: it is closed first when the drive to be replaced has it. That one stays
        // if this fails.
        if let Some(index) = place {
            let old = &drives[index].config;
            let has_overlay =
                drive.overlay_path.is_some() && old.overlay_path == drive.overlay_path;
            if has_overlay || (drive.socket.is_some() && old.socket == drive.socket) {
                drives[index].close();
            }
        }
        let device = block::open(&drive, &config.ring, LockWait::Second);
        let device = device.map_err(DriveError::Create)?;
        let is_root = drive.is_root_device;
        let attachment = Attachment::new(drive, device);
        match place {
            Some(index) if !is_root => drives[index] = attachment,
            other => {
                other.map(|index| drives.remove(index));
                // The guest finds its root drive first.
                let index = if is_root { 0 } else { drives.len() };
                drives.insert(index, attachment);
            }
        }
        Ok(())
    }

    fn id(&self) -> DeviceId {
        self.0.drive_id.clone()
    }

    fn is_known(config: &Configuration, id: &DeviceId) -> bool {
        let mut drives = config.drives.iter();
        drives.any(|drive| drive.config.drive_id == *id)
    }

    fn plug(self, to: Target<'_>) -> Result<(), CommandError> {
        let drive = &self.0;
        if drive.is_root_device {
            return Err(refused_root(to.config).into());
        }
        if drive.socket.is_some() && to.config.memory_sharing() == Sharing::Private {
            return Err(DriveError::PrivateMemory.into());
        }
        let device = block::open(drive, &to.config.ring, LockWait::None);
        let device = device.map_err(DriveError::Create)?;
        to.machine.plug(self.id(), device, None, to.sender)?;
        to.config.drives.push(Attachment::taken(self.0));
        Ok(())
    }
}

/// Why a guest that runs gets no root drive.
fn refused_root(config: &Configuration) -> DriveError {
    if config.has_root_drive() {
        DriveError::RootExists
    } else if config.has_root_pmem() {
        DriveError::RootIsPmem
    } else {
        DriveError::RootAfterStart
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::vm::tests::vm;

    #[test]
    fn drives_are_bounded_and_can_still_be_replaced() {
        let mut vm = vm();
        let image = tempfile::NamedTempFile::new().unwrap();
        let mut put = |id: usize| {
            let drive = json!({
                "drive_id": id.to_string(), "is_root_device": false, "path_on_host": image.path(),
            });
            vm.execute(PutDrive(serde_json::from_value(drive).unwrap()))
        };
        for id in 0..MAX_DESCRIBED {
            put(id).unwrap();
        }
        put(0).unwrap();
        let refused = put(MAX_DESCRIBED).unwrap_err();
        assert!(matches!(refused, CommandError::Drive(DriveError::TooMany)));
    }

    #[test]
    fn a_root_that_comes_too_late_hears_why() {
        let mut vm = vm();
        let refused = |vm: &Vm| refused_root(&vm.config).to_string();
        assert!(refused(&vm).contains("before the start"));
        let pmem = json!({ "id": "p", "path_on_host": "/p", "root_device": true });
        vm.config.pmem = vec![serde_json::from_value(pmem).unwrap()];
        assert!(refused(&vm).contains("defined as a pmem device"));
        let drive = json!({ "drive_id": "d", "is_root_device": true, "path_on_host": "/d" });
        let drive = Attachment::taken(serde_json::from_value(drive).unwrap());
        vm.config.drives.push(drive);
        assert!(refused(&vm).contains("A root block device already exists!"));
    }
}
