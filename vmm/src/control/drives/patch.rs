//! `PATCH /drives/{id}`: another file, other limits, a sealed overlay; or a back end says anew what it has.

use devices::virtio::block::{Block, BlockChange, DiskError, VhostUserBlock};
use vm_config::{DrivePatch, RateLimiter};

use super::super::sealing::Sealings;
use super::super::{AFTER_START, Command, CommandError, DriveError, DrivePatchError};
use super::PatchDrive;
use crate::{Lifecycle, Vm};

impl Command for PatchDrive {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = AFTER_START;

    /// Opens what is new while the guest still runs; then all of it changes at once, or nothing.
    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let refuse = |why| CommandError::from(DriveError::Patch(why));
        let patch = self.0;
        let mut drives = vm.config.drives.iter();
        let place = drives
            .position(|drive| drive.config.drive_id == patch.drive_id)
            .ok_or_else(|| refuse(DrivePatchError::NotFound))?;
        let is_empty = patch.path_on_host.is_none()
            && patch.overlay_path.is_none()
            && patch.lower_overlay_paths.is_none()
            && !patch.seal_overlay
            && patch.rate_limiter.is_none();
        match (&vm.config.drives[place].config.socket, is_empty) {
            (None, true) => return Err(refuse(DrivePatchError::NothingToChange)),
            (Some(_), false) => return Err(refuse(DrivePatchError::BackEndDecides)),
            (Some(_), true) => return refresh(vm, &patch),
            (None, false) if patch.seal_overlay => return seal(vm, &patch),
            (None, false) => {}
        }
        let drive = &vm.config.drives[place].config;
        let patched = drive.patched(&patch);
        let change = BlockChange::prepare(drive, &patch).map_err(|why| {
            let machine = vm.machine.as_ref();
            machine.map(|machine| machine.look(&patch.drive_id, Block::count_refusal));
            refuse(why.into())
        })?;
        let old = vm.change_machine(|machine| {
            machine
                .change_device(&patch.drive_id, |block: &mut Block| block.change(change))
                .ok_or_else(|| refuse(DrivePatchError::NotFound))
        })?;
        drop(old);
        vm.config.drives[place].config = patched;
        Ok(())
    }
}

/// Seals a drive's overlay; what else the patch says follows in the same instant.
fn seal(vm: &mut Vm, patch: &DrivePatch) -> Result<(), CommandError> {
    let refuse = |why: DiskError| CommandError::from(DriveError::Patch(why.into()));
    if patch.path_on_host.is_some() || patch.lower_overlay_paths.is_some() {
        return Err(refuse(DiskError::SealOfAnother));
    }
    let fresh = patch.overlay_path.clone();
    let fresh = fresh.ok_or_else(|| refuse(DiskError::SealToNowhere))?;
    let sealings = Sealings::prepare(&vm.config, |drive| {
        (drive.drive_id == patch.drive_id).then(|| fresh.clone())
    })?;
    let sealed = vm.change_machine(|machine| {
        let sealed = sealings.carry_out(machine)?;
        if let Some(limits) = patch.rate_limiter {
            machine.change_device(&patch.drive_id, |block: &mut Block| block.limit(limits));
        }
        Ok(sealed)
    })?;
    sealed.note(&mut vm.config);
    let mut drives = vm.config.drives.iter_mut();
    if let Some(drive) = drives.find(|drive| drive.config.drive_id == patch.drive_id) {
        let drive = &mut drive.config;
        drive.rate_limiter = RateLimiter::patched(drive.rate_limiter, patch.rate_limiter);
    }
    Ok(())
}

/// Has a back end say anew what its disk is.
fn refresh(vm: &mut Vm, patch: &DrivePatch) -> Result<(), CommandError> {
    let refuse = |why| CommandError::from(DriveError::Patch(why));
    vm.change_machine(|machine| {
        let refreshed =
            machine.change_device(&patch.drive_id, |disk: &mut VhostUserBlock| disk.refresh());
        let refreshed = refreshed.ok_or_else(|| refuse(DrivePatchError::NotFound))?;
        refreshed.map_err(|why| refuse(DiskError::from(why).into()))
    })
}
