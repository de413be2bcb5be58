//! Guest memory: mappings that the guest's physical addresses resolve to. Some of it may come and go in blocks.
//!
//! Every access of a device, and every range of a descriptor chain, is looked up here; one that touches a block
//! that is not plugged is refused like one that is no memory at all. The mapping itself stays, so that a range that
//! was looked up before a block went is still an address of this process.

#![deny(clippy::arithmetic_side_effects)]

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::mmap::FromRangesError;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes,
    GuestRegionCollection, GuestRegionCollectionError, GuestRegionMmap, MemoryRegionAddress,
    VolatileSlice,
};

/// Guest RAM, and memory that is plugged into it.
#[derive(Debug)]
pub struct GuestMemory(GuestRegionCollection<GuestRegion>);

/// A range of guest addresses that is mapped.
#[derive(Debug)]
pub struct GuestRegion {
    mapping: GuestRegionMmap,
    /// `None`: all of it is there for ever.
    blocks: Option<Arc<Blocks>>,
}

/// Which blocks of a region are plugged. Changed by one device, seen by all.
#[derive(Debug)]
pub struct Blocks {
    block_size: u64,
    count: u64,
    /// A bit for each block.
    words: Box<[AtomicU64]>,
}

impl GuestMemory {
    /// Memory of `regions`, ascending.
    ///
    /// # Errors
    /// When there is none, or some overlap.
    pub fn from_regions(regions: Vec<GuestRegion>) -> Result<Self, GuestRegionCollectionError> {
        GuestRegionCollection::from_regions(regions).map(Self)
    }

    /// Private anonymous memory at `ranges` (address and length in bytes, ascending).
    ///
    /// # Errors
    /// When there is none, some overlap, or the host has no room.
    pub fn from_ranges(ranges: &[(GuestAddress, usize)]) -> Result<Self, FromRangesError> {
        let region =
            |&(start, len)| GuestRegionMmap::from_range(start, len, None).map(GuestRegion::from);
        let regions = ranges.iter().map(region).collect::<Result<_, _>>()?;
        Ok(Self::from_regions(regions)?)
    }
}

impl GuestMemoryBackend for GuestMemory {
    type R = GuestRegion;

    fn find_region(&self, address: GuestAddress) -> Option<&GuestRegion> {
        self.0.find_region(address)
    }

    fn iter(&self) -> impl Iterator<Item = &GuestRegion> {
        self.0.iter()
    }
}

impl From<GuestRegionMmap> for GuestRegion {
    fn from(mapping: GuestRegionMmap) -> Self {
        Self {
            mapping,
            blocks: None,
        }
    }
}

impl GuestRegion {
    /// A region of which only the plugged ones of `blocks` are there.
    #[must_use]
    pub fn of_blocks(mapping: GuestRegionMmap, blocks: Arc<Blocks>) -> Self {
        Self {
            mapping,
            blocks: Some(blocks),
        }
    }

    /// Its blocks, if they come and go.
    #[must_use]
    pub fn blocks(&self) -> Option<&Arc<Blocks>> {
        self.blocks.as_ref()
    }

    /// What is mapped.
    #[must_use]
    pub fn mapping(&self) -> &GuestRegionMmap {
        &self.mapping
    }
}

impl GuestMemoryRegion for GuestRegion {
    type B = ();

    fn len(&self) -> u64 {
        self.mapping.len()
    }

    fn start_addr(&self) -> GuestAddress {
        self.mapping.start_addr()
    }

    fn bitmap(&self) {}

    fn get_host_address(&self, address: MemoryRegionAddress) -> Result<*mut u8, GuestMemoryError> {
        self.mapping.get_host_address(address)
    }

    fn file_offset(&self) -> Option<&vm_memory::FileOffset> {
        self.mapping.file_offset()
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_>, GuestMemoryError> {
        let is_there = match &self.blocks {
            None => true,
            Some(blocks) => offset
                .0
                .checked_add(count as u64)
                .is_some_and(|end| blocks.holds_all(&(offset.0..end))),
        };
        if !is_there {
            let address = self.start_addr().0.saturating_add(offset.0);
            return Err(GuestMemoryError::InvalidGuestAddress(GuestAddress(address)));
        }
        self.mapping.get_slice(offset, count)
    }
}

impl GuestMemoryRegionBytes for GuestRegion {}

impl Blocks {
    /// `len` bytes in blocks of `block_size`, none of them plugged. `len` is a multiple of `block_size`, which is
    /// above 0.
    #[must_use]
    pub fn new(block_size: u64, len: u64) -> Arc<Self> {
        let count = len.checked_div(block_size).unwrap_or(0);
        Arc::new(Self {
            block_size,
            count,
            words: (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_size(&self) -> u64 {
        self.block_size
    }

    /// Bytes of all.
    #[must_use]
    pub fn len(&self) -> u64 {
        // Never more than the length that the count was made of.
        self.count.saturating_mul(self.block_size)
    }

    /// There are no blocks at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether every block that `range` (bytes) touches is plugged.
    #[must_use]
    pub fn holds_all(&self, range: &Range<u64>) -> bool {
        range.end <= self.len() && self.each(range).all(|block| self.is_plugged(block))
    }

    /// Whether no block that `range` (bytes) touches is plugged.
    #[must_use]
    pub fn holds_none(&self, range: &Range<u64>) -> bool {
        !self.each(range).any(|block| self.is_plugged(block))
    }

    /// Marks the blocks that `range` (bytes) touches as plugged.
    pub(crate) fn plug(&self, range: &Range<u64>) {
        for block in self.each(range) {
            self.word(block).fetch_or(bit(block), Ordering::AcqRel);
        }
    }

    /// Marks the blocks that `range` (bytes) touches as gone.
    pub(crate) fn unplug(&self, range: &Range<u64>) {
        for block in self.each(range) {
            self.word(block).fetch_and(!bit(block), Ordering::AcqRel);
        }
    }

    fn each(&self, range: &Range<u64>) -> Range<u64> {
        let end = range.end.div_ceil(self.block_size).min(self.count);
        let start = range.start.checked_div(self.block_size).unwrap_or(0);
        start.min(end)..end
    }

    fn is_plugged(&self, block: u64) -> bool {
        self.word(block).load(Ordering::Acquire) & bit(block) != 0
    }

    fn word(&self, block: u64) -> &AtomicU64 {
        let index = usize::try_from(block / 64).expect("the bits are in memory");
        &self.words[index]
    }
}

fn bit(block: u64) -> u64 {
    1 << (block % 64)
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    const BLOCK: u64 = 1 << 16;
    const START: u64 = 1 << 32;

    fn memory() -> (GuestMemory, Arc<Blocks>) {
        let blocks = Blocks::new(BLOCK, 130 * BLOCK);
        let map = |start, len| GuestRegionMmap::from_range(GuestAddress(start), len, None).unwrap();
        let plugged = map(START, usize::try_from(130 * BLOCK).unwrap());
        let regions = vec![
            map(0, 4096).into(),
            GuestRegion::of_blocks(plugged, Arc::clone(&blocks)),
        ];
        (GuestMemory::from_regions(regions).unwrap(), blocks)
    }

    #[test]
    fn blocks_are_memory_while_they_are_plugged() {
        let (memory, blocks) = memory();
        let can = |at: u64, len: u64| {
            let len = usize::try_from(len).unwrap();
            let at = GuestAddress(START + at);
            assert_eq!(
                memory.check_range(at, len),
                memory.get_slice(at, len).is_ok()
            );
            memory.check_range(at, len)
        };
        assert!(memory.check_range(GuestAddress(0), 4096));
        assert!(!can(0, 1));
        blocks.plug(&(63 * BLOCK..66 * BLOCK));
        assert!(can(63 * BLOCK, 3 * BLOCK));
        for (at, len) in [(63 * BLOCK - 1, 2), (66 * BLOCK - 1, 2), (0, 130 * BLOCK)] {
            assert!(!can(at, len), "{at:#x} {len:#x}");
        }
        let middle = GuestAddress(START + 64 * BLOCK);
        memory.write_obj(7_u64, middle).unwrap();
        blocks.unplug(&(64 * BLOCK..65 * BLOCK));
        assert!(memory.write_obj(7_u64, middle).is_err());
        assert!(memory.read_obj::<u64>(middle).is_err());
        assert!(memory.load::<u16>(middle, Ordering::Relaxed).is_err());
        assert!(memory.store(7_u16, middle, Ordering::Relaxed).is_err());
        assert!(can(63 * BLOCK, BLOCK) && can(65 * BLOCK, BLOCK));
    }

    #[test]
    fn ranges_are_looked_at_block_by_block() {
        let blocks = Blocks::new(BLOCK, 130 * BLOCK);
        blocks.plug(&(129 * BLOCK..130 * BLOCK));
        assert!(blocks.holds_all(&(129 * BLOCK..130 * BLOCK)));
        assert!(!blocks.holds_all(&(128 * BLOCK..130 * BLOCK)));
        assert!(!blocks.holds_all(&(129 * BLOCK..131 * BLOCK)));
        assert!(blocks.holds_none(&(0..129 * BLOCK)));
        assert!(!blocks.holds_none(&(0..129 * BLOCK + 1)));
        blocks.unplug(&(0..u64::MAX));
        assert!(blocks.holds_none(&(0..u64::MAX)));
    }
}
