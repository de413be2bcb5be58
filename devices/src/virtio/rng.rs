//! The entropy device (virtio 1.2 §5.4): random bytes of the host, straight into the driver's buffers.

use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use vm_config::Entropy;
use vmm_sys_util::eventfd::EventFd;

use super::chain::Chain;
use super::queue::{Completion, Queue};
use super::{
    ActivateError, Activation, Interrupt, QueueError, Source, Token, Traits, VirtioDevice, Worker,
};
use crate::limiter::{Limiter, LimitsAtHome};
use crate::metrics::{EntropyMetrics, Group};

/// Entries of the one queue.
const QUEUE_SIZE: u16 = 256;
/// The most bytes that one request is given; the driver asks again for more.
const MAX_REQUEST_BYTES: usize = 64 << 10;
/// Bytes given in one turn, about, before the neighbours on the loop get theirs.
const TURN_BYTES: usize = 256 << 10;
/// Requests served in one turn.
const TURN: usize = 64;

const KICK: Token = Token(0);
const LIMIT: Token = Token(1);

/// An entropy device that no driver runs.
pub struct Rng {
    limits: LimitsAtHome,
    metrics: Arc<EntropyMetrics>,
}

impl Rng {
    /// The device as the user stated it.
    #[must_use]
    pub fn new(config: &Entropy) -> Self {
        Self {
            limits: LimitsAtHome::new(config.rate_limiter),
            metrics: Arc::default(),
        }
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<EntropyMetrics> {
        Arc::clone(&self.metrics)
    }

    fn refuse(&self, what: &'static str, source: io::Error) -> ActivateError {
        self.metrics.activate_fails.increment();
        ActivateError { what, source }
    }
}

impl VirtioDevice for Rng {
    fn traits(&self) -> Traits {
        Traits {
            device_type: VIRTIO_ID_RNG,
            features: 1 << VIRTIO_F_VERSION_1,
            queue_sizes: vec![QUEUE_SIZE],
        }
    }

    /// There is none (virtio 1.2 §5.4.4).
    fn counters(&self) -> Arc<dyn Group> {
        self.metrics()
    }

    fn config_space(&self) -> &[u8] {
        &[]
    }

    fn activate(&mut self, with: Activation) -> Result<Box<dyn Worker>, ActivateError> {
        let queue = with.queues.into_iter().next();
        let queue = queue.ok_or_else(|| self.refuse("a queue", io::ErrorKind::NotFound.into()))?;
        let limiter = Limiter::new(&self.limits)
            .map_err(|source| self.refuse("a timer for its rate limits", source))?;
        Ok(Box::new(RngWorker {
            chain: queue.new_chain(),
            queue,
            limiter,
            metrics: Arc::clone(&self.metrics),
            kick: with.kick,
            interrupt: with.interrupt,
        }))
    }
}

/// An entropy device that a driver runs.
struct RngWorker {
    queue: Queue,
    /// Reused by every request.
    chain: Chain,
    limiter: Limiter,
    metrics: Arc<EntropyMetrics>,
    kick: EventFd,
    interrupt: Arc<dyn Interrupt>,
}

impl Worker for RngWorker {
    fn sources(&self) -> Vec<Source> {
        let kick = super::kick_source(&self.kick, KICK);
        let limit = self.limiter.source(LIMIT);
        [Some(kick), limit].into_iter().flatten().collect()
    }

    fn on_event(&mut self, token: Token) -> Result<(), QueueError> {
        let is_limit_over = token == LIMIT && self.limiter.is_shut();
        self.metrics
            .rate_limiter_event_count
            .add(is_limit_over.into());
        let worked = self.turn();
        if worked.is_err() {
            self.metrics.entropy_event_fails.increment();
        }
        worked
    }

    /// Nothing is in flight between two events.
    fn stop(self: Box<Self>) -> Vec<Queue> {
        self.limiter.stop();
        vec![self.queue]
    }
}

impl RngWorker {
    /// Serves what is queued and may pass, up to [`TURN`] and [`TURN_BYTES`], then tells the driver.
    fn turn(&mut self) -> Result<(), QueueError> {
        if !self.limiter.opens() {
            return Ok(());
        }
        self.queue.disable_kicks()?;
        let (mut served, mut bytes) = (0, 0);
        while let Some(done) = self.queue.pop_or_wait(&mut self.chain)? {
            let Some(len) = self.serve(done)? else {
                // Its timer is the next event; until then kicks would say nothing new.
                self.metrics.entropy_rate_limiter_throttled.increment();
                break;
            };
            served += 1;
            bytes += len;
            if served >= TURN || bytes >= TURN_BYTES {
                super::kick_again(&self.kick);
                break;
            }
        }
        if self.queue.needs_interrupt()? {
            self.interrupt.queue(0);
        }
        Ok(())
    }

    /// Fills the buffers in `chain` and gives its head back; says how many bytes. `None` when it waits in the ring
    /// for its rate limit.
    fn serve(&mut self, done: Completion) -> Result<Option<usize>, QueueError> {
        // What breaks a rule costs an operation too, and no bytes.
        let is_valid = self.chain.readable.is_empty();
        let wanted = self.chain.writable.len().min(MAX_REQUEST_BYTES);
        let bytes = if is_valid { wanted as u64 } else { 0 };
        if !self.limiter.admits(bytes) {
            self.queue.put_back(done);
            return Ok(None);
        }
        self.limiter.spend(bytes);
        let filled = self.fill();
        let len = u32::try_from(filled).unwrap_or(u32::MAX);
        self.queue.give_back(done, len)?;
        Ok(Some(filled))
    }

    /// Fills the buffers in `chain`; says how many bytes. A request has no readable buffer, and at least one
    /// writable byte (virtio 1.2 §5.4.6.1).
    fn fill(&mut self) -> usize {
        let metrics = &self.metrics;
        metrics.entropy_event_count.increment();
        let Chain {
            readable, writable, ..
        } = &mut self.chain;
        if !readable.is_empty() || writable.is_empty() {
            metrics.entropy_event_fails.increment();
            return 0;
        }
        let room = writable.len();
        if writable.fill_random(MAX_REQUEST_BYTES).is_err() {
            metrics.host_rng_fails.increment();
        }
        let len = room - writable.len();
        metrics.entropy_bytes.add(len as u64);
        len
    }
}

#[cfg(test)]
mod tests {
    use vm_config::{RateLimiter, TokenBucket};

    use super::*;
    use crate::testing::suite::device_suite;
    use crate::testing::{Bench, Buffer, FakeGuest};

    fn rng() -> Rng {
        Rng::new(&Entropy::default())
    }

    /// Whether `len` random bytes look random: not one of 32 neighbours is left at zero.
    fn is_filled(bytes: &[u8]) -> bool {
        bytes
            .chunks(32)
            .all(|chunk| chunk.iter().any(|byte| *byte != 0))
    }

    #[test]
    fn every_buffer_of_a_request_is_filled_and_nothing_behind_it() {
        let mut guest = FakeGuest::running(Box::new(rng()), 0);
        let buffers = [
            Buffer::Writable(0x1000, 64),
            Buffer::Writable(0x3000, 32),
            Buffer::Writable(0x2000, 0x400),
        ];
        let head = guest.queues[0].add(&buffers);
        guest.kick().unwrap();
        assert_eq!(guest.queues[0].take_used(), [(head, 64 + 32 + 0x400)]);
        assert_eq!(guest.irq.take(), 1);
        for (at, len) in [(0x1000, 64), (0x3000, 32), (0x2000, 0x400)] {
            assert!(is_filled(&guest.peek(at, len)));
            assert_eq!(guest.peek(at + len as u64, 64), [0; 64]);
        }
    }

    #[test]
    fn a_long_request_is_given_64_kib() {
        let device = rng();
        let metrics = device.metrics();
        let mut guest = FakeGuest::running(Box::new(device), 0);
        let head = guest.queues[0].add(&[Buffer::Writable(0, 0x10_0000)]);
        guest.kick().unwrap();
        assert_eq!(guest.queues[0].take_used(), [(head, 0x1_0000)]);
        assert!(is_filled(&guest.peek(0, 0x1_0000)));
        assert_eq!(guest.peek(0x1_0000, 64), [0; 64]);
        assert_eq!(metrics.entropy_bytes.get(), 0x1_0000);
        assert_eq!(metrics.entropy_event_count.get(), 1);
    }

    #[test]
    fn a_turn_is_bounded_and_goes_on() {
        let mut guest = FakeGuest::running(Box::new(rng()), 0);
        for _ in 0..10 {
            guest.queues[0].add(&[Buffer::Writable(0, 0x1_0000)]);
        }
        guest.kick().unwrap();
        assert_eq!(guest.queues[0].take_used().len(), 4);
        guest.workers.turn().unwrap();
        guest.workers.turn().unwrap();
        assert_eq!(guest.queues[0].take_used().len(), 6);
    }

    #[test]
    fn a_request_with_something_to_read_gets_nothing() {
        let device = rng();
        let metrics = device.metrics();
        let mut guest = FakeGuest::running(Box::new(device), 0);
        let buffers = [Buffer::Readable(0x1000, 8), Buffer::Writable(0x2000, 8)];
        let head = guest.queues[0].add(&buffers);
        guest.kick().unwrap();
        assert_eq!(guest.queues[0].take_used(), [(head, 0)]);
        assert_eq!(guest.peek(0x2000, 8), [0; 8]);
        assert_eq!(metrics.entropy_event_fails.get(), 1);
    }

    const HOUR: u64 = 3_600_000;

    fn limited(bandwidth: Option<u64>, ops: Option<u64>) -> Rng {
        let bucket = |size| TokenBucket {
            size,
            one_time_burst: None,
            refill_time: HOUR,
        };
        Rng::new(&Entropy {
            rate_limiter: Some(RateLimiter {
                bandwidth: bandwidth.map(bucket),
                ops: ops.map(bucket),
            }),
        })
    }

    /// How many of `requests` of 64 bytes each are answered, and how often they had to wait.
    fn answered(device: Rng, requests: usize) -> (usize, u64) {
        let metrics = device.metrics();
        let mut guest = FakeGuest::running(Box::new(device), 0);
        for _ in 0..requests {
            guest.queues[0].add(&[Buffer::Writable(0x1000, 64)]);
        }
        for _ in 0..3 {
            guest.kick().unwrap();
        }
        let throttled = metrics.entropy_rate_limiter_throttled.get();
        (guest.queues[0].take_used().len(), throttled)
    }

    #[test]
    fn requests_over_either_limit_wait_in_the_ring() {
        assert_eq!(answered(limited(None, Some(2)), 5), (2, 1));
        assert_eq!(answered(limited(Some(200), None), 5), (3, 1));
        assert_eq!(answered(limited(Some(0), Some(0)), 5), (5, 0));
    }

    #[test]
    fn limit_that_is_used_up_with_no_request_left_arms_nothing() {
        assert_eq!(answered(limited(Some(128), Some(2)), 2), (2, 0));
    }

    #[test]
    fn what_waits_is_answered_when_the_limit_lets_it() {
        let device = Rng::new(&Entropy {
            rate_limiter: Some(RateLimiter {
                bandwidth: None,
                ops: Some(TokenBucket {
                    size: 1,
                    one_time_burst: None,
                    refill_time: 5,
                }),
            }),
        });
        let metrics = device.metrics();
        let mut guest = FakeGuest::running(Box::new(device), 0);
        for _ in 0..2 {
            guest.queues[0].add(&[Buffer::Writable(0x1000, 64)]);
        }
        guest.kick().unwrap();
        assert_eq!(guest.queues[0].take_used().len(), 1);
        std::thread::sleep(std::time::Duration::from_millis(20));
        guest.workers.turn().unwrap();
        assert_eq!(guest.queues[0].take_used().len(), 1);
        assert_eq!(metrics.entropy_rate_limiter_throttled.get(), 1);
    }

    #[test]
    fn requests_allocate_nothing() {
        let mut bench = Bench::new(&mut rng(), 0);
        let request = [Buffer::Writable(0x1000, 64)];
        bench.drivers[0].add(&request);
        bench.allocations_of(KICK.0);
        bench.drivers[0].add(&request);
        assert_eq!(bench.allocations_of(KICK.0), 0);
        assert_eq!(bench.drivers[0].take_used().len(), 2);
    }

    device_suite!(Box::new(rng()));
}
