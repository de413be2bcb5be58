//! The entropy device (virtio 1.2 §5.4): random bytes of the host, straight into the driver's buffers.

use std::sync::Arc;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use vm_config::{Entropy, RateLimiter};
use vmm_sys_util::eventfd::EventFd;

use super::chain::Chain;
use super::queue::Queue;
use super::{
    ActivateError, Activation, Interrupt, QueueError, Source, Token, Traits, VirtioDevice, Worker,
};
use crate::metrics::EntropyMetrics;

/// Entries of the one queue.
const QUEUE_SIZE: u16 = 256;
/// The most bytes that one request is given; the driver asks again for more.
const MAX_REQUEST_BYTES: usize = 64 << 10;
/// Bytes given in one turn, about, before the neighbours on the loop get theirs.
const TURN_BYTES: usize = 256 << 10;
/// Requests served in one turn.
const TURN: usize = 64;

const KICK: Token = Token(0);

/// An entropy device that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum RngError {
    /// Part of the interface that this build does not have.
    #[error("{0} is not supported by this build; remove it from the request")]
    NotSupported(&'static str),
}

/// An entropy device that no driver runs.
pub struct Rng {
    metrics: Arc<EntropyMetrics>,
}

impl Rng {
    /// The device as the user stated it.
    ///
    /// # Errors
    /// [`RngError`] says what is wrong and what to do.
    pub fn open(config: &Entropy) -> Result<Self, RngError> {
        if is_limiting(config.rate_limiter) {
            return Err(RngError::NotSupported("`rate_limiter`"));
        }
        Ok(Self {
            metrics: Arc::default(),
        })
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<EntropyMetrics> {
        Arc::clone(&self.metrics)
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
    fn config_space(&self) -> &[u8] {
        &[]
    }

    fn activate(&mut self, with: Activation) -> Result<Box<dyn Worker>, ActivateError> {
        let Some(queue) = with.queues.into_iter().next() else {
            self.metrics.activate_fails.increment();
            return Err(ActivateError {
                what: "a queue",
                source: std::io::ErrorKind::NotFound.into(),
            });
        };
        Ok(Box::new(RngWorker {
            chain: queue.new_chain(),
            queue,
            metrics: Arc::clone(&self.metrics),
            kick: with.kick,
            interrupt: with.interrupt,
        }))
    }
}

/// Whether the user asked for a limit at all: an absent or disabled bucket does not limit.
fn is_limiting(limiter: Option<RateLimiter>) -> bool {
    let buckets = limiter.map(|limiter| [limiter.bandwidth, limiter.ops]);
    let mut buckets = buckets.into_iter().flatten().flatten();
    buckets.any(|bucket| bucket.size > 0 && bucket.refill_time > 0)
}

/// An entropy device that a driver runs.
struct RngWorker {
    queue: Queue,
    /// Reused by every request.
    chain: Chain,
    metrics: Arc<EntropyMetrics>,
    kick: EventFd,
    interrupt: Arc<dyn Interrupt>,
}

impl Worker for RngWorker {
    fn sources(&self) -> Vec<Source> {
        vec![super::kick_source(&self.kick, KICK)]
    }

    fn on_event(&mut self, _token: Token) -> Result<(), QueueError> {
        let worked = self.turn();
        if worked.is_err() {
            self.metrics.entropy_event_fails.increment();
        }
        worked
    }

    /// Nothing is in flight between two events.
    fn stop(self: Box<Self>) -> Vec<Queue> {
        vec![self.queue]
    }
}

impl RngWorker {
    /// Serves what is queued, up to [`TURN`] and [`TURN_BYTES`], then tells the driver.
    fn turn(&mut self) -> Result<(), QueueError> {
        self.queue.disable_kicks()?;
        let (mut served, mut bytes) = (0, 0);
        loop {
            while served < TURN
                && bytes < TURN_BYTES
                && let Some(done) = self.queue.pop(&mut self.chain)?
            {
                served += 1;
                let len = self.fill();
                bytes += len;
                let len = u32::try_from(len).unwrap_or(u32::MAX);
                self.queue.give_back(done, len)?;
            }
            if served >= TURN || bytes >= TURN_BYTES {
                super::kick_again(&self.kick);
                break;
            }
            if !self.queue.enable_kicks()? {
                break;
            }
        }
        if self.queue.needs_interrupt()? {
            self.interrupt.queue(0);
        }
        Ok(())
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
        Rng::open(&Entropy::default()).unwrap()
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

    #[test]
    fn a_limit_is_refused_by_name_and_one_that_does_not_limit_is_not() {
        let limit = |size| Entropy {
            rate_limiter: Some(RateLimiter {
                bandwidth: Some(TokenBucket {
                    size,
                    one_time_burst: None,
                    refill_time: 100,
                }),
                ops: None,
            }),
        };
        let refused = Rng::open(&limit(1)).err().unwrap().to_string();
        assert!(refused.contains("`rate_limiter` is not supported"));
        assert!(Rng::open(&limit(0)).is_ok());
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
