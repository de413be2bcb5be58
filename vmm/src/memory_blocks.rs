//! Memory that the guest plugs while it runs: gives it memory slots, and takes them away.
//!
//! The guest reaches memory by slots, and devices by blocks ([`devices::memory::Blocks`]). A slot is there as long as
//! one block in it is plugged: a guest can touch the other blocks of that slot, which costs the host no more than
//! what it was going to give.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use devices::virtio::Mem;
use devices::virtio::mem::{BlockSource, Region};

use crate::kvm::{MemorySlot, MemorySlots};
use crate::memory::{BlockMapping, PlaceAboveRam};

/// Memory that comes and goes, by slots of one size.
struct SlottedMemory {
    /// By index; those in which a block is plugged. Before `mapping`, so that KVM lets go first.
    open: BTreeMap<u64, MemorySlot>,
    slot_size: u64,
    slots: Arc<MemorySlots>,
    mapping: BlockMapping,
    /// The guest's addresses of it.
    _place: PlaceAboveRam,
}

/// A memory device over the blocks of `mapping`, which lie at `place`, in slots of `slot_size` bytes.
pub(crate) fn device(
    mapping: BlockMapping,
    place: PlaceAboveRam,
    slots: &Arc<MemorySlots>,
    slot_size: u64,
) -> Mem {
    let blocks = Arc::clone(mapping.blocks());
    let start = mapping.start();
    let source = SlottedMemory {
        open: BTreeMap::new(),
        slot_size,
        slots: Arc::clone(slots),
        mapping,
        _place: place,
    };
    Mem::new(Region {
        start,
        slot_size,
        blocks,
        source: Box::new(source),
    })
}

impl SlottedMemory {
    /// The slots that `range` touches: index and bytes.
    fn touched(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> + use<> {
        let (size, end) = (self.slot_size, self.mapping.blocks().len());
        let indices = range.start / size..range.end.min(end).div_ceil(size);
        indices.map(move |index| (index, index * size..(index * size + size).min(end)))
    }

    fn open(&mut self, index: u64, bytes: &Range<u64>) -> io::Result<()> {
        if let Entry::Vacant(place) = self.open.entry(index) {
            let memory = self.mapping.slot_memory(bytes)?;
            place.insert(self.slots.add(memory).map_err(io::Error::other)?);
        }
        Ok(())
    }

    /// Takes away the slots that `range` touches and in which nothing is plugged.
    fn close_empty(&mut self, range: &Range<u64>) {
        for (index, bytes) in self.touched(range) {
            if self.mapping.blocks().holds_none(&bytes) {
                self.open.remove(&index);
            }
        }
    }
}

impl BlockSource for SlottedMemory {
    fn plug(&mut self, range: Range<u64>) -> io::Result<()> {
        let mut done = self.mapping.populate(&range);
        for (index, bytes) in self.touched(&range) {
            done = done.and_then(|()| self.open(index, &bytes));
        }
        if let Err(error) = &done {
            tracing::debug!("cannot plug memory: {error}");
            self.close_empty(&range);
            // What was populated of it goes back; there was nothing before.
            let _ = self.mapping.discard(&range);
        }
        done
    }

    fn unplug(&mut self, range: Range<u64>) -> io::Result<()> {
        self.close_empty(&range);
        self.mapping.discard(&range)
    }
}
