//! The region of a memory device: which requests it grants (virtio 1.2 §5.15.6). Knows no descriptor.

#![deny(clippy::arithmetic_side_effects)]

use std::io;
use std::ops::Range;
use std::sync::Arc;

use vm_memory::GuestAddress;

use super::request::{BlockState, Named, Request, Response};
use crate::memory::Blocks;
use crate::metrics::MemMetrics;

/// Where the memory of blocks comes from and goes to. Ranges are bytes in the region, whole blocks.
pub trait BlockSource: Send {
    /// Gives the guest the memory of `range`, none of which it has.
    ///
    /// # Errors
    /// The host's; the guest then has nothing of it.
    fn plug(&mut self, range: Range<u64>) -> io::Result<()>;

    /// Takes the memory of `range` from the guest, as far as it has it, and gives it back to the host. [`Blocks`]
    /// says already that it is gone.
    ///
    /// # Errors
    /// The host's; memory that the guest does not need any more then stays in use.
    fn unplug(&mut self, range: Range<u64>) -> io::Result<()>;
}

/// What a guest may plug memory into.
pub struct Region {
    // Fixed configuration.
    /// Its first byte, on a boundary of a block.
    pub start: GuestAddress,
    /// Bytes by which the usable part grows; a multiple of a block.
    pub slot_size: u64,
    /// What is plugged, as all devices see it; the region is whole slots.
    pub blocks: Arc<Blocks>,
    // Runtime glue.
    /// Where its memory comes from.
    pub source: Box<dyn BlockSource>,
}

/// The region, and how much of it is there.
pub(super) struct Plugging {
    region: Region,
    metrics: Arc<MemMetrics>,
    // Guest-visible state, with the blocks of the region.
    requested: u64,
    usable: u64,
    plugged: u64,
}

/// What became of a request.
pub(super) struct Done {
    pub(super) response: Response,
    /// To be given back to the host once the driver's answer is written: it may lie in there.
    pub(super) unplugged: Option<Range<u64>>,
    /// The configuration space is another.
    pub(super) is_config_changed: bool,
}

impl From<Response> for Done {
    fn from(response: Response) -> Self {
        Self {
            response,
            unplugged: None,
            is_config_changed: false,
        }
    }
}

impl Plugging {
    pub(super) fn new(region: Region, metrics: Arc<MemMetrics>) -> Self {
        Self {
            region,
            metrics,
            requested: 0,
            usable: 0,
            plugged: 0,
        }
    }

    pub(super) fn requested(&self) -> u64 {
        self.requested
    }

    pub(super) fn plugged(&self) -> u64 {
        self.plugged
    }

    /// Bytes of all blocks.
    pub(super) fn len(&self) -> u64 {
        self.region.blocks.len()
    }

    /// Says how much the guest is to have. False, and nothing changed, when it cannot be.
    pub(super) fn request(&mut self, bytes: u64) -> bool {
        if bytes > self.len() || !bytes.is_multiple_of(self.block_size()) {
            return false;
        }
        self.requested = bytes;
        // What the guest has may lie anywhere, so this never shrinks while it has some (virtio 1.2 §5.15.5).
        self.usable = self.usable.max(self.needed());
        true
    }

    /// `struct virtio_mem_config` (virtio 1.2 §5.15.4), little-endian. There is one NUMA node, so none is named.
    pub(super) fn describe(&self, config: &mut [u8; super::CONFIG_LEN]) {
        let fields = [
            self.block_size(),
            0,
            self.region.start.0,
            self.len(),
            self.usable,
            self.plugged,
            self.requested,
        ];
        for (bytes, field) in config.as_chunks_mut().0.iter_mut().zip(fields) {
            *bytes = field.to_le_bytes();
        }
    }

    pub(super) fn serve(&mut self, request: Request) -> Done {
        let metrics = Arc::clone(&self.metrics);
        let (count, fails, done) = match request {
            Request::Plug(named) => (&metrics.plug_count, &metrics.plug_fails, self.plug(named)),
            Request::Unplug(named) => {
                let done = self.unplug(named);
                (&metrics.unplug_count, &metrics.unplug_fails, done)
            }
            Request::UnplugAll => {
                let done = self.unplug_all();
                (&metrics.unplug_all_count, &metrics.unplug_all_fails, done)
            }
            Request::State(named) => {
                let done = self.state(named).into();
                (&metrics.state_count, &metrics.state_fails, done)
            }
            Request::Unknown => {
                metrics.queue_event_fails.increment();
                return Response::Error.into();
            }
        };
        count.increment();
        if !matches!(done.response, Response::Ack | Response::State(_)) {
            fails.increment();
        }
        done
    }

    /// Gives `range`, which a request unplugged, back to the host.
    pub(super) fn give_back(&mut self, range: Range<u64>) {
        if self.region.source.unplug(range).is_err() {
            self.metrics.unplug_discard_fails.increment();
        }
    }

    fn plug(&mut self, named: Named) -> Done {
        let Some(range) = self.range(named) else {
            return Response::Error.into();
        };
        if !self.region.blocks.holds_none(&range) {
            return Response::Error.into();
        }
        let len = len_of(&range);
        let plugged = self.plugged.checked_add(len);
        let Some(plugged) = plugged.filter(|plugged| *plugged <= self.requested) else {
            return Response::Nack.into();
        };
        if self.region.source.plug(range.clone()).is_err() {
            return Response::Busy.into();
        }
        self.region.blocks.plug(&range);
        self.plugged = plugged;
        self.metrics.plug_bytes.add(len);
        Response::Ack.into()
    }

    fn unplug(&mut self, named: Named) -> Done {
        let range = self.range(named);
        let Some(range) = range.filter(|range| self.region.blocks.holds_all(range)) else {
            return Response::Error.into();
        };
        // From here on no device finds it.
        self.region.blocks.unplug(&range);
        let len = len_of(&range);
        // All of it was plugged, and counted then.
        self.plugged = self.plugged.saturating_sub(len);
        self.metrics.unplug_bytes.add(len);
        Done {
            response: Response::Ack,
            unplugged: Some(range),
            is_config_changed: false,
        }
    }

    fn unplug_all(&mut self) -> Done {
        // Nothing is plugged beyond.
        let all = 0..self.usable;
        self.region.blocks.unplug(&all);
        self.metrics.unplug_bytes.add(self.plugged);
        self.plugged = 0;
        let before = self.usable;
        self.usable = self.needed();
        Done {
            response: Response::Ack,
            unplugged: Some(all),
            is_config_changed: before != self.usable,
        }
    }

    fn state(&self, named: Named) -> Response {
        let Some(range) = self.range(named) else {
            return Response::Error;
        };
        Response::State(if self.region.blocks.holds_all(&range) {
            BlockState::Plugged
        } else if self.region.blocks.holds_none(&range) {
            BlockState::Unplugged
        } else {
            BlockState::Mixed
        })
    }

    /// Where `named` is in the region: whole blocks, at least one, in the usable part.
    fn range(&self, named: Named) -> Option<Range<u64>> {
        let start = named.address.checked_sub(self.region.start.0)?;
        let len = u64::from(named.count).checked_mul(self.block_size())?;
        let end = start.checked_add(len)?;
        let is_good = len > 0 && start.is_multiple_of(self.block_size()) && end <= self.usable;
        is_good.then_some(start..end)
    }

    pub(super) fn block_size(&self) -> u64 {
        self.region.blocks.block_size()
    }

    /// The usable part for what is requested; the region is whole slots.
    fn needed(&self) -> u64 {
        self.requested.next_multiple_of(self.region.slot_size)
    }
}

fn len_of(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}
