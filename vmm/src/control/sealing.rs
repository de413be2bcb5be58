//! Sealing the overlays of a microVM's drives, all at one instant or none.

use std::path::PathBuf;
use std::sync::Arc;

use devices::virtio::Changed;
use devices::virtio::block::backend::Backend;
use devices::virtio::block::{Block, DiskError, Sealing};
use vm_config::{DeviceId, Drive};

use super::{CommandError, DriveError, DrivePatchError};
use crate::configuration::Configuration;
use crate::machine::RunningMachine;

/// Seals that are prepared: the fresh overlays are made, and the guest still writes to the old ones.
pub(crate) struct Sealings(Vec<One>);

struct One {
    id: DeviceId,
    fresh: PathBuf,
    sealing: Sealing,
}

/// Drives that went on with fresh overlays.
#[must_use]
pub(crate) struct Sealed {
    drives: Vec<(DeviceId, PathBuf)>,
    /// What they no longer use; closing it may take a while.
    old: Vec<Option<Arc<Backend>>>,
}

impl Sealings {
    /// Makes the overlay that `fresh` names for a drive; those for which it names none stay as they are.
    ///
    /// # Errors
    /// What is wrong with a drive or a file, and what to do.
    pub(crate) fn prepare(
        config: &Configuration,
        fresh: impl Fn(&Drive) -> Option<PathBuf>,
    ) -> Result<Self, CommandError> {
        let mut all = Vec::new();
        for drive in config.drives.iter().map(|drive| &drive.config) {
            if let Some(fresh) = fresh(drive) {
                let sealing = Sealing::prepare(drive, &fresh).map_err(refuse)?;
                let id = drive.drive_id.clone();
                all.push(One { id, fresh, sealing });
            }
        }
        Ok(Self(all))
    }

    /// Seals the drives of a machine that stands still, which goes on with the fresh overlays.
    ///
    /// # Errors
    /// What is wrong with a drive, and what to do; then no drive is sealed.
    pub(crate) fn carry_out(mut self, machine: &RunningMachine) -> Result<Sealed, CommandError> {
        for index in 0..self.0.len() {
            let one = &mut self.0[index];
            let sealed = on_block(machine, &one.id, |block| block.seal(&mut one.sealing));
            let sealed = sealed.and_then(|sealed| sealed.map_err(refuse));
            if let Err(error) = sealed {
                for one in &self.0[..index] {
                    let _ = on_block(machine, &one.id, |block| block.unseal(&one.sealing));
                }
                return Err(error);
            }
        }
        let mut sealed = Sealed {
            drives: Vec::new(),
            old: Vec::new(),
        };
        for One { id, fresh, sealing } in self.0 {
            let old = on_block(machine, &id, |block| block.restack(sealing))?;
            sealed.old.push(old);
            sealed.drives.push((id, fresh));
        }
        Ok(sealed)
    }
}

impl Sealed {
    /// Has the configuration tell what is.
    pub(crate) fn note(self, config: &mut Configuration) {
        for (id, fresh) in self.drives {
            let mut drives = config.drives.iter_mut().map(|drive| &mut drive.config);
            if let Some(drive) = drives.find(|drive| drive.drive_id == id) {
                *drive = drive.restacked(fresh);
            }
        }
        drop(self.old);
    }
}

fn on_block<R>(
    machine: &RunningMachine,
    id: &DeviceId,
    work: impl FnOnce(&mut Block) -> R,
) -> Result<R, CommandError> {
    let done = machine.change_device(id, |block: &mut Block| Changed::Inside(work(block)));
    done.ok_or_else(|| CommandError::from(DriveError::Patch(DrivePatchError::NotFound)))
}

fn refuse(why: DiskError) -> CommandError {
    CommandError::from(DriveError::Patch(why.into()))
}
