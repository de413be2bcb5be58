//! Persistent memory (virtio 1.2 §5.19): a file that the guest reads and writes as memory, and flushes by request.
//!
//! The mapping is the monitor's business; here is only its place in the guest, and the flush. A flush answers for
//! every write before it, so it fails when one of them cannot have reached the file: it was made to memory that
//! the guest may only read ([`LostWrites`]), or the file was cut.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_PMEM;
use vm_config::{PmemPatch, RateLimiter};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::chain::Chain;
use super::queue::{Completion, Queue};
use super::{
    ActivateError, Activation, Changed, Interrupt, QueueError, Source, Token, Traits, VirtioDevice,
    Worker,
};
use crate::Registers;
use crate::limiter::{Limiter, LimitsAtHome};
use crate::metrics::{Group, PmemMetrics};

/// Entries of the one queue, and so the most requests that share one flush.
const QUEUE_SIZE: u16 = 256;

/// The one request type (virtio 1.2 §5.19.6).
const VIRTIO_PMEM_REQ_TYPE_FLUSH: u32 = 0;
const SUCCESS: u32 = 0;
/// -1, as the specification has it.
const FAILURE: u32 = u32::MAX;

const KICK: Token = Token(0);
const LIMIT: Token = Token(1);

/// A file in the guest's address space.
pub struct Backing {
    /// The file that is mapped.
    pub file: File,
    /// Its length when it was mapped, bytes.
    pub file_len: u64,
    /// Where the guest finds it.
    pub start: GuestAddress,
    /// Bytes the guest finds there, no less than the file has.
    pub len: u64,
    /// Writes that reach nothing.
    pub lost: Arc<LostWrites>,
}

/// What answers where the guest may only read: it notes that a write was lost, for the next flush to say so.
#[derive(Debug, Default)]
pub struct LostWrites(AtomicBool);

impl LostWrites {
    /// Whether there was one since this was last asked. A guest asks, by a flush, after its write.
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

impl Registers for LostWrites {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, _data: &[u8]) {
        self.0.store(true, Ordering::Release);
    }
}

/// Persistent memory that no driver runs.
pub struct Pmem {
    // Fixed configuration.
    /// Start and size, little-endian (virtio 1.2 §5.19.4).
    config: [u8; 16],
    // Runtime glue.
    backing: Arc<Backing>,
    limits: LimitsAtHome,
    metrics: Arc<PmemMetrics>,
}

impl Pmem {
    /// Persistent memory in `backing`, with `limits` on its flushes: each is one operation, of the file's length.
    #[must_use]
    pub fn new(backing: Backing, limits: Option<RateLimiter>) -> Self {
        let mut config = [0; 16];
        config[..8].copy_from_slice(&backing.start.0.to_le_bytes());
        config[8..].copy_from_slice(&backing.len.to_le_bytes());
        Self {
            config,
            backing: Arc::new(backing),
            limits: LimitsAtHome::new(limits),
            metrics: Arc::default(),
        }
    }

    /// Takes on `patch`; a worker that is made later works with it.
    pub fn change(&mut self, patch: &PmemPatch) -> Changed<()> {
        if let Some(limits) = patch.rate_limiter {
            self.limits.patch(limits);
        }
        Changed::Inside(())
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<PmemMetrics> {
        Arc::clone(&self.metrics)
    }

    fn start(&self, with: Activation) -> Result<PmemWorker, ActivateError> {
        let refuse = |what| move |source| ActivateError { what, source };
        let queue = with.queues.into_iter().next();
        let queue = queue.ok_or_else(|| refuse("a queue")(ErrorKind::NotFound.into()))?;
        let limiter = Limiter::new(&self.limits).map_err(refuse("a timer for its rate limits"))?;
        Ok(PmemWorker {
            chains: Vec::new(),
            batch: Vec::with_capacity(QUEUE_SIZE.into()),
            queue,
            limiter,
            backing: Arc::clone(&self.backing),
            metrics: Arc::clone(&self.metrics),
            kick: with.kick,
            interrupt: with.interrupt,
        })
    }
}

impl VirtioDevice for Pmem {
    fn traits(&self) -> Traits {
        Traits {
            device_type: VIRTIO_ID_PMEM,
            features: 1 << VIRTIO_F_VERSION_1,
            queue_sizes: vec![QUEUE_SIZE],
        }
    }

    fn counters(&self) -> Arc<dyn Group> {
        self.metrics()
    }

    fn config_space(&self) -> &[u8] {
        &self.config
    }

    fn activate(&mut self, with: Activation) -> Result<Box<dyn Worker>, ActivateError> {
        match self.start(with) {
            Ok(worker) => Ok(Box::new(worker)),
            Err(error) => {
                self.metrics.activate_fails.increment();
                Err(error)
            }
        }
    }
}

/// Persistent memory that a driver runs.
struct PmemWorker {
    queue: Queue,
    /// Reused by every batch; as many as the largest had.
    chains: Vec<Chain>,
    /// Heads of the chains at the front, until they are given back.
    batch: Vec<Completion>,
    limiter: Limiter,
    backing: Arc<Backing>,
    metrics: Arc<PmemMetrics>,
    kick: EventFd,
    interrupt: Arc<dyn Interrupt>,
}

impl Worker for PmemWorker {
    fn sources(&self) -> Vec<Source> {
        let kick = super::kick_source(&self.kick, KICK);
        let limit = self.limiter.source(LIMIT);
        [Some(kick), limit].into_iter().flatten().collect()
    }

    fn on_event(&mut self, token: Token) -> Result<(), QueueError> {
        let metrics = &self.metrics;
        if token == LIMIT {
            let is_news = self.limiter.is_shut();
            metrics.rate_limiter_event_count.add(is_news.into());
        } else {
            metrics.queue_event_count.increment();
        }
        let worked = self.turn();
        if worked.is_err() {
            self.metrics.event_fails.increment();
        }
        worked
    }

    /// Nothing is in flight between two events.
    fn stop(self: Box<Self>) -> Vec<Queue> {
        self.limiter.stop();
        vec![self.queue]
    }
}

impl PmemWorker {
    /// Flushes once for all that is queued, if the rate limit lets it, then tells the driver.
    fn turn(&mut self) -> Result<(), QueueError> {
        if !self.limiter.opens() {
            return Ok(());
        }
        self.queue.disable_kicks()?;
        self.collect()?;
        let wants_flush = (self.chains.iter())
            .zip(&self.batch)
            .any(|(chain, _)| is_flush(chain));
        if wants_flush && !self.limiter.admits(self.backing.file_len) {
            // They wait in the ring for the timer; until then kicks would say nothing new.
            self.metrics.rate_limiter_throttled_events.increment();
            while let Some(done) = self.batch.pop() {
                self.queue.put_back(done);
            }
            return Ok(());
        }
        let result = if wants_flush { self.flush() } else { SUCCESS };
        self.answer(result)?;
        if self.queue.enable_kicks()? {
            super::kick_again(&self.kick);
        }
        if self.queue.needs_interrupt()? {
            self.interrupt.queue(0);
        }
        Ok(())
    }

    /// Takes all that is queued: at most the queue's size, for nothing is given back in between.
    fn collect(&mut self) -> Result<(), QueueError> {
        loop {
            if self.batch.len() == self.chains.len() {
                self.chains.push(self.queue.new_chain());
            }
            let Some(chain) = self.chains.get_mut(self.batch.len()) else {
                return Ok(());
            };
            match self.queue.pop(chain)? {
                Some(done) => self.batch.push(done),
                None => return Ok(()),
            }
        }
    }

    /// Brings what the guest wrote to the file's storage. `fdatasync` does what `msync` of the whole mapping does:
    /// both write back the file's dirty pages, in whatever mapping they were written.
    fn flush(&mut self) -> u32 {
        let Backing { file, file_len, .. } = &*self.backing;
        self.limiter.spend(*file_len);
        let flushed = file
            .sync_data()
            .and_then(|()| match file.metadata()?.len() {
                len if len < *file_len => Err(Error::from(ErrorKind::UnexpectedEof)),
                _ => Ok(()),
            });
        // Both are looked at, or the next flush would hear of an old loss.
        let has_lost = self.backing.lost.take();
        if flushed.is_err() || has_lost {
            self.metrics.event_fails.increment();
            return FAILURE;
        }
        SUCCESS
    }

    /// Gives every request of the batch back; flushes have `result`.
    fn answer(&mut self, result: u32) -> Result<(), QueueError> {
        for (chain, done) in self.chains.iter().zip(self.batch.drain(..)) {
            let result = if is_flush(chain) {
                result
            } else {
                self.metrics.event_fails.increment();
                FAILURE
            };
            let bytes = result.to_le_bytes();
            let has_room = chain.writable.len() >= bytes.len();
            let len = if has_room {
                chain.writable.copy_from(0, &bytes)
            } else {
                0
            };
            self.queue
                .give_back(done, u32::try_from(len).unwrap_or_default())?;
        }
        Ok(())
    }
}

/// Whether `chain` asks for a flush (virtio 1.2 §5.19.6).
fn is_flush(chain: &Chain) -> bool {
    let mut kind = [0; 4];
    chain.readable.copy_to(0, &mut kind) == kind.len()
        && u32::from_le_bytes(kind) == VIRTIO_PMEM_REQ_TYPE_FLUSH
}

#[cfg(test)]
mod tests;
