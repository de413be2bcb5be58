//! Sealing a drive's overlay while its guest runs, so that others can read it: forks, snapshots, backups.
//!
//! Several drives are sealed at one instant like this: [`Sealing::prepare`] for each while the guest runs, then with all
//! of them paused [`Block::seal`] for each, and [`Block::restack`] if all of that went well, else [`Block::unseal`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vm_config::Drive;

use super::Block;
use super::backend::Backend;
use super::file::DiskError;
use super::overlay::{Overlay, Restack, Which};

/// A drive's overlay that is about to be sealed, and the one that follows it.
#[derive(Debug)]
pub struct Sealing {
    present: PathBuf,
    restack: Restack,
}

impl Sealing {
    /// Makes the overlay at `fresh`, which is missing or empty, for what `drive` writes after the seal. It is locked
    /// until this is dropped.
    ///
    /// # Errors
    /// [`DiskError`] says what is wrong with the drive or a file, and what to do. The drive is as before.
    pub fn prepare(drive: &Drive, fresh: &Path) -> Result<Self, DiskError> {
        let present = drive.overlay_path.as_ref();
        let present = present.ok_or(DiskError::NothingToSeal)?;
        let restack = Restack::prepare(present, drive.lower_overlay_paths.len(), fresh);
        let restack = restack.map_err(|(which, why)| DiskError::Overlay {
            path: match which {
                Which::Present => present.clone(),
                Which::Fresh => fresh.to_owned(),
            },
            why,
        })?;
        Ok(Self {
            present: present.clone(),
            restack,
        })
    }

    pub(super) fn seal(&mut self, overlay: &Overlay) -> Result<(), DiskError> {
        let sealed = self.restack.seal(overlay);
        sealed.map_err(|why| DiskError::Overlay {
            path: self.present.clone(),
            why,
        })
    }
}

impl Block {
    /// Makes all that the drive wrote durable, and seals its overlay. No worker may run.
    ///
    /// # Errors
    /// [`DiskError`] says what to do; the drive can go on as before.
    pub fn seal(&self, sealing: &mut Sealing) -> Result<(), DiskError> {
        let overlay = self.backend.overlay().ok_or(DiskError::NothingToSeal)?;
        sealing.seal(overlay)
    }

    /// Takes a seal back before anybody relied on it: the drive goes on with the overlay it has.
    pub fn unseal(&self, sealing: &Sealing) {
        if let Some(overlay) = self.backend.overlay() {
            sealing.restack.undo(overlay);
        }
    }

    /// Goes on with the fresh overlay on the sealed one; a worker that is made later works with it. The guest sees the
    /// same disk. Gives back what is no longer used: closing it may take a while.
    pub fn restack(&mut self, sealing: Sealing) -> Option<Arc<Backend>> {
        self.metrics.update_count.increment();
        let fresh = sealing.restack.finish(self.backend.overlay()?);
        let fresh = Arc::new(Backend::Overlay(fresh));
        Some(std::mem::replace(&mut self.backend, fresh))
    }
}
