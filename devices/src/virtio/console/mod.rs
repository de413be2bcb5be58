//! The console device (virtio 1.2 §5.3): what the guest writes to `/dev/hvc0`, straight from its memory to a file.
//!
//! One port, no input: buffers of the receive queue stay with the device. Output that the file does not take waits in the
//! ring, and with it the guest; nothing is lost but what the host refuses for good, which is counted.

mod output;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use output::{ConsoleError, Output};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_config::{ConsoleConfig, RateLimiter};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::chain::Chain;
use super::queue::Queue;
use super::{
    ActivateError, Activation, Interrupt, QueueError, Source, Token, Traits, VirtioDevice, Worker,
};
use crate::limiter::{Limiter, LimitsAtHome};
use crate::metrics::{ConsoleMetrics, Group};
use crate::tail::{TAIL_BYTES, Tail, Written as Text};

/// Entries of each of the two queues.
const QUEUE_SIZE: u16 = 256;
/// The transmit queue (virtio 1.2 §5.3.2).
const TRANSMIT: u16 = 1;
/// Bytes written in one turn before the neighbours on the loop get theirs.
const TURN_BYTES: usize = 256 << 10;
/// Chains given back in one turn.
const TURN: usize = 64;

const KICK: Token = Token(0);
const ROOM: Token = Token(1);
const LIMIT: Token = Token(2);

/// A console that no driver runs.
pub struct Console {
    output: Output,
    /// Bytes of the next chain that were written already, while no worker knows.
    written: Arc<AtomicUsize>,
    limits: LimitsAtHome,
    tail: Arc<Tail>,
    metrics: Arc<ConsoleMetrics>,
}

impl Console {
    /// The device as the user stated it.
    ///
    /// # Errors
    /// [`ConsoleError`] says what to do.
    pub fn open(config: &ConsoleConfig) -> Result<Self, ConsoleError> {
        let output = Output::open(&config.output_path)?;
        Ok(Self::on(output, config))
    }

    fn on(output: Output, config: &ConsoleConfig) -> Self {
        let limits = RateLimiter {
            bandwidth: config.rate_limiter,
            ops: None,
        };
        Self {
            output,
            written: Arc::default(),
            limits: LimitsAtHome::new(Some(limits)),
            tail: Arc::default(),
            metrics: Arc::default(),
        }
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<ConsoleMetrics> {
        Arc::clone(&self.metrics)
    }

    /// What the guest wrote.
    #[must_use]
    pub fn written(&self) -> Text {
        self.tail.written()
    }

    fn refuse(&self, what: &'static str, source: io::Error) -> ActivateError {
        self.metrics.activate_fails.increment();
        ActivateError { what, source }
    }
}

impl VirtioDevice for Console {
    fn traits(&self) -> Traits {
        Traits {
            device_type: VIRTIO_ID_CONSOLE,
            features: 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX,
            queue_sizes: vec![QUEUE_SIZE; 2],
        }
    }

    /// Each field belongs to a feature that is not offered (virtio 1.2 §5.3.4).
    fn counters(&self) -> Arc<dyn Group> {
        self.metrics()
    }

    fn config_space(&self) -> &[u8] {
        &[]
    }

    fn activate(&mut self, with: Activation) -> Result<Box<dyn Worker>, ActivateError> {
        let queues = <[Queue; 2]>::try_from(with.queues);
        let [receive, transmit] =
            queues.map_err(|_| self.refuse("two queues", io::ErrorKind::NotFound.into()))?;
        let output = self
            .output
            .try_clone()
            .map_err(|source| self.refuse("its output", source))?;
        let limiter = Limiter::new(&self.limits)
            .map_err(|source| self.refuse("a timer for its rate limit", source))?;
        Ok(Box::new(ConsoleWorker {
            chain: transmit.new_chain(),
            receive,
            transmit,
            output,
            written: self.written.load(Ordering::Relaxed),
            home: Arc::clone(&self.written),
            is_full: false,
            limiter,
            tail: Arc::clone(&self.tail),
            metrics: Arc::clone(&self.metrics),
            kick: with.kick,
            interrupt: with.interrupt,
        }))
    }

    fn reset(&mut self) {
        self.written.store(0, Ordering::Relaxed);
    }
}

/// A console that a driver runs.
struct ConsoleWorker {
    /// Never looked at: there is no input.
    receive: Queue,
    transmit: Queue,
    /// Reused by every chain.
    chain: Chain,
    output: Output,
    /// Bytes of the next chain that were written already.
    written: usize,
    home: Arc<AtomicUsize>,
    /// Chains wait until the output says that there is room.
    is_full: bool,
    limiter: Limiter,
    tail: Arc<Tail>,
    metrics: Arc<ConsoleMetrics>,
    kick: EventFd,
    interrupt: Arc<dyn Interrupt>,
}

/// What became of the chain that was popped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// All of it is out, or lost and counted.
    All,
    /// The turn's bytes are used up.
    InPart,
    /// The output has no room, or the limit no bytes; an event tells when it has.
    InPartAndWaits,
}

impl Worker for ConsoleWorker {
    fn sources(&self) -> Vec<Source> {
        let kick = super::kick_source(&self.kick, KICK);
        let room = self.output.watched().map(|fd| Source {
            fd,
            token: ROOM,
            events: EventSet::OUT,
        });
        let limit = self.limiter.source(LIMIT);
        [Some(kick), room, limit].into_iter().flatten().collect()
    }

    fn on_event(&mut self, token: Token) -> Result<(), QueueError> {
        self.note(token);
        let worked = self.turn();
        if worked.is_err() {
            self.metrics.event_fails.increment();
        }
        worked
    }

    /// Nothing is in flight between two events; how far the next chain came stays with the device.
    fn stop(self: Box<Self>) -> Vec<Queue> {
        self.home.store(self.written, Ordering::Relaxed);
        self.limiter.stop();
        vec![self.receive, self.transmit]
    }
}

impl ConsoleWorker {
    /// Writes what is queued and the output takes, up to [`TURN`] and [`TURN_BYTES`], then tells the driver.
    fn turn(&mut self) -> Result<(), QueueError> {
        if self.is_full || !self.limiter.opens() {
            return Ok(());
        }
        self.transmit.disable_kicks()?;
        let (mut chains, mut bytes) = (0, 0);
        while let Some(done) = self.transmit.pop_or_wait(&mut self.chain)? {
            match self.write(&mut bytes) {
                Written::All => self.transmit.give_back(done, 0)?,
                Written::InPart => {
                    self.transmit.put_back(done);
                    super::kick_again(&self.kick);
                    break;
                }
                Written::InPartAndWaits => {
                    // Until the event kicks would say nothing new.
                    self.transmit.put_back(done);
                    break;
                }
            }
            chains += 1;
            if chains == TURN {
                super::kick_again(&self.kick);
                break;
            }
        }
        if self.transmit.needs_interrupt()? {
            self.interrupt.queue(TRANSMIT);
        }
        Ok(())
    }

    /// Takes note of an event.
    fn note(&mut self, token: Token) {
        match token {
            ROOM => self.is_full = false,
            LIMIT => {
                let is_news = self.limiter.is_shut();
                self.metrics.rate_limiter_event_count.add(is_news.into());
            }
            _ => self.metrics.queue_event_count.increment(),
        }
    }

    /// Writes the rest of the chain, as long as the turn's `bytes` are below [`TURN_BYTES`]. A chain has something to
    /// read, and nothing to write (virtio 1.2 §5.3.6).
    fn write(&mut self, bytes: &mut usize) -> Written {
        let Chain {
            readable, writable, ..
        } = &mut self.chain;
        if readable.is_empty() || !writable.is_empty() {
            self.metrics.tx_malformed.increment();
            self.written = 0;
            return Written::All;
        }
        // The driver may have made it shorter while it waited.
        readable.advance(self.written);
        while !readable.is_empty() {
            let left = TURN_BYTES.saturating_sub(*bytes);
            if left == 0 {
                return Written::InPart;
            }
            if !self.limiter.admits(left.min(readable.len()) as u64) {
                self.metrics.rate_limiter_throttled_events.increment();
                return Written::InPartAndWaits;
            }
            let mut last = [0; TAIL_BYTES];
            let skip = left.min(readable.len()).saturating_sub(TAIL_BYTES);
            let copied = readable.copy_to(skip, &mut last);
            match self.output.write(readable, left) {
                Ok(count) => {
                    let kept = copied.min(count.saturating_sub(skip));
                    let last = last.get(..kept).unwrap_or_default();
                    self.tail.push_last(count, last);
                    self.limiter.spend(count as u64);
                    *bytes = bytes.saturating_add(count);
                    self.written = self.written.saturating_add(count);
                    self.metrics.tx_bytes_count.add(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_full = true;
                    self.metrics.tx_full_count.increment();
                    return Written::InPartAndWaits;
                }
                Err(_) => {
                    self.metrics.tx_dropped_bytes.add(readable.len() as u64);
                    break;
                }
            }
        }
        self.metrics.tx_count.increment();
        self.written = 0;
        Written::All
    }
}

#[cfg(test)]
mod tests;
