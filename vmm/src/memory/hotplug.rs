//! Guest memory that comes and goes in blocks: its mapping, which stays while they do.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use devices::GuestMemory;
use devices::memory::Blocks;
use vm_config::HugePages;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::slot::{Access, SlotMemory};

/// The part of guest memory that is made of blocks. Ranges are bytes in it.
pub struct BlockMapping {
    start: GuestAddress,
    address: *mut u8,
    blocks: Arc<Blocks>,
    pages: HugePages,
    /// Holds the mapping.
    memory: Arc<GuestMemory>,
}

// SAFETY: The mapping belongs to the process, not to a thread, and is used through system calls only.
unsafe impl Send for BlockMapping {}

impl BlockMapping {
    /// The blocks of `memory`, which was allocated with `pages`; `None` when it has none.
    #[must_use]
    pub fn of(memory: &Arc<GuestMemory>, pages: HugePages) -> Option<Self> {
        let mut regions = memory.iter();
        let (region, blocks) = regions.find_map(|region| Some((region, region.blocks()?)))?;
        Some(Self {
            start: region.start_addr(),
            address: region.mapping().as_ptr(),
            blocks: Arc::clone(blocks),
            pages,
            memory: Arc::clone(memory),
        })
    }

    /// Where the guest finds it.
    #[must_use]
    pub fn start(&self) -> GuestAddress {
        self.start
    }

    /// What is plugged of it.
    #[must_use]
    pub fn blocks(&self) -> &Arc<Blocks> {
        &self.blocks
    }

    /// `range`, for a memory slot.
    ///
    /// # Errors
    /// When it lies outside.
    pub fn slot_memory(&self, range: &Range<u64>) -> io::Result<SlotMemory> {
        let (address, _) = self.host_range(range)?;
        Ok(SlotMemory {
            start: GuestAddress(self.start.0 + range.start),
            address,
            len: range.end - range.start,
            access: Access::Ram,
            _owner: Box::new(Arc::clone(&self.memory)),
        })
    }

    /// Takes pages for `range` from their pool, if they come from one: the guest cannot be told later that it is
    /// empty. Other pages come when they are touched.
    ///
    /// # Errors
    /// When the pool has too few.
    pub fn populate(&self, range: &Range<u64>) -> io::Result<()> {
        match self.pages {
            HugePages::TwoMiB => self.advise(range, libc::MADV_POPULATE_WRITE),
            HugePages::None | HugePages::Transparent => Ok(()),
        }
    }

    /// Gives the pages of `range` back to the host. What they held is lost; they read as zeroes from then on.
    ///
    /// # Errors
    /// The host's.
    pub fn discard(&self, range: &Range<u64>) -> io::Result<()> {
        self.advise(range, libc::MADV_DONTNEED)
    }

    fn advise(&self, range: &Range<u64>, advice: i32) -> io::Result<()> {
        let (address, len) = self.host_range(range)?;
        // SAFETY: Either advice adds or takes pages of a range and so changes its content, and maps or unmaps nothing.
        // 1. The range lies in the mapping of a region of `self.memory`.
        // 2. No Rust reference into guest memory exists, so its content may change at any time.
        let result = unsafe { libc::madvise(address.cast(), len, advice) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Where this process has `range`, and its length.
    fn host_range(&self, range: &Range<u64>) -> io::Result<(*mut u8, usize)> {
        let outside = || io::Error::from(io::ErrorKind::InvalidInput);
        if range.start > range.end || range.end > self.blocks.len() {
            return Err(outside());
        }
        let offset = usize::try_from(range.start).map_err(|_| outside())?;
        let len = usize::try_from(range.end - range.start).map_err(|_| outside())?;
        Ok((self.address.wrapping_add(offset), len))
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::super::regions::{Sharing, allocate};
    use super::*;

    const MIB: u64 = 1 << 20;
    const START: GuestAddress = GuestAddress(1 << 32);

    #[test]
    fn what_is_discarded_reads_as_zeroes_and_what_is_outside_is_refused() {
        let ram = [(GuestAddress(0), MIB)];
        let blocks = Blocks::new(2 * MIB, 8 * MIB);
        let memory = allocate(
            &ram,
            Some((START, blocks)),
            HugePages::None,
            Sharing::Private,
        )
        .unwrap();
        let memory = Arc::new(memory);
        let mapping = BlockMapping::of(&memory, HugePages::None).unwrap();
        assert_eq!(mapping.start(), START);
        // Nothing is plugged, so devices find nothing, wherever the mapping is.
        assert!(memory.write_obj(7_u8, START).is_err());
        mapping.populate(&(0..8 * MIB)).unwrap();
        mapping.discard(&(0..8 * MIB)).unwrap();
        let (first, last) = (2, 1);
        for range in [0..8 * MIB + 4096, 8 * MIB..8 * MIB + 1, first..last] {
            assert!(mapping.discard(&range).is_err());
            assert!(mapping.slot_memory(&range).is_err());
        }
        let slot = mapping.slot_memory(&(2 * MIB..4 * MIB)).unwrap();
        assert_eq!((slot.start().0, slot.len()), (START.0 + 2 * MIB, 2 * MIB));
    }
}
