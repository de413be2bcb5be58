//! What waits for what: flushes for the writes before them and for each other, requests for parts of blocks for the
//! writes that bring the blocks.

use std::io;

use super::{AsyncWorker, Pending, Work};
use crate::virtio::block::request::{Op, Range};

/// A flush that makes new bits of an overlay durable.
pub(super) struct Commit {
    slot: usize,
    /// The data is durable; the bits are being synced.
    is_written: bool,
}

impl AsyncWorker {
    /// The request covers a part of a block that the overlay lacks, and that a write in flight is about to bring.
    pub(super) fn must_wait(&self, op: Op) -> bool {
        let Some(overlay) = self.base.backend.overlay() else {
            return false;
        };
        let meets_write = |range: Range| {
            let edges = overlay.edges(range);
            edges.into_iter().any(|edge| self.is_written(edge))
        };
        match op {
            Op::Write { at } => meets_write(Range {
                at,
                len: self.base.chain.readable.len() as u64,
            }),
            Op::Discard | Op::WriteZeroes { .. } => {
                self.base.ranges.iter().copied().any(meets_write)
            }
            _ => false,
        }
    }

    /// A write to some of `block` is in flight.
    fn is_written(&self, block: Range) -> bool {
        let in_flight = self.slots.iter().filter_map(|slot| slot.pending.as_ref());
        in_flight.into_iter().any(|pending| match pending.work {
            Work::Write { range, .. } => range.meets(block),
            _ => false,
        })
    }

    /// Whether the flush in a slot may sync now: one commit is under way at a time, and what it commits is durable only
    /// when it ends.
    pub(super) fn may_sync(&mut self, index: usize) -> bool {
        if let Some(commit) = &self.commit {
            if commit.slot != index {
                self.behind.push(index);
            }
            return commit.slot == index;
        }
        let overlay = self.base.backend.overlay();
        if overlay.is_some_and(|overlay| overlay.stage()) {
            self.commit = Some(Commit {
                slot: index,
                is_written: false,
            });
        }
        true
    }

    /// How the flush in a slot ended; `None` when its second sync is to come.
    pub(super) fn synced(
        &mut self,
        index: usize,
        result: io::Result<()>,
    ) -> Option<io::Result<()>> {
        let Some(overlay) = self.base.backend.overlay() else {
            return Some(result);
        };
        let mut result = overlay.synced(result);
        let is_commit = |commit: &&mut Commit| commit.slot == index;
        let Some(commit) = self.commit.as_mut().filter(is_commit) else {
            return Some(result);
        };
        if result.is_ok() && commit.is_written {
            overlay.committed();
        } else if result.is_ok() {
            result = overlay.write_staged();
            if result.is_ok() {
                commit.is_written = true;
                return None;
            }
        }
        self.commit = None;
        Some(result)
    }

    /// Starts the flushes that waited for this write alone.
    pub(super) fn write_is_done(&mut self, write: u64) {
        for index in 0..self.slots.len() {
            if let Some(Pending {
                work:
                    Work::Flush {
                        sequence,
                        waits_for,
                    },
                ..
            }) = &mut self.slots[index].pending
                && *sequence > write
                && *waits_for > 0
            {
                *waits_for -= 1;
                if *waits_for == 0 {
                    self.start(index);
                }
            }
        }
    }

    /// Starts the flushes that waited for a commit, if none is under way; the first of them may be the next.
    pub(super) fn start_behind(&mut self) {
        if self.commit.is_some() {
            return;
        }
        for _ in 0..self.behind.len() {
            let index = self.behind.remove(0);
            self.start(index);
        }
    }
}
