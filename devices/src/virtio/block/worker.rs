//! A running disk whose requests are done one after the other.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

use super::backend::Backend;
use super::file::SERIAL_LEN;
use super::request::{Disk, Malformed, Op, Range, Request, parse};
use super::stretch::Stretch;
use crate::GuestMemory;
use crate::limiter::Limiter;
use crate::metrics::BlockMetrics;
use crate::virtio::chain::Chain;
use crate::virtio::queue::{Completion, Queue};
use crate::virtio::{Interrupt, QueueError, Source, Token, Worker, kick_again, kick_source};

/// Requests done in one turn, before the neighbours on the loop get theirs.
pub(super) const TURN: usize = 64;

/// Bytes moved in one turn, about; a request is not cut. A flush takes a whole turn: the host may take its time.
pub(super) const TURN_BYTES: usize = 8 << 20;

/// Requests of one queue, before the next gets its share of the turn.
const SHARE: usize = 8;

const KICK: Token = Token(0);
const LIMIT: Token = Token(1);

/// What is left of a turn.
#[derive(Debug)]
pub(super) struct Turn {
    /// Requests so far.
    pub(super) requests: usize,
    /// Bytes so far, and what counts as such.
    pub(super) bytes: usize,
    /// What the queue at hand may still have.
    share: usize,
    /// Queues in a row that have nothing.
    empty: usize,
}

/// A disk that a driver runs.
pub(super) struct BlockWorker {
    pub(super) queues: Vec<Queue>,
    /// The queue that is looked at next.
    pub(super) first: usize,
    /// Reused by every request.
    pub(super) chain: Chain,
    /// Reused by every request that names ranges.
    pub(super) ranges: Vec<Range>,
    pub(super) disk: Disk,
    pub(super) serial: [u8; SERIAL_LEN],
    pub(super) limiter: Limiter,
    pub(super) backend: Arc<Backend>,
    pub(super) metrics: Arc<BlockMetrics>,
    pub(super) stretch: Stretch,
    pub(super) memory: Arc<GuestMemory>,
    pub(super) kick: EventFd,
    pub(super) interrupt: Arc<dyn Interrupt>,
}

impl Worker for BlockWorker {
    fn sources(&self) -> Vec<Source> {
        let kick = kick_source(&self.kick, KICK);
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
pub(super) enum Served {
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
        let mut turn = self.begin_turn()?;
        while let Some((queue, done)) = self.pop(&mut turn)? {
            match self.serve(queue, done)? {
                Served::Done { cost } => turn.bytes = turn.bytes.saturating_add(cost),
                Served::Waits => {
                    // Its timer is the next event; until then kicks would say nothing new.
                    self.metrics.rate_limiter_throttled_events.increment();
                    break;
                }
            }
        }
        self.stretch.end(&self.metrics);
        if turn.requests == 0 {
            self.metrics.no_avail_buffer.increment();
        }
        self.tell()
    }

    /// Begins a turn over all queues.
    pub(super) fn begin_turn(&mut self) -> Result<Turn, QueueError> {
        self.queues.iter_mut().try_for_each(Queue::disable_kicks)?;
        self.stretch.forget();
        Ok(Turn {
            requests: 0,
            bytes: 0,
            share: SHARE,
            empty: 0,
        })
    }

    /// Takes the next head into `chain`, and says of which queue it is. `None` at the end of the turn: then there are no
    /// more, and each queue's driver kicks for the next; or the turn was used up, and another comes.
    pub(super) fn pop(
        &mut self,
        turn: &mut Turn,
    ) -> Result<Option<(usize, Completion)>, QueueError> {
        while turn.empty < self.queues.len() {
            if turn.requests >= TURN || turn.bytes >= TURN_BYTES {
                self.metrics.remaining_reqs_count.increment();
                kick_again(&self.kick);
                self.first = (self.first + 1) % self.queues.len();
                return Ok(None);
            }
            let index = self.first;
            let queue = &mut self.queues[index];
            if turn.share > 0 {
                if let Some(done) = queue.pop_or_wait(&mut self.chain)? {
                    turn.share -= 1;
                    turn.requests += 1;
                    turn.empty = 0;
                    return Ok(Some((index, done)));
                }
                turn.empty += 1;
            }
            turn.share = SHARE;
            self.first = (index + 1) % self.queues.len();
        }
        Ok(None)
    }

    /// Interrupts the driver for each queue that it wants to hear of.
    pub(super) fn tell(&mut self) -> Result<(), QueueError> {
        for (index, queue) in (0..).zip(&mut self.queues) {
            if queue.needs_interrupt()? {
                self.interrupt.queue(index);
            }
        }
        Ok(())
    }

    /// Does the request in `chain` and gives its head back, if its rate limit lets it pass.
    fn serve(&mut self, queue: usize, done: Completion) -> Result<Served, QueueError> {
        let mut cost = self.chain.readable.len() + self.chain.writable.len();
        let len = match self.parse() {
            Ok(request) => {
                let bytes = self.cost(request.op);
                if !self.limiter.admits(bytes) {
                    self.queues[queue].put_back(done);
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
        self.queues[queue].give_back(done, len)?;
        Ok(Served::Done { cost })
    }

    /// Counts an event.
    pub(super) fn note(&self, token: Token) {
        if token == LIMIT {
            let is_news = self.limiter.is_shut();
            self.metrics.rate_limiter_event_count.add(is_news.into());
        } else {
            self.metrics.queue_event_count.increment();
        }
    }

    pub(super) fn give_up(self) -> Vec<Queue> {
        self.limiter.stop();
        self.queues
    }

    pub(super) fn parse(&mut self) -> Result<Request, Malformed> {
        parse(&mut self.chain, self.disk, &mut self.ranges)
    }

    /// Counts and answers a request that broke a rule.
    pub(super) fn refuse(&self, malformed: Malformed) -> u32 {
        self.metrics.invalid_reqs_count.increment();
        let status = malformed.status;
        status.map_or(0, |status| self.answer(status, VIRTIO_BLK_S_IOERR, 0))
    }

    /// What the request in `chain` costs of a bandwidth, bytes.
    pub(super) fn cost(&self, op: Op) -> u64 {
        match op {
            Op::Read { .. } => self.chain.writable.len() as u64,
            Op::Write { .. } => self.chain.readable.len() as u64,
            Op::WriteZeroes { may_unmap: false } => self.ranges.iter().map(|r| r.len).sum(),
            Op::WriteZeroes { .. } | Op::Discard | Op::Flush | Op::GetId | Op::Unsupported => 0,
        }
    }

    /// Counts the request in `chain`.
    pub(super) fn count(&self, op: Op) {
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
    pub(super) fn count_copies(&self) {
        if let Some(overlay) = self.backend.overlay() {
            self.metrics
                .overlay_copied_blocks
                .add(overlay.take_copied());
        }
    }

    /// Does a request and answers it. Returns the bytes written from the start of its writable buffers.
    pub(super) fn execute(&mut self, request: Request) -> u32 {
        self.count(request.op);
        self.stretch.next(request.op, &self.metrics);
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
    pub(super) fn answer(&self, at: GuestAddress, status: u32, moved: usize) -> u32 {
        let [status, ..] = status.to_le_bytes();
        // The address was checked when the chain was popped, and one that was unplugged since is nobody's.
        if let Ok(place) = self.memory.get_slice(at, 1) {
            let _ = place.store(status, 0, Ordering::Relaxed);
        }
        let is_all_written = self.chain.writable.is_empty();
        let len = moved.saturating_add(usize::from(is_all_written));
        u32::try_from(len).unwrap_or(u32::MAX)
    }
}

/// Does `work` on one range after the other.
fn each_range(ranges: &[Range], work: impl FnMut(Range) -> io::Result<()>) -> io::Result<()> {
    ranges.iter().copied().try_for_each(work)
}
