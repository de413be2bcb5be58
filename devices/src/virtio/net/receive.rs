//! From the tap, and from the metadata service, to the driver (virtio 1.2 §5.1.6.3, §5.1.6.4).
//!
//! Buffers are popped ahead of frames, until the longest frame fits; a frame is then read straight into them,
//! and those it filled are given back together.

use std::collections::VecDeque;
use std::io;

use super::frame::{HEADER_LEN, NUM_BUFFERS_AT};
use super::metadata::Branch;
use super::tap::Tap;
use crate::limiter::Limiter;
use crate::metrics::NetMetrics;
use crate::virtio::QueueError;
use crate::virtio::chain::Chain;
use crate::virtio::queue::{Completion, Queue};

/// The receive queue.
pub(super) struct Receiver {
    queue: Queue,
    /// Room for the longest frame.
    needed: usize,
    /// A frame may fill several chains.
    is_mergeable: bool,
    /// Buffers that wait for frames: those of `held`, in order, in `writable`.
    chain: Chain,
    held: VecDeque<Held>,
    /// How many of `held`, from the front, were popped before a head that was refused: these cannot be put back.
    before_refused: usize,
    /// The tap may have a frame.
    has_frames: bool,
    /// The driver once offered room for the longest frame. Then it is waited for: the tap keeps frames
    /// meanwhile. A driver that never did gets what fits.
    is_roomy: bool,
}

struct Held {
    done: Completion,
    len: usize,
}

/// Why a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing more to do until an event.
    Idle,
    /// More to do in the next turn.
    More,
}

/// What buffers there are for the next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// It can be read.
    Enough,
    /// It has to wait for more, and the driver has been asked to kick.
    Lacking,
    /// A buffer that broke a rule was given back, or the driver added one just now: to be looked at again. It costs as
    /// much of the turn as a frame: a driver can offer bad buffers as fast as they are refused.
    Unsettled,
}

impl Receiver {
    pub(super) fn new(queue: Queue, needed: usize, is_mergeable: bool) -> Self {
        Self {
            chain: queue.new_chain(),
            held: VecDeque::new(),
            before_refused: 0,
            queue,
            needed,
            is_mergeable,
            has_frames: true,
            is_roomy: false,
        }
    }

    /// The tap has frames.
    pub(super) fn wake(&mut self) {
        self.has_frames = true;
    }

    /// Waiting buffers return to the driver's side of the ring. Those before a head that has gone back already cannot,
    /// and go back empty: only a driver that broke a rule loses a buffer by it.
    pub(super) fn stop(mut self) -> Queue {
        while self.held.len() > self.before_refused
            && let Some(held) = self.held.pop_back()
        {
            self.queue.put_back(held.done);
        }
        for held in self.held {
            // Fails only when the ring is no longer memory, and then no driver can see it.
            let _ = self.queue.give_back(held.done, 0);
        }
        self.queue
    }

    pub(super) fn needs_interrupt(&mut self) -> Result<bool, QueueError> {
        self.queue.needs_interrupt()
    }

    /// Receives what the tap has, the driver has room for and `limiter` admits, up to `most` frames, refused buffers
    /// included.
    pub(super) fn turn(
        &mut self,
        tap: &Tap,
        limiter: &mut Limiter,
        metrics: &NetMetrics,
        most: usize,
    ) -> Result<Turn, QueueError> {
        if !self.has_frames || !limiter.opens() {
            return Ok(Turn::Idle);
        }
        self.queue.disable_kicks()?;
        metrics.rx_count.increment();
        for _ in 0..most {
            match self.refill(metrics)? {
                Room::Enough => {}
                Room::Lacking => return Ok(Turn::Idle),
                Room::Unsettled => continue,
            }
            // A frame's length is not known before it is read: it passes when one byte may, and owes the rest.
            if limiter.is_short_of(1) && !tap.has_frame() {
                self.has_frames = false;
                return Ok(Turn::Idle);
            }
            if !limiter.admits(1) {
                metrics.rx_rate_limiter_throttled.increment();
                return Ok(Turn::Idle);
            }
            if !self.receive(tap, limiter, metrics)? {
                return Ok(Turn::Idle);
            }
        }
        Ok(Turn::More)
    }

    /// Gives the driver what `from` has for it, as far as there is room and `limiter` admits, up to `most` frames.
    pub(super) fn deliver(
        &mut self,
        from: &mut Branch,
        limiter: &mut Limiter,
        metrics: &NetMetrics,
        most: usize,
    ) -> Result<Turn, QueueError> {
        if !from.has_frame() || !limiter.opens() {
            return Ok(Turn::Idle);
        }
        // Kicks stay as they are: frames of the tap may wait for one.
        for _ in 0..most {
            match self.refill(metrics)? {
                Room::Enough => {}
                Room::Lacking => return Ok(Turn::Idle),
                Room::Unsettled => continue,
            }
            if !from.has_frame() {
                return Ok(Turn::Idle);
            }
            if !limiter.admits(1) {
                metrics.rx_rate_limiter_throttled.increment();
                return Ok(Turn::Idle);
            }
            let Some(frame) = from.next_frame() else {
                return Ok(Turn::Idle);
            };
            let into = &self.chain.writable;
            let len = HEADER_LEN + frame.len();
            if len > into.len() {
                // As a frame of the tap that is too long. This one is sent again.
                metrics.rx_fails.increment();
                from.lost_frame();
                continue;
            }
            // Nothing is left to finish: a header of zeros (virtio 1.2 §5.1.6.4.1).
            into.copy_from(0, &[0; HEADER_LEN]);
            into.copy_from(HEADER_LEN, frame);
            self.count(len, limiter, metrics);
            self.give_back(len)?;
        }
        Ok(Turn::More)
    }

    /// Counts a frame that the driver gets.
    fn count(&self, len: usize, limiter: &mut Limiter, metrics: &NetMetrics) {
        limiter.spend(len as u64);
        metrics.rx_packets_count.increment();
        metrics.rx_bytes_count.add(len as u64);
    }

    /// Pops buffers until the longest frame fits, or asks for a kick.
    fn refill(&mut self, metrics: &NetMetrics) -> Result<Room, QueueError> {
        while self.wants_more() {
            let before = self.chain.writable.len();
            let Some(done) = self.queue.pop_more(&mut self.chain)? else {
                break;
            };
            // A driver has nothing to say here.
            self.chain.readable.clear();
            let len = self.chain.writable.len() - before;
            if len > 0 {
                self.held.push_back(Held { done, len });
            } else {
                metrics.rx_fails.increment();
                self.queue.give_back(done, 0)?;
                self.before_refused = self.held.len();
                return Ok(Room::Unsettled);
            }
        }
        let fits = self.chain.writable.len() >= self.needed;
        self.is_roomy |= fits;
        let one_is_enough = !self.is_roomy || !self.is_mergeable;
        if fits || (one_is_enough && !self.held.is_empty()) {
            return Ok(Room::Enough);
        }
        // The driver may have added buffers before it saw that they are wanted.
        if self.queue.enable_kicks()? {
            return Ok(Room::Unsettled);
        }
        metrics.no_rx_avail_buffer.increment();
        Ok(Room::Lacking)
    }

    fn wants_more(&self) -> bool {
        if self.is_mergeable {
            self.chain.writable.len() < self.needed
        } else {
            self.held.is_empty()
        }
    }

    /// Receives one frame, or loses it. False when the tap has none.
    fn receive(
        &mut self,
        tap: &Tap,
        limiter: &mut Limiter,
        metrics: &NetMetrics,
    ) -> Result<bool, QueueError> {
        let room = self.chain.writable.len();
        // One byte more than there is room for tells a frame that fits from one that is cut.
        let len = match tap.receive(&mut self.chain.writable, &mut [0]) {
            Ok(len) => len,
            Err(error) => {
                // EINVAL costs one frame, whose header the tap cannot hand over; the next may be sound.
                self.has_frames = error.kind() == io::ErrorKind::InvalidInput;
                if error.kind() != io::ErrorKind::WouldBlock {
                    metrics.tap_read_fails.increment();
                }
                return Ok(self.has_frames);
            }
        };
        if len > room {
            metrics.rx_fails.increment();
            return Ok(true);
        }
        self.count(len, limiter, metrics);
        self.give_back(len)?;
        Ok(true)
    }

    /// Gives back the chains that a frame of `len` bytes filled, all at once: a driver that sees the first
    /// takes the others to be there (virtio 1.2 §5.1.6.4).
    fn give_back(&mut self, len: usize) -> Result<(), QueueError> {
        let (mut filled, mut room) = (0usize, 0usize);
        for held in &self.held {
            if filled > 0 && room >= len {
                break;
            }
            filled += 1;
            room = room.saturating_add(held.len);
        }
        // The tap leaves this field as it was; without mergeable buffers it is 1 (virtio 1.2 §5.1.6.4.1).
        let num_buffers = u16::try_from(filled).unwrap_or(u16::MAX);
        let header = &self.chain.writable;
        header.copy_from(NUM_BUFFERS_AT, &num_buffers.to_le_bytes());
        self.chain.writable.advance(room);
        self.before_refused = self.before_refused.saturating_sub(filled);
        let mut left = len;
        let all = self.held.drain(..filled).map(|held| {
            let part = left.min(held.len);
            left = left.saturating_sub(part);
            (held.done, u32::try_from(part).unwrap_or(u32::MAX))
        });
        self.queue.give_back_all(all)
    }
}
