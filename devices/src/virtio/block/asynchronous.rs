//! A running disk whose requests are done by the kernel side by side, through the microVM's io_uring.
//!
//! A request in flight has a slot, which owns its chain; slots are kept and reused. What needs no waiting for the
//! disk (GET_ID, a request that is refused) is done at once, as by the other worker.
//!
//! A flush is started when all writes that were taken up before it, from any queue, are done; writes after it do not
//! wait for it.
//!
//! With an overlay, a write of new blocks is in the kernel before its bits are set. A request that covers a part of
//! such a block would copy the rest of it from the base, so it waits in the queue until that write is done. A flush
//! with new bits is a commit of two syncs; other flushes wait behind it.

mod order;

use std::io::{self, ErrorKind};
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK};
use vm_memory::GuestAddress;
use vmm_sys_util::epoll::EventSet;

use order::Commit;

use super::request::{Op, Range, Request};
use super::stretch::Direction;
use super::worker::{BlockWorker, Served, TURN_BYTES};
use crate::sys::segments::Segments;
use crate::sys::uring::{Landed, Operation, Port};
use crate::virtio::chain::Chain;
use crate::virtio::queue::{Completion, Queue};
use crate::virtio::{QueueError, Source, Token, Worker};

const RING: Token = Token(2);

/// A disk that a driver runs.
pub(super) struct AsyncWorker {
    base: BlockWorker,
    port: Port,
    /// As many as the queue had heads in flight at once.
    slots: Vec<Slot>,
    /// Slots with no request.
    free: Vec<usize>,
    /// Slots whose next operation found no room in the ring.
    stalled: Vec<usize>,
    /// The overlay's commit under way.
    commit: Option<Commit>,
    /// Slots of flushes behind it.
    behind: Vec<usize>,
    /// Reused by every event.
    landed: Vec<Landed>,
    /// Counts writes and flushes in the driver's order.
    sequence: u64,
    /// When the turn began: one look at the clock for all requests that begin or end in it.
    now: Instant,
}

struct Slot {
    chain: Chain,
    pending: Option<Pending>,
}

/// A request in flight.
struct Pending {
    queue: usize,
    done: Completion,
    status: GuestAddress,
    /// Bytes of the chain's `writable` when it began.
    room: usize,
    work: Work,
    /// When the turn began that took it up.
    start: Instant,
}

#[derive(Clone, Copy)]
enum Work {
    Read {
        /// Where it goes on.
        at: u64,
    },
    Write {
        /// All of it.
        range: Range,
        /// Where it goes on.
        at: u64,
        sequence: u64,
    },
    Flush {
        sequence: u64,
        /// Writes before it that are not done.
        waits_for: usize,
    },
}

impl Work {
    fn direction(self) -> Option<Direction> {
        match self {
            Self::Read { .. } => Some(Direction::Read),
            Self::Write { .. } => Some(Direction::Write),
            Self::Flush { .. } => None,
        }
    }
}

impl AsyncWorker {
    pub(super) fn new(base: BlockWorker, port: Port) -> Self {
        Self {
            base,
            port,
            slots: Vec::new(),
            free: Vec::new(),
            stalled: Vec::new(),
            commit: None,
            behind: Vec::new(),
            landed: Vec::new(),
            sequence: 0,
            now: Instant::now(),
        }
    }

    fn turn(&mut self) -> Result<(), QueueError> {
        self.now = Instant::now();
        self.land_all()?;
        self.go_on();
        if self.base.limiter.opens() {
            self.take_up()?;
        }
        if self.port.submit().is_err() {
            // The kernel is short of memory; what is queued stays so.
            crate::virtio::kick_again(&self.base.kick);
        }
        self.base.tell()
    }

    /// Starts what is queued and may pass, as much as a turn has.
    fn take_up(&mut self) -> Result<(), QueueError> {
        let mut turn = self.base.begin_turn()?;
        while let Some((queue, done)) = self.base.pop(&mut turn)? {
            match self.begin(queue, done)? {
                Served::Done { cost } => turn.bytes = turn.bytes.saturating_add(cost),
                Served::Waits => return Ok(()),
            }
        }
        Ok(())
    }

    /// Starts the request in the base's chain, or does it at once.
    fn begin(&mut self, queue: usize, done: Completion) -> Result<Served, QueueError> {
        let cost = self.base.chain.readable.len() + self.base.chain.writable.len();
        let request = match self.base.parse() {
            Ok(request) => request,
            Err(malformed) => {
                let len = self.base.refuse(malformed);
                self.base.queues[queue].give_back(done, len)?;
                return Ok(Served::Done { cost });
            }
        };
        let bytes = self.base.cost(request.op);
        if !self.base.limiter.admits(bytes) {
            self.base.metrics.rate_limiter_throttled_events.increment();
            self.base.queues[queue].put_back(done);
            return Ok(Served::Waits);
        }
        if self.must_wait(request.op) {
            self.base.queues[queue].put_back(done);
            return Ok(Served::Waits);
        }
        let Some(work) = self.work(request) else {
            self.base.limiter.spend(bytes);
            let is_quick = matches!(request.op, Op::GetId | Op::Unsupported);
            let len = self.base.execute(request);
            self.base.queues[queue].give_back(done, len)?;
            let cost = if is_quick { cost } else { TURN_BYTES };
            return Ok(Served::Done { cost });
        };
        // Behind what found no room there is none either.
        if !self.stalled.is_empty() {
            self.base.metrics.io_engine_throttled_events.increment();
            self.base.queues[queue].put_back(done);
            return Ok(Served::Waits);
        }
        self.base.limiter.spend(bytes);
        self.base.count(request.op);
        let index = self.free_slot();
        let slot = &mut self.slots[index];
        mem::swap(&mut self.base.chain, &mut slot.chain);
        slot.pending = Some(Pending {
            queue,
            done,
            status: request.status,
            room: slot.chain.writable.len(),
            work,
            start: self.now,
        });
        self.start(index);
        Ok(Served::Done { cost })
    }

    /// What the kernel is to do for a request; `None` for one that is done at once.
    fn work(&mut self, request: Request) -> Option<Work> {
        let chain = &self.base.chain;
        match request.op {
            Op::Read { at } if !chain.writable.is_empty() => Some(Work::Read { at }),
            Op::Write { at } if !chain.readable.is_empty() => {
                let range = Range {
                    at,
                    len: chain.readable.len() as u64,
                };
                if let Some(overlay) = self.base.backend.overlay() {
                    let copied = overlay.copy_edges(range);
                    self.base.count_copies();
                    // Then it fails again, and that is answered.
                    copied.ok()?;
                }
                let sequence = self.next_sequence();
                Some(Work::Write {
                    range,
                    at,
                    sequence,
                })
            }
            Op::Flush => {
                let is_write = |slot: &&Slot| {
                    let work = slot.pending.as_ref().map(|pending| pending.work);
                    matches!(work, Some(Work::Write { .. }))
                };
                let waits_for = self.slots.iter().filter(is_write).count();
                let sequence = self.next_sequence();
                Some(Work::Flush {
                    sequence,
                    waits_for,
                })
            }
            _ => None,
        }
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn free_slot(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                chain: Chain::new(&self.base.memory),
                pending: None,
            });
            self.slots.len() - 1
        })
    }

    /// Queues the next operation of a slot, or notes that there was no room.
    fn start(&mut self, index: usize) {
        let slot = &self.slots[index];
        let Some(work) = slot.pending.as_ref().map(|pending| pending.work) else {
            return;
        };
        let backend = Arc::clone(&self.base.backend);
        let place = match work {
            Work::Read { at } => backend.read_place(at, slot.chain.writable.len()),
            Work::Write { at, .. } => backend.write_place(at),
            Work::Flush { waits_for: 0, .. } if self.may_sync(index) => backend.write_place(0),
            Work::Flush { .. } => return,
        };
        let empty = Segments::new(Arc::clone(&self.base.memory));
        let chain = &mut self.slots[index].chain;
        let operation = match work {
            Work::Read { .. } => Operation::Read(
                mem::replace(&mut chain.writable, empty),
                place.at,
                place.len,
            ),
            Work::Write { .. } => Operation::Write(
                mem::replace(&mut chain.readable, empty),
                place.at,
                place.len,
            ),
            Work::Flush { .. } => Operation::Sync,
        };
        match self.port.start(place.file, operation, index) {
            Ok(()) => return,
            Err(Operation::Read(segments, ..)) => chain.writable = segments,
            Err(Operation::Write(segments, ..)) => chain.readable = segments,
            Err(Operation::Sync) => {}
        }
        self.base.metrics.io_engine_throttled_events.increment();
        self.stalled.push(index);
    }

    /// Starts what found no room before.
    fn go_on(&mut self) {
        for _ in 0..self.stalled.len() {
            if let Some(index) = self.stalled.pop() {
                let before = self.stalled.len();
                self.start(index);
                if self.stalled.len() > before {
                    return;
                }
            }
        }
    }

    /// Sees to all operations that are done; each of them, even when the driver broke the rings.
    fn land_all(&mut self) -> Result<(), QueueError> {
        let mut landed = mem::take(&mut self.landed);
        self.port.take(&mut landed);
        let mut outcome = Ok(());
        for one in landed.drain(..) {
            let result = self.land(one);
            outcome = outcome.and(result);
        }
        self.landed = landed;
        outcome
    }

    fn land(&mut self, landed: Landed) -> Result<(), QueueError> {
        let index = landed.tag;
        let Some(slot) = self.slots.get_mut(index) else {
            return Ok(());
        };
        let Some(mut pending) = slot.pending.take() else {
            return Ok(());
        };
        let list = match pending.work {
            Work::Read { .. } => &mut slot.chain.writable,
            Work::Write { .. } | Work::Flush { .. } => &mut slot.chain.readable,
        };
        if let Some(segments) = landed.segments {
            *list = segments;
        }
        let result = match (&mut pending.work, landed.result) {
            (_, Err(error)) if is_transient(&error) => {
                slot.pending = Some(pending);
                self.start(index);
                return Ok(());
            }
            (Work::Flush { .. }, result) => match self.synced(index, result.map(drop)) {
                Some(result) => result,
                None => {
                    self.slots[index].pending = Some(pending);
                    self.start(index);
                    return Ok(());
                }
            },
            (_, Ok(0)) => Err(ErrorKind::UnexpectedEof.into()),
            (Work::Read { at } | Work::Write { at, .. }, Ok(count)) => {
                list.advance(count);
                *at = at.saturating_add(count as u64);
                if !list.is_empty() {
                    slot.pending = Some(pending);
                    self.start(index);
                    return Ok(());
                }
                match (pending.work, self.base.backend.overlay()) {
                    (Work::Write { range, .. }, Some(overlay)) => overlay.wrote(range),
                    _ => Ok(()),
                }
            }
            (_, Err(error)) => Err(error),
        };
        self.finish(index, pending, &result)
    }

    /// Answers a request and gives its head back.
    fn finish(
        &mut self,
        index: usize,
        pending: Pending,
        result: &io::Result<()>,
    ) -> Result<(), QueueError> {
        let status = if result.is_ok() {
            VIRTIO_BLK_S_OK
        } else {
            self.base.metrics.execute_fails.increment();
            VIRTIO_BLK_S_IOERR
        };
        if let Some(direction) = pending.work.direction() {
            let latency = direction.latency(&self.base.metrics);
            latency.record(self.now.saturating_duration_since(pending.start));
        }
        let chain = &mut self.slots[index].chain;
        mem::swap(&mut self.base.chain, chain);
        let moved = pending.room.saturating_sub(self.base.chain.writable.len());
        let len = self.base.answer(pending.status, status, moved);
        mem::swap(&mut self.base.chain, &mut self.slots[index].chain);
        self.free.push(index);
        match pending.work {
            Work::Read { .. } => {}
            Work::Write { sequence, .. } => self.write_is_done(sequence),
            Work::Flush { .. } => self.start_behind(),
        }
        self.base.queues[pending.queue].give_back(pending.done, len)
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

impl Worker for AsyncWorker {
    fn sources(&self) -> Vec<Source> {
        let mut sources = self.base.sources();
        sources.push(Source {
            fd: self.port.event(),
            token: RING,
            events: EventSet::IN,
        });
        sources
    }

    fn on_event(&mut self, token: Token) -> Result<(), QueueError> {
        if token != RING {
            self.base.note(token);
        }
        let worked = self.turn();
        if worked.is_err() {
            self.base.metrics.event_fails.increment();
        }
        worked
    }

    /// Waits for what is in flight: its heads go back to the driver, each once.
    fn stop(mut self: Box<Self>) -> Vec<Queue> {
        while self.in_flight() > 0 {
            self.go_on();
            if let Err(error) = self.port.wait() {
                tracing::error!("a disk's requests are lost: io_uring does not answer: {error}");
                break;
            }
            self.now = Instant::now();
            // Rings that make no sense are the driver's loss, and were reported when they were found.
            let _ = self.land_all();
        }
        let _ = self.base.tell();
        self.base.give_up()
    }
}

/// The kernel asks for another try.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests;
