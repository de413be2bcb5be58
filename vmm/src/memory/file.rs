//! Files mapped into the guest's address space, beside RAM.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_config::HugePages;
use vm_memory::GuestAddress;

use super::above_ram::PlaceAboveRam;
use super::regions::{ALIGNMENT, Commitment, map_private, unmap};
use super::slot::{Access, SlotMemory};

/// Bytes that a file of `file_len` takes of a guest's addresses: up to a multiple of 2 MiB. `None` above 2^64.
#[must_use]
pub fn padded_len(file_len: u64) -> Option<u64> {
    file_len.checked_next_multiple_of(ALIGNMENT as u64)
}

/// A file in the guest's address space, mapped as long as this lives.
///
/// This process never touches the mapping, only the guest does: a file that somebody cuts stops the guest when it
/// touches what is gone, and raises no SIGBUS here.
pub struct FileMapping {
    address: *mut u8,
    len: usize,
    access: Access,
    place: PlaceAboveRam,
}

// SAFETY: The mapping belongs to the process, not to a thread, and is used through system calls only.
unsafe impl Send for FileMapping {}

impl FileMapping {
    /// Maps the first `file_len` bytes of `file`, above 0, for the guest to find at `place`, which has room for
    /// [`padded_len`]. What is missing to that is private memory that reads as zeroes.
    ///
    /// # Errors
    /// The host's.
    pub fn new(
        file: &File,
        file_len: u64,
        place: PlaceAboveRam,
        access: Access,
    ) -> io::Result<Self> {
        let too_large = || io::Error::from_raw_os_error(libc::EFBIG);
        let size = |len| usize::try_from(len).map_err(|_| too_large());
        let len = size(padded_len(file_len).ok_or_else(too_large)?)?;
        // From here on it is unmapped when something fails.
        let mapping = Self {
            address: map_private(len, HugePages::None, Commitment::OnUse)?,
            len,
            access,
            place,
        };
        let protection = match access {
            Access::Read => libc::PROT_READ,
            Access::Write | Access::Ram => libc::PROT_READ | libc::PROT_WRITE,
        };
        // SAFETY: `MAP_FIXED` replaces what is mapped in the range.
        // 1. The range is the front of the mapping just made: the file's length is at most the padded one.
        // 2. Nobody else knows of that mapping yet.
        let mapped = unsafe {
            libc::mmap(
                mapping.address.cast(),
                size(file_len)?,
                protection,
                libc::MAP_SHARED | libc::MAP_FIXED,
                file.as_raw_fd(),
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(mapping)
    }

    /// Where the guest finds it.
    #[must_use]
    pub fn start(&self) -> GuestAddress {
        self.place.start()
    }

    /// Bytes, a multiple of 2 MiB.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// It, for a memory slot.
    #[must_use]
    pub fn into_slot_memory(self) -> SlotMemory {
        SlotMemory {
            start: self.start(),
            address: self.address,
            len: self.len(),
            access: self.access,
            _owner: Box::new(self),
        }
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        unmap(self.address, self.len);
    }
}
