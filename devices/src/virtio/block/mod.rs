//! The block device (virtio 1.2 §5.2): joins requests to a disk.
//!
//! Requests are done one after the other on the event loop, each in one system call between guest memory and
//! the file; or, with the engine `Async`, side by side by the kernel (`asynchronous.rs`).

mod asynchronous;
pub mod backend;
mod config;
pub mod file;
mod medium;
pub mod overlay;
pub mod request;

use std::io::{self, ErrorKind};
use std::sync::Arc;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_config::{BlockEngine, CacheType, Drive, DrivePatch, RateLimiter};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;
use zerocopy::IntoBytes;

use asynchronous::AsyncWorker;
use backend::Backend;
use config::ConfigSpace;
pub use file::DiskError;
use file::{SERIAL_LEN, padded};
use request::{Disk, MAX_DISCARD_RANGES, Malformed, Op, Range, Request, parse};

use super::chain::Chain;
use super::queue::{Completion, Queue};
use super::{
    ActivateError, Activation, Changed, Interrupt, QueueError, Source, Token, Traits, VirtioDevice,
    Worker,
};
use crate::GuestMemory;
use crate::limiter::{Limiter, LimitsAtHome};
use crate::metrics::BlockMetrics;
use crate::sys::uring::Ring;
pub use crate::sys::uring::SharedRing;

/// Entries of the one queue.
const QUEUE_SIZE: u16 = 256;

/// Requests done in one turn, before the neighbours on the loop get theirs.
const TURN: usize = 64;

/// Bytes moved in one turn, about; a request is not cut. A flush takes a whole turn: the host may take its time.
const TURN_BYTES: usize = 8 << 20;

const KICK: Token = Token(0);
const LIMIT: Token = Token(1);

/// A disk that no driver runs.
pub struct Block {
    // Fixed configuration.
    features: u64,
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
    pub fn open(drive: &Drive, ring: &SharedRing) -> Result<Self, DiskError> {
        match (&drive.path_on_host, &drive.socket) {
            (Some(_), None) => {}
            (None, Some(_)) => return Err(DiskError::NotSupported("`socket`")),
            _ => return Err(DiskError::NoBackend),
        }
        let ring = match drive.io_engine.unwrap_or_default() {
            BlockEngine::Sync => None,
            BlockEngine::Async => Some(ring.get().map_err(DiskError::NoUring)?),
        };
        let backend = Backend::open(drive)?;
        Ok(Self {
            features: offered(drive, &backend),
            serial: drive.serial.as_ref().map(|serial| padded(serial.as_str())),
            config: ConfigSpace::of(&backend),
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
        let queue = with.queues.into_iter().next();
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
            queue,
            disk,
            serial: self.serial.unwrap_or(*self.backend.serial()),
            limiter,
            backend: Arc::clone(&self.backend),
            metrics: Arc::clone(&self.metrics),
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
    /// Opens what `patch` names, as `patched`, the drive after it, wants it.
    ///
    /// # Errors
    /// [`DiskError`] says what is wrong with the file and what to do.
    pub fn prepare(patched: &Drive, patch: &DrivePatch) -> Result<Self, DiskError> {
        let is_opened = match (&patch.path_on_host, &patch.overlay_path) {
            (Some(_), None) if patched.overlay_path.is_some() => {
                return Err(DiskError::OverlayOfAnother);
            }
            (path, overlay_path) => path.is_some() || overlay_path.is_some(),
        };
        let backend = is_opened.then(|| Backend::open(patched)).transpose()?;
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
            queue_sizes: vec![QUEUE_SIZE],
        }
    }

    fn config_space(&self) -> &[u8] {
        self.config.as_bytes()
    }

    fn activate(&mut self, with: Activation) -> Result<Box<dyn Worker>, ActivateError> {
        self.start(with)
            .inspect_err(|_| self.metrics.activate_fails.increment())
    }
}

/// A disk that a driver runs.
struct BlockWorker {
    queue: Queue,
    /// Reused by every request.
    chain: Chain,
    /// Reused by every request that names ranges.
    ranges: Vec<Range>,
    disk: Disk,
    serial: [u8; SERIAL_LEN],
    limiter: Limiter,
    backend: Arc<Backend>,
    metrics: Arc<BlockMetrics>,
    memory: Arc<GuestMemory>,
    kick: EventFd,
    interrupt: Arc<dyn Interrupt>,
}

impl Worker for BlockWorker {
    fn sources(&self) -> Vec<Source> {
        let kick = super::kick_source(&self.kick, KICK);
        let limit = self.limiter.source(LIMIT);
        [Some(kick), limit].into_iter().flatten().collect()
    }

    fn on_event(&mut self, token: Token) -> Result<(), QueueError> {
        self.note(token);
        let worked = self.turn();
        if worked.is_err() {
            self.metrics.event_fails.increment();
        }
        worked
    }

    /// Nothing is in flight between two events.
    fn stop(self: Box<Self>) -> Vec<Queue> {
        self.give_up()
    }
}

/// What became of a head that was popped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    /// It went back to the driver and took `cost` of [`TURN_BYTES`].
    Done {
        /// Bytes.
        cost: usize,
    },
    /// It waits in the ring for its rate limit.
    Waits,
}

impl BlockWorker {
    /// Does what is queued and may pass, up to [`TURN`] and [`TURN_BYTES`], then tells the driver.
    fn turn(&mut self) -> Result<(), QueueError> {
        if !self.limiter.opens() {
            return Ok(());
        }
        self.queue.disable_kicks()?;
        let (mut served, mut bytes) = (0, 0);
        'turn: loop {
            while served < TURN
                && bytes < TURN_BYTES
                && let Some(done) = self.queue.pop(&mut self.chain)?
            {
                match self.serve(done)? {
                    Served::Done { cost } => bytes += cost,
                    Served::Waits => {
                        // Its timer is the next event; until then kicks would say nothing new.
                        self.metrics.rate_limiter_throttled_events.increment();
                        break 'turn;
                    }
                }
                served += 1;
            }
            if served >= TURN || bytes >= TURN_BYTES {
                self.metrics.remaining_reqs_count.increment();
                super::kick_again(&self.kick);
                break;
            }
            if !self.queue.enable_kicks()? {
                break;
            }
        }
        if served == 0 && !self.limiter.is_shut() {
            self.metrics.no_avail_buffer.increment();
        }
        if self.queue.needs_interrupt()? {
            self.interrupt.queue(0);
        }
        Ok(())
    }

    /// Does the request in `chain` and gives its head back, if its rate limit lets it pass.
    fn serve(&mut self, done: Completion) -> Result<Served, QueueError> {
        let mut cost = self.chain.readable.len() + self.chain.writable.len();
        let len = match self.parse() {
            Ok(request) => {
                let bytes = self.cost(request.op);
                if !self.limiter.admits(bytes) {
                    self.queue.put_back(done);
                    return Ok(Served::Waits);
                }
                self.limiter.spend(bytes);
                // What moves no data may still take the host long.
                if matches!(request.op, Op::Flush | Op::Discard | Op::WriteZeroes { .. }) {
                    cost = TURN_BYTES;
                }
                self.execute(request)
            }
            Err(malformed) => self.refuse(malformed),
        };
        self.queue.give_back(done, len)?;
        Ok(Served::Done { cost })
    }

    /// Counts an event.
    fn note(&self, token: Token) {
        if token == LIMIT {
            let is_news = self.limiter.is_shut();
            self.metrics.rate_limiter_event_count.add(is_news.into());
        } else {
            self.metrics.queue_event_count.increment();
        }
    }

    fn give_up(self) -> Vec<Queue> {
        self.limiter.stop();
        vec![self.queue]
    }

    fn parse(&mut self) -> Result<Request, Malformed> {
        parse(&mut self.chain, self.disk, &mut self.ranges)
    }

    /// Counts and answers a request that broke a rule.
    fn refuse(&self, malformed: Malformed) -> u32 {
        self.metrics.invalid_reqs_count.increment();
        let status = malformed.status;
        status.map_or(0, |status| self.answer(status, VIRTIO_BLK_S_IOERR, 0))
    }

    /// What the request in `chain` costs of a bandwidth, bytes.
    fn cost(&self, op: Op) -> u64 {
        match op {
            Op::Read { .. } => self.chain.writable.len() as u64,
            Op::Write { .. } => self.chain.readable.len() as u64,
            Op::WriteZeroes { may_unmap: false } => self.ranges.iter().map(|r| r.len).sum(),
            Op::WriteZeroes { .. } | Op::Discard | Op::Flush | Op::GetId | Op::Unsupported => 0,
        }
    }

    /// Counts the request in `chain`.
    fn count(&self, op: Op) {
        let metrics = &self.metrics;
        match op {
            Op::Read { .. } => {
                metrics.read_count.increment();
                metrics.read_bytes.add(self.chain.writable.len() as u64);
            }
            Op::Write { .. } => {
                metrics.write_count.increment();
                metrics.write_bytes.add(self.chain.readable.len() as u64);
            }
            Op::Flush => metrics.flush_count.increment(),
            Op::Unsupported => metrics.invalid_reqs_count.increment(),
            Op::Discard | Op::WriteZeroes { .. } | Op::GetId => {}
        }
    }

    /// Counts what a request copied to the overlay.
    fn count_copies(&self) {
        if let Some(overlay) = self.backend.overlay() {
            self.metrics
                .overlay_copied_blocks
                .add(overlay.take_copied());
        }
    }

    /// Does a request and answers it. Returns the bytes written from the start of its writable buffers.
    fn execute(&mut self, request: Request) -> u32 {
        self.count(request.op);
        let Chain {
            readable, writable, ..
        } = &mut self.chain;
        let room = writable.len();
        let result = match request.op {
            Op::Read { at } => self.backend.read(at, writable),
            Op::Write { at } => self.backend.write(at, readable),
            Op::Flush => self.backend.flush(),
            Op::Discard => each_range(&self.ranges, |range| self.backend.punch(range)),
            Op::WriteZeroes { may_unmap } => each_range(&self.ranges, |range| {
                if may_unmap && self.backend.can_punch() {
                    self.backend.punch(range)
                } else {
                    self.backend.zero(range)
                }
            }),
            Op::GetId => {
                let written = writable.copy_from(0, &self.serial);
                writable.advance(written);
                Ok(())
            }
            Op::Unsupported => {
                return self.answer(request.status, VIRTIO_BLK_S_UNSUPP, 0);
            }
        };
        self.count_copies();
        let moved = room - self.chain.writable.len();
        let status = match result {
            Ok(()) => VIRTIO_BLK_S_OK,
            // The file was changed for one without holes.
            Err(error) if error.kind() == ErrorKind::Unsupported => VIRTIO_BLK_S_UNSUPP,
            Err(_) => {
                self.metrics.execute_fails.increment();
                VIRTIO_BLK_S_IOERR
            }
        };
        self.answer(request.status, status, moved)
    }

    /// Writes the status byte behind the data, `moved` bytes of which were written. Returns the used length: the
    /// status byte counts only when nothing between is unwritten (virtio 1.2 §2.7.8.2).
    fn answer(&self, at: GuestAddress, status: u32, moved: usize) -> u32 {
        let [status, ..] = status.to_le_bytes();
        // The address was checked when the chain was popped, and guest memory only grows.
        let _ = self.memory.write_obj(status, at);
        let is_all_written = self.chain.writable.is_empty();
        let len = moved.saturating_add(usize::from(is_all_written));
        u32::try_from(len).unwrap_or(u32::MAX)
    }
}

/// Does `work` on one range after the other.
fn each_range(ranges: &[Range], work: impl FnMut(Range) -> io::Result<()>) -> io::Result<()> {
    ranges.iter().copied().try_for_each(work)
}

#[cfg(test)]
mod tests;
