//! The block device (virtio 1.2 §5.2): joins requests to a disk.
//!
//! Requests are done one after the other on the event loop (`worker.rs`), each in one system call between guest
//! memory and the file; or, with the engine `Async`, side by side by the kernel (`asynchronous.rs`). All queues of a
//! drive are one worker's: they share its rate limits, and a flush on one covers what was done on all.

mod asynchronous;
pub mod backend;
mod config;
pub mod file;
mod medium;
pub mod overlay;
pub mod request;
mod sealing;
mod stretch;
mod vhost_user;
mod worker;

use std::io::ErrorKind;
use std::sync::Arc;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_config::{BlockEngine, CacheType, Drive, DrivePatch, RateLimiter};

use asynchronous::AsyncWorker;
use backend::Backend;
use config::ConfigSpace;
pub use file::DiskError;
use file::{SERIAL_LEN, padded};
pub use overlay::LockWait;
use overlay::OverlayError;
use request::{Disk, MAX_DISCARD_RANGES};
pub use sealing::Sealing;
use stretch::Stretch;
pub use vhost_user::VhostUserBlock;
use worker::BlockWorker;
use zerocopy::IntoBytes;

use super::vhost_user::{PATIENCE, SHORT_PATIENCE};
use super::{ActivateError, Activation, Changed, Traits, VirtioDevice, Worker};
use crate::limiter::{Limiter, LimitsAtHome};
use crate::metrics::{BlockMetrics, Group};
use crate::sys::uring::Ring;
pub use crate::sys::uring::SharedRing;

/// Entries of a queue.
const QUEUE_SIZE: u16 = 256;

/// The most queues: one for each processor of the largest machine.
pub const MAX_QUEUES: u16 = 32;

/// Makes the drive's device: on its file, or on its back end in another process. `ring` is the microVM's, made when
/// the first drive asks for the engine `Async`.
///
/// # Errors
/// [`DiskError`] says what is wrong with the drive and what to do.
pub fn open(
    drive: &Drive,
    ring: &SharedRing,
    wait: LockWait,
) -> Result<Box<dyn VirtioDevice>, DiskError> {
    Ok(match drive.socket {
        None => Box::new(Block::open(drive, ring, wait)?),
        Some(_) => {
            let patience = match wait {
                LockWait::Second => PATIENCE,
                LockWait::None => SHORT_PATIENCE,
            };
            Box::new(VhostUserBlock::connect(drive, patience)?)
        }
    })
}

/// A disk that no driver runs.
pub struct Block {
    // Fixed configuration.
    features: u64,
    queues: u16,
    /// The user's choice; the file's numbers otherwise.
    serial: Option<[u8; SERIAL_LEN]>,
    config: ConfigSpace,
    // Runtime glue.
    backend: Arc<Backend>,
    /// For the engine `Async`.
    ring: Option<Arc<Ring>>,
    limits: LimitsAtHome,
    metrics: Arc<BlockMetrics>,
}

impl Block {
    /// Opens the drive's file. `ring` is the microVM's, made when the first drive asks for the engine `Async`.
    ///
    /// # Errors
    /// [`DiskError`] says what is wrong with the drive and what to do.
    pub fn open(drive: &Drive, ring: &SharedRing, wait: LockWait) -> Result<Self, DiskError> {
        match (&drive.path_on_host, &drive.socket) {
            (Some(_), None) => {}
            (None, Some(_)) => return Err(DiskError::SocketAfterStart),
            _ => return Err(DiskError::NoBackend),
        }
        let queues = drive.num_queues.unwrap_or(1);
        if !(1..=MAX_QUEUES).contains(&queues) {
            return Err(DiskError::Queues(queues));
        }
        let ring = match drive.io_engine.unwrap_or_default() {
            BlockEngine::Sync => None,
            BlockEngine::Async => Some(ring.get().map_err(DiskError::NoUring)?),
        };
        let backend = Backend::open(drive, wait)?;
        Ok(Self {
            features: offered(drive, &backend),
            queues,
            serial: drive.serial.as_ref().map(|serial| padded(serial.as_str())),
            config: ConfigSpace::of(&backend, queues),
            backend: Arc::new(backend),
            ring,
            limits: LimitsAtHome::new(drive.rate_limiter),
            metrics: Arc::default(),
        })
    }

    /// Takes on `change`; a worker that is made later works with it. Gives back the files that are no longer
    /// used, if they are others: closing them may take a while.
    pub fn change(&mut self, change: BlockChange) -> Changed<Option<Arc<Backend>>> {
        self.metrics.update_count.increment();
        if let Some(limits) = change.limits {
            self.limits.patch(limits);
        }
        let Some(backend) = change.backend else {
            return Changed::Inside(None);
        };
        self.config.set_capacity(&backend);
        let old = std::mem::replace(&mut self.backend, Arc::new(backend));
        Changed::Configuration(Some(old))
    }

    /// Has it keep to `limits`, as a `PATCH` states them.
    pub fn limit(&mut self, limits: RateLimiter) -> Changed<()> {
        self.limits.patch(limits);
        Changed::Inside(())
    }

    /// A change was refused.
    pub fn count_refusal(&self) {
        self.metrics.update_fails.increment();
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<BlockMetrics> {
        Arc::clone(&self.metrics)
    }

    fn start(&self, with: Activation) -> Result<Box<dyn Worker>, ActivateError> {
        let base = self.base(with)?;
        let Some(ring) = &self.ring else {
            return Ok(Box::new(base));
        };
        let port = ring.port().map_err(|source| ActivateError {
            what: "a copy of the ring's event",
            source,
        })?;
        Ok(Box::new(AsyncWorker::new(base, port)))
    }

    fn base(&self, with: Activation) -> Result<BlockWorker, ActivateError> {
        let refuse = |what| move |source| ActivateError { what, source };
        let queue = with.queues.first();
        let queue = queue.ok_or_else(|| refuse("a queue")(ErrorKind::NotFound.into()))?;
        let has = |bit: u32| with.features & (1 << bit) != 0;
        let disk = Disk {
            takes_discard: has(VIRTIO_BLK_F_DISCARD),
            takes_write_zeroes: has(VIRTIO_BLK_F_WRITE_ZEROES),
            ..self.backend.disk()
        };
        let flushes = has(VIRTIO_BLK_F_FLUSH);
        let begun = self.backend.begin(flushes);
        begun.map_err(refuse("its overlay as the driver before left it"))?;
        let limiter = Limiter::new(&self.limits).map_err(refuse("a timer for its rate limits"))?;
        Ok(BlockWorker {
            chain: queue.new_chain(),
            ranges: Vec::with_capacity(MAX_DISCARD_RANGES as usize),
            queues: with.queues,
            first: 0,
            disk,
            serial: self.serial.unwrap_or(*self.backend.serial()),
            limiter,
            backend: Arc::clone(&self.backend),
            metrics: Arc::clone(&self.metrics),
            stretch: Stretch::default(),
            memory: with.memory,
            kick: with.kick,
            interrupt: with.interrupt,
        })
    }
}

/// What `PATCH /drives` changes, made ready while the drive works.
#[derive(Debug)]
pub struct BlockChange {
    backend: Option<Backend>,
    limits: Option<RateLimiter>,
}

impl BlockChange {
    /// Opens what `patch` names for a drive that is `drive` so far and runs.
    ///
    /// # Errors
    /// [`DiskError`] says what is wrong with the file and what to do.
    pub fn prepare(drive: &Drive, patch: &DrivePatch) -> Result<Self, DiskError> {
        if patch.lower_overlay_paths.is_some() && patch.overlay_path.is_none() {
            return Err(DiskError::LowerAlone);
        }
        let is_opened = match (&patch.path_on_host, &patch.overlay_path) {
            (Some(_), None) if drive.overlay_path.is_some() => {
                return Err(DiskError::OverlayOfAnother);
            }
            (_, Some(path)) if drive.overlay_path.as_ref() == Some(path) => {
                return Err(DiskError::Overlay {
                    path: path.clone(),
                    why: OverlayError::Own,
                });
            }
            (path, overlay_path) => path.is_some() || overlay_path.is_some(),
        };
        let open = || Backend::open(&drive.patched(patch), LockWait::None);
        let backend = is_opened.then(open).transpose()?;
        Ok(Self {
            backend,
            limits: patch.rate_limiter,
        })
    }
}

/// Features of a drive on `backend` (virtio 1.2 §5.2.3).
fn offered(drive: &Drive, backend: &Backend) -> u64 {
    let always = [
        VIRTIO_F_VERSION_1,
        VIRTIO_RING_F_EVENT_IDX,
        VIRTIO_RING_F_INDIRECT_DESC,
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_BLK_SIZE,
        VIRTIO_BLK_F_TOPOLOGY,
    ];
    let optional = [
        (backend.disk().is_read_only, VIRTIO_BLK_F_RO),
        (drive.num_queues > Some(1), VIRTIO_BLK_F_MQ),
        (drive.cache_type == CacheType::Writeback, VIRTIO_BLK_F_FLUSH),
        (backend.can_punch(), VIRTIO_BLK_F_DISCARD),
        (backend.can_punch(), VIRTIO_BLK_F_WRITE_ZEROES),
    ];
    let optional = optional.into_iter().filter(|(is_offered, _)| *is_offered);
    let bits = always.into_iter().chain(optional.map(|(_, bit)| bit));
    bits.fold(0, |features, bit| features | 1 << bit)
}

impl VirtioDevice for Block {
    fn traits(&self) -> Traits {
        Traits {
            device_type: VIRTIO_ID_BLOCK,
            features: self.features,
            queue_sizes: vec![QUEUE_SIZE; self.queues.into()],
        }
    }

    fn counters(&self) -> Arc<dyn Group> {
        self.metrics()
    }

    fn config_space(&self) -> &[u8] {
        self.config.as_bytes()
    }

    fn activate(&mut self, with: Activation) -> Result<Box<dyn Worker>, ActivateError> {
        self.start(with)
            .inspect_err(|_| self.metrics.activate_fails.increment())
    }
}

#[cfg(test)]
mod tests;
