//! Maps the regions that guest RAM consists of.

use std::fs::File;
use std::io;
use std::ptr::null_mut;
use std::sync::Arc;

use devices::GuestMemory;
use devices::memory::{Blocks, GuestRegion};
use vm_config::{Explain, FaultCode, FaultKind, HugePages};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

use super::shared::map_shared;

/// Alignment of every region, host side: a huge page.
pub(super) const ALIGNMENT: usize = 2 << 20;

/// Why guest memory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host has no room for the mapping.
    #[error(
        "Invalid Memory Configuration: Cannot create mmap region: {}; {len} bytes are wanted for the guest; ask for less memory, or free some on the host",
        words(error)
    )]
    Map {
        /// Size of the region.
        len: u64,
        /// The kernel's answer; part of the message, so not its source.
        error: io::Error,
    },
    /// The pool of huge pages is too small.
    #[error(
        "Invalid Memory Configuration: Cannot create mmap region: {}; {len} bytes are wanted from 2 MiB pages; raise /proc/sys/vm/nr_hugepages, or set huge_pages to None",
        words(error)
    )]
    HugePages {
        /// Size of the region.
        len: u64,
        /// The kernel's answer; part of the message, so not its source.
        error: io::Error,
    },
    /// The regions cannot be put together: more than the address space holds.
    #[error(
        "Invalid Memory Configuration: Cannot create mmap region: {len} bytes do not fit a guest's address space; ask for less memory"
    )]
    TooLarge {
        /// Size of the region.
        len: u64,
    },
}

impl Explain for MemoryError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::Map { .. } | Self::TooLarge { .. } => FaultCode::HostMemoryShort,
            Self::HugePages { .. } => FaultCode::HugePagesShort,
        })
    }
}

/// The kernel's answer, in the words that clients look for where there are such.
fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => "Out of memory (os error 12)".to_owned(),
        _ => error.to_string(),
    }
}

/// Who sees guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// This process.
    Private,
    /// Others too, that are given its descriptor.
    Shared,
}

/// When pages of a pool are set aside for a mapping; other pages never are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commitment {
    /// At once: a pool that is too small refuses now, not when the guest first touches a page.
    Now,
    /// When they are populated.
    OnUse,
}

/// Maps `regions` (guest address and length in bytes, ascending), untouched, and a place above them for `blocks`
/// that come and go, which is private in any case.
///
/// # Errors
/// When the host has no room, or a region has no meaning.
pub fn allocate(
    regions: &[(GuestAddress, u64)],
    blocks: Option<(GuestAddress, Arc<Blocks>)>,
    pages: HugePages,
    sharing: Sharing,
) -> Result<GuestMemory, MemoryError> {
    let mut mapped: Vec<GuestRegion> = Vec::with_capacity(regions.len() + 1);
    let map_ram = |&(start, len): &(_, u64)| {
        let mapping = map_region(start, len, pages, |size| match sharing {
            Sharing::Private => Ok((map_private(size, pages, Commitment::Now)?, None)),
            Sharing::Shared => map_shared(size, pages).map(|(address, file)| (address, Some(file))),
        });
        mapping.map(GuestRegion::from)
    };
    let map_blocks = |(start, blocks): (_, Arc<Blocks>)| {
        let mapping = map_region(start, blocks.len(), pages, |size| {
            Ok((map_private(size, pages, Commitment::OnUse)?, None))
        })?;
        Ok(GuestRegion::of_blocks(mapping, blocks))
    };
    for region in regions.iter().map(map_ram).chain(blocks.map(map_blocks)) {
        match region {
            Ok(region) => mapped.push(region),
            Err(error) => {
                // A region does not unmap itself, and its huge pages would stay reserved.
                mapped.iter().for_each(unmap_region);
                return Err(error);
            }
        }
    }
    GuestMemory::from_regions(mapped).map_err(|_| MemoryError::TooLarge {
        len: regions.iter().map(|(_, len)| len).sum(),
    })
}

/// Unmaps memory that [`allocate`] made, unless somebody else still holds it.
pub(crate) fn release(memory: Arc<GuestMemory>) {
    for region in Arc::into_inner(memory).iter().flat_map(GuestMemory::iter) {
        unmap_region(region);
    }
}

fn unmap_region(region: &GuestRegion) {
    let size = usize::try_from(region.len()).expect("it was mapped");
    unmap(region.mapping().as_ptr(), size);
}

fn map_region(
    start: GuestAddress,
    len: u64,
    pages: HugePages,
    map: impl FnOnce(usize) -> io::Result<(*mut u8, Option<File>)>,
) -> Result<GuestRegionMmap, MemoryError> {
    let too_large = || MemoryError::TooLarge { len };
    let size = usize::try_from(len).map_err(|_| too_large())?;
    let (address, file) = map(size).map_err(|error| match pages {
        HugePages::TwoMiB => MemoryError::HugePages { len, error },
        HugePages::None | HugePages::Transparent => MemoryError::Map { len, error },
    })?;
    let region = adopt(address, size, file).map_err(|_| too_large())?;
    GuestRegionMmap::new(region, start).ok_or_else(too_large)
}

fn adopt(
    address: *mut u8,
    size: usize,
    file: Option<File>,
) -> Result<MmapRegion, vm_memory::mmap::MmapRegionError> {
    let kind = if file.is_some() {
        libc::MAP_SHARED
    } else {
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS
    };
    let mut builder = MmapRegionBuilder::new(size)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(kind | libc::MAP_NORESERVE);
    if let Some(file) = file {
        builder = builder.with_file_offset(FileOffset::new(file, 0));
    }
    // SAFETY: `address` is the start of a mapping of `size` bytes, made with these protections and flags by
    // `map_private` or `map_shared`, that nothing else owns. Only `unmap_region` unmaps it, when nobody else holds the region: it is
    // not yet part of a memory, or the last holder of that lets go.
    unsafe { builder.with_raw_mmap_pointer(address) }.build()
}

/// Maps `size` bytes of zeroes, private to this process, at a multiple of [`ALIGNMENT`].
pub(super) fn map_private(
    size: usize,
    pages: HugePages,
    commitment: Commitment,
) -> io::Result<*mut u8> {
    let huge = match pages {
        HugePages::TwoMiB => libc::MAP_HUGETLB | libc::MAP_HUGE_2MB,
        HugePages::None | HugePages::Transparent => libc::MAP_NORESERVE,
    };
    let flags = match commitment {
        Commitment::Now => huge,
        Commitment::OnUse => huge | libc::MAP_NORESERVE,
    };
    let mut address = map(null_mut(), size, flags)?;
    if !address.addr().is_multiple_of(ALIGNMENT) {
        address = map_aligned(address, size)?;
    }
    advise(address, size, pages);
    Ok(address)
}

/// Asks for huge pages in a mapping that was just made, if `pages` does.
pub(super) fn advise(address: *mut u8, size: usize, pages: HugePages) {
    if pages == HugePages::Transparent {
        // SAFETY: The range is the mapping just made. Advice changes no content.
        let result = unsafe { libc::madvise(address.cast(), size, libc::MADV_HUGEPAGE) };
        if result != 0 {
            tracing::warn!("the host has no transparent huge pages; guest memory uses 4 KiB pages");
        }
    }
}

/// Replaces the mapping of `size` bytes at `first` by an aligned one: reserves more, keeps the aligned part.
fn map_aligned(first: *mut u8, size: usize) -> io::Result<*mut u8> {
    unmap(first, size);
    let wide_size = size
        .checked_add(ALIGNMENT)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
    let wide = map(null_mut(), wide_size, libc::MAP_NORESERVE)?;
    let lead = wide.addr().next_multiple_of(ALIGNMENT) - wide.addr();
    let aligned = wide.wrapping_add(lead);
    unmap(wide, lead);
    unmap(aligned.wrapping_add(size), ALIGNMENT - lead);
    Ok(aligned)
}

fn map(at: *mut u8, size: usize, extra_flags: i32) -> io::Result<*mut u8> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | extra_flags;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: Without MAP_FIXED a new mapping touches no existing one, whatever `at` and `size` are.
    let address = unsafe { libc::mmap(at.cast(), size, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(address.cast())
}

/// Unmaps a range that `map` made and nobody uses, not yet or no more.
pub(super) fn unmap(address: *mut u8, size: usize) {
    if size > 0 {
        // SAFETY: The range lies in a mapping made by `map`, to which no reference exists.
        unsafe { libc::munmap(address.cast(), size) };
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn regions_are_zero_and_aligned() {
        let memory = allocate(
            &[(GuestAddress(0), 3 * MIB), (GuestAddress(1 << 32), 5 * MIB)],
            None,
            HugePages::None,
            Sharing::Private,
        )
        .unwrap();
        for region in memory.iter() {
            assert!(region.mapping().as_ptr().addr().is_multiple_of(ALIGNMENT));
        }
        let last = GuestAddress((1 << 32) + 5 * MIB - 8);
        assert_eq!(memory.read_obj::<u64>(last).unwrap(), 0);
        assert!(memory.read_obj::<u8>(GuestAddress(3 * MIB)).is_err());
        assert_eq!(
            memory.iter().map(GuestMemoryRegion::len).sum::<u64>(),
            8 * MIB
        );
    }

    #[test]
    fn memory_beyond_the_address_space_is_refused_with_its_size() {
        let error = allocate(
            &[(GuestAddress(0), 1 << 60)],
            None,
            HugePages::None,
            Sharing::Private,
        )
        .unwrap_err();
        assert!(error.to_string().contains("1152921504606846976 bytes"));
    }

    #[test]
    fn huge_pages_that_the_host_does_not_have_are_refused() {
        let error = allocate(
            &[(GuestAddress(0), 1 << 45)],
            None,
            HugePages::TwoMiB,
            Sharing::Private,
        )
        .unwrap_err();
        assert!(matches!(error, MemoryError::HugePages { .. }), "{error}");
    }

    #[test]
    fn a_region_that_cannot_be_mapped_takes_those_before_it_along() {
        // Six that stay would not fit the address space of 128 TiB.
        for _ in 0..6 {
            let regions = [(GuestAddress(0), 1 << 45), (GuestAddress(1 << 46), 1 << 60)];
            let error = allocate(&regions, None, HugePages::None, Sharing::Private).unwrap_err();
            assert!(error.to_string().contains("1152921504606846976 bytes"));
        }
    }

    #[test]
    fn memory_that_is_held_is_not_released() {
        let memory = Arc::new(
            allocate(
                &[(GuestAddress(0), MIB)],
                None,
                HugePages::None,
                Sharing::Private,
            )
            .unwrap(),
        );
        release(Arc::clone(&memory));
        memory.write_obj(7_u8, GuestAddress(0)).unwrap();
        release(memory);
    }

    #[test]
    fn memory_can_be_far_larger_than_the_host() {
        let memory = allocate(
            &[(GuestAddress(0), 1 << 40)],
            None,
            HugePages::None,
            Sharing::Private,
        )
        .unwrap();
        memory.write_obj(7_u8, GuestAddress((1 << 40) - 1)).unwrap();
    }
}
