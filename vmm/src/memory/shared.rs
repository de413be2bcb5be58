//! Memory that a back end in another process is given: a file without a name, mapped shared (memfd_create(2)).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use rustix::fs::{MemfdFlags, SealFlags};
use vm_config::HugePages;

use super::regions::{ALIGNMENT, Commitment, advise, map_private, unmap};

/// Maps `size` bytes of zeroes at a multiple of [`ALIGNMENT`], and gives the file that others map them by. Nobody can
/// make it shorter, which would end this process when the guest next touches what is gone.
pub(super) fn map_shared(size: usize, pages: HugePages) -> io::Result<(*mut u8, File)> {
    let huge = match pages {
        HugePages::TwoMiB => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
        HugePages::None | HugePages::Transparent => MemfdFlags::empty(),
    };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | huge;
    let file = File::from(rustix::fs::memfd_create(c"guest-memory", flags)?);
    file.set_len(size as u64)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    let place = map_private(size, HugePages::None, Commitment::OnUse)?;
    match map_over(place, size, &file, pages) {
        Ok(()) => Ok((place, file)),
        Err(error) => {
            unmap(place, size);
            Err(error)
        }
    }
}

/// Maps `file` where the `size` bytes at `place` are.
fn map_over(place: *mut u8, size: usize, file: &File, pages: HugePages) -> io::Result<()> {
    debug_assert!(place.addr().is_multiple_of(ALIGNMENT));
    let reserve = match pages {
        // Reserved: a pool that is too small refuses here, not when the guest first touches a page.
        HugePages::TwoMiB => 0,
        HugePages::None | HugePages::Transparent => libc::MAP_NORESERVE,
    };
    let flags = libc::MAP_SHARED | libc::MAP_FIXED | reserve;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: MAP_FIXED replaces what is mapped at `place`: `size` bytes that `map_private` just made for this, to
    // which no reference exists.
    let address = unsafe { libc::mmap(place.cast(), size, protection, flags, file.as_raw_fd(), 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    advise(place, size, pages);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

    use super::super::{Sharing, allocate};
    use super::*;

    #[test]
    fn others_see_what_is_written_and_cannot_cut_it() {
        let regions = [(GuestAddress(0), 3 << 20), (GuestAddress(1 << 32), 1 << 20)];
        let memory = allocate(&regions, None, HugePages::None, Sharing::Shared).unwrap();
        for region in memory.iter() {
            let file = region.file_offset().unwrap();
            assert_eq!(file.start(), 0);
            assert!(region.mapping().as_ptr().addr().is_multiple_of(ALIGNMENT));
            for len in [0, 4096, 8 << 20] {
                assert!(file.file().set_len(len).is_err(), "{len}");
            }
        }
        let at = GuestAddress((1 << 32) + 4096);
        memory.write_obj(0x5a_u8, at).unwrap();
        let mut byte = [0];
        let file = memory.iter().last().unwrap().file_offset().unwrap().file();
        file.read_exact_at(&mut byte, 4096).unwrap();
        assert_eq!(byte, [0x5a]);
        file.write_all_at(&[0xa5], 4096).unwrap();
        assert_eq!(memory.read_obj::<u8>(at).unwrap(), 0xa5);
    }

    #[test]
    fn huge_pages_that_the_host_does_not_have_are_refused() {
        let regions = [(GuestAddress(0), 1 << 45)];
        let refused = allocate(&regions, None, HugePages::TwoMiB, Sharing::Shared);
        assert!(refused.is_err());
    }
}
