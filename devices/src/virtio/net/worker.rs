//! A network interface that a driver runs: pairs of queues, each with its queue of the tap, and the control queue.
//!
//! ```text
//!  receiveq1, transmitq1, ... receiveqN, transmitqN, controlq      (virtio 1.2 §5.1.2)
//! ```
//!
//! N is 1 unless the driver accepted VIRTIO_NET_F_MQ; queues behind the control queue do not exist for it then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use virtio_bindings::virtio_net as bit;
use vmm_sys_util::eventfd::EventFd;

use super::control::Control;
use super::features::has;
use super::metadata::Branch;
use super::receive::{Receiver, Turn};
use super::taps::Taps;
use super::transmit::Transmitter;
use crate::limiter::Limiter;
use crate::metrics::NetMetrics;
use crate::virtio::queue::Queue;
use crate::virtio::{Interrupt, QueueError, Source, Token, Worker};

pub(super) const KICK: Token = Token(0);
pub(super) const TAP: Token = Token(1);
pub(super) const RECEIVE_LIMIT: Token = Token(2);
pub(super) const TRANSMIT_LIMIT: Token = Token(3);
pub(super) const METADATA: Token = Token(4);

/// Frames received in one turn by all queues together, refused buffers included.
const RECEIVE_TURN: usize = 64;
/// Frames sent in one turn by all queues together.
const TRANSMIT_TURN: usize = 128;
/// What each pair gets of a turn at least.
const SMALLEST_TURN: usize = 8;
/// Frames of the metadata service received at a time.
const METADATA_TURN: usize = 16;

/// A running interface.
pub(super) struct NetWorker {
    pub(super) pairs: Vec<Pair>,
    pub(super) control: Option<Control>,
    /// Queues that do not exist for this driver.
    pub(super) unused: Vec<Queue>,
    pub(super) taps: Taps,
    /// The metadata service, if this interface has it.
    pub(super) metadata: Option<Branch>,
    /// Which pair comes first, so that none is served only after its limits are used up.
    pub(super) first: usize,
    pub(super) receive_limiter: Limiter,
    pub(super) transmit_limiter: Limiter,
    /// Pairs in use, where the next worker finds it.
    pub(super) used_pairs: Arc<AtomicU16>,
    pub(super) metrics: Arc<NetMetrics>,
    pub(super) kick: EventFd,
    pub(super) interrupt: Arc<dyn Interrupt>,
}

/// One receive queue and one transmit queue.
pub(super) struct Pair {
    pub(super) receiver: Receiver,
    pub(super) transmitter: Transmitter,
    /// Of the receive queue; the transmit queue has the next.
    index: u16,
}

/// A driver's queues by their use.
pub(super) struct Queues {
    /// Receive and transmit.
    pub(super) pairs: Vec<(Queue, Queue)>,
    pub(super) control: Option<Queue>,
    pub(super) unused: Vec<Queue>,
}

impl Queues {
    /// Sorts `queues` as a driver sees them that accepted `features`.
    pub(super) fn of(queues: Vec<Queue>, features: u64) -> Self {
        let has_control = has(features, bit::VIRTIO_NET_F_CTRL_VQ);
        let count = if has_control && has(features, bit::VIRTIO_NET_F_MQ) {
            queues.len() / 2
        } else {
            1
        };
        let mut queues = queues.into_iter();
        let pair = |_| queues.next().zip(queues.next());
        let pairs = (0..count).map_while(pair).collect();
        Self {
            pairs,
            control: has_control.then(|| queues.next()).flatten(),
            unused: queues.collect(),
        }
    }
}

impl Pair {
    pub(super) fn new(index: u16, receiver: Receiver, transmitter: Transmitter) -> Self {
        Self {
            receiver,
            transmitter,
            index,
        }
    }

    fn wake(&mut self) {
        self.receiver.wake();
        self.transmitter.wake();
    }
}

impl Worker for NetWorker {
    fn sources(&self) -> Vec<Source> {
        let kick = crate::virtio::kick_source(&self.kick, KICK);
        let mut sources = vec![kick, self.taps.source(TAP)];
        sources.extend(self.receive_limiter.source(RECEIVE_LIMIT));
        sources.extend(self.transmit_limiter.source(TRANSMIT_LIMIT));
        sources.extend(self.metadata.as_ref().map(|branch| branch.source(METADATA)));
        sources
    }

    fn on_event(&mut self, token: Token) -> Result<(), QueueError> {
        let metrics = &self.metrics;
        match token {
            TAP => {
                metrics.rx_tap_event_count.increment();
                let pairs = &mut self.pairs;
                self.taps.take_ready(|index| {
                    if let Some(pair) = pairs.get_mut(index) {
                        pair.wake();
                    }
                });
            }
            RECEIVE_LIMIT => {
                let is_news = self.receive_limiter.is_shut();
                metrics.rx_event_rate_limiter_count.add(is_news.into());
            }
            TRANSMIT_LIMIT => {
                let is_news = self.transmit_limiter.is_shut();
                metrics.tx_rate_limiter_event_count.add(is_news.into());
            }
            METADATA => {
                if let Some(branch) = &mut self.metadata {
                    branch.on_time();
                }
            }
            _ => {
                metrics.rx_queue_event_count.increment();
                metrics.tx_queue_event_count.increment();
            }
        }
        let worked = self.turn();
        if worked.is_err() {
            self.metrics.event_fails.increment();
        }
        worked
    }

    fn stop(self: Box<Self>) -> Vec<Queue> {
        self.receive_limiter.stop();
        self.transmit_limiter.stop();
        if let Some(branch) = self.metadata {
            branch.stop();
        }
        let pairs = self.pairs.into_iter();
        let queues = pairs.flat_map(|pair| [pair.receiver.stop(), pair.transmitter.stop()]);
        let control = self.control.map(Control::stop);
        queues.chain(control).chain(self.unused).collect()
    }
}

impl NetWorker {
    fn turn(&mut self) -> Result<(), QueueError> {
        let mut outcome = self.obey()?;
        if self.metadata.as_mut().is_some_and(Branch::goes_first) {
            self.deliver()?;
        }
        // A driver without MQ has one pair, whatever another one used.
        let used = self.taps.used().min(self.pairs.len()).max(1);
        self.first = (self.first + 1) % used;
        for position in 0..used {
            if self.serve((self.first + position) % used, used)? == Turn::More {
                outcome = Turn::More;
            }
        }
        if self.metadata.is_some() && self.deliver()? == Turn::More {
            outcome = Turn::More;
        }
        if outcome == Turn::More {
            crate::virtio::kick_again(&self.kick);
        }
        Ok(())
    }

    /// Gives the guest what the metadata service has for it, by the first receive queue.
    fn deliver(&mut self) -> Result<Turn, QueueError> {
        let (Some(branch), Some(pair)) = (&mut self.metadata, self.pairs.first_mut()) else {
            return Ok(Turn::Idle);
        };
        let had_frames = branch.has_frame();
        let limiter = &mut self.receive_limiter;
        let delivered = pair
            .receiver
            .deliver(branch, limiter, &self.metrics, METADATA_TURN)?;
        branch.set_timer();
        if had_frames && pair.receiver.needs_interrupt()? {
            self.interrupt.queue(pair.index);
        }
        Ok(delivered)
    }

    /// Does what one command asks: the host takes its time to take queues out of use.
    fn obey(&mut self) -> Result<Turn, QueueError> {
        let Some(control) = &mut self.control else {
            return Ok(Turn::Idle);
        };
        let Some(command) = control.next()? else {
            return Ok(Turn::Idle);
        };
        // A driver without MQ has one pair, and no command for it.
        let wanted = command
            .pairs
            .filter(|count| (1..=self.pairs.len()).contains(&usize::from(*count)));
        let is_done = wanted.is_some_and(|count| self.taps.set_used(count.into()).is_ok());
        if let Some(count) = wanted.filter(|_| is_done) {
            self.used_pairs.store(count, Ordering::Relaxed);
            self.pairs.iter_mut().for_each(Pair::wake);
        }
        if control.answer(command, is_done)? {
            let index = u16::try_from(2 * self.pairs.len()).unwrap_or(u16::MAX);
            self.interrupt.queue(index);
        }
        Ok(Turn::More)
    }

    /// Serves one of `used` pairs.
    fn serve(&mut self, index: usize, used: usize) -> Result<Turn, QueueError> {
        let share = |turn: usize| (turn / used).max(SMALLEST_TURN);
        let (metrics, tap) = (&self.metrics, self.taps.queue(index));
        let Some(pair) = self.pairs.get_mut(index) else {
            return Ok(Turn::Idle);
        };
        let limiter = &mut self.transmit_limiter;
        let metadata = self.metadata.as_mut();
        let (before, start) = (metrics.tx_packets_count.get(), Instant::now());
        let sent = pair
            .transmitter
            .turn(tap, metadata, limiter, metrics, share(TRANSMIT_TURN))?;
        // One look at the clock for all frames of a turn; one each would cost as much as the rest of the counting.
        let frames = metrics.tx_packets_count.get().saturating_sub(before);
        if frames > 0 {
            let latency = &metrics.tap_write_agg;
            latency.record_many(start.elapsed(), frames);
        }
        if pair.transmitter.needs_interrupt()? {
            self.interrupt.queue(pair.index + 1);
        }
        let limiter = &mut self.receive_limiter;
        let received = pair
            .receiver
            .turn(tap, limiter, metrics, share(RECEIVE_TURN))?;
        if pair.receiver.needs_interrupt()? {
            self.interrupt.queue(pair.index);
        }
        let is_idle = sent == Turn::Idle && received == Turn::Idle;
        Ok(if is_idle { Turn::Idle } else { Turn::More })
    }
}
