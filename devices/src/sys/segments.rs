//! Guest memory as the kernel's vectored calls take it.
//!
//! [`Segments`] is a list of byte ranges, each checked against guest memory when it was pushed and resolved
//! to a host address once. Data then moves between them and a file in one system call, with no copy of
//! ours in between. The storage is kept when a list is cleared, so that a worker that reuses its lists
//! allocates nothing per request.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use libc::iovec;
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};
use zerocopy::{FromBytes, IntoBytes};

use super::retry;
use crate::GuestMemory;

/// The most ranges in a list: what one vectored call takes (`UIO_MAXIOV`, 1024), less one for a spare buffer.
pub const MAX_SEGMENTS: usize = 1023;

/// Bytes of a page of the host.
const PAGE: usize = 4096;

/// Used entries at the front of a list after which the rest moves down.
const COMPACT_AT: usize = 64;

/// Byte ranges of guest memory, consumed from the front.
#[derive(Debug)]
pub struct Segments {
    /// Invariant: each byte of an entry lies in a mapping of `memory`, which never unmaps while it lives.
    iov: Vec<iovec>,
    /// Entries before this one are used up.
    first: usize,
    /// Bytes in `iov[first..]`.
    len: usize,
    /// The last byte of the last range, unless it was split off.
    last_byte: Option<GuestAddress>,
    memory: Arc<GuestMemory>,
    /// What one call takes of `iov`; rebuilt for each, kept for its storage.
    window: Vec<iovec>,
}

// SAFETY: `iovec` is not `Send` only because it holds a raw address. These addresses lie in mappings that
// `memory` keeps alive wherever the list goes, and are accessed only through volatile copies and system calls.
unsafe impl Send for Segments {}

/// A range that cannot be pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PushError {
    /// Some byte of it is not guest memory, or its address wraps.
    OutsideMemory,
    /// The list is full, or holds more bytes than a driver may chain (virtio 1.2 §2.7.5).
    TooLong,
}

/// How long a list was, to go back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    entries: usize,
    /// Bytes of the last entry: a range that follows it makes it longer.
    last_len: usize,
    len: usize,
    last_byte: Option<GuestAddress>,
}

impl Segments {
    /// An empty list over `memory`.
    #[must_use]
    pub fn new(memory: Arc<GuestMemory>) -> Self {
        Self {
            iov: Vec::new(),
            first: 0,
            len: 0,
            last_byte: None,
            memory,
            window: Vec::new(),
        }
    }

    /// Bytes in the list, at most `u32::MAX`.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// No bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets every range and keeps the storage.
    pub fn clear(&mut self) {
        self.iov.clear();
        self.first = 0;
        self.len = 0;
        self.last_byte = None;
    }

    /// Adds the `len` bytes at `address`.
    ///
    /// # Errors
    /// When the range is not all guest memory or the list is full; some of the range may then have been added,
    /// so the caller clears the list or goes back to a [`Mark`].
    pub(crate) fn push(&mut self, address: GuestAddress, len: u32) -> Result<(), PushError> {
        let last_byte = u64::from(len.saturating_sub(1));
        // Nearly always in one mapping, and that is found sooner than an iterator over several is set up.
        match self.memory.get_slice(address, len as usize) {
            Ok(slice) => push_slice(&mut self.iov, self.first, &mut self.len, &slice)?,
            Err(_) => {
                for slice in self.memory.get_slices(address, len as usize) {
                    let slice = slice.map_err(|_| PushError::OutsideMemory)?;
                    push_slice(&mut self.iov, self.first, &mut self.len, &slice)?;
                }
            }
        }
        self.last_byte = address.0.checked_add(last_byte).map(GuestAddress);
        Ok(())
    }

    /// How long the list is now.
    #[must_use]
    pub(crate) fn mark(&mut self) -> Mark {
        self.compact();
        Mark {
            entries: self.iov.len(),
            last_len: self.iov.last().map_or(0, |last| last.iov_len),
            len: self.len,
            last_byte: self.last_byte,
        }
    }

    /// Nothing was pushed after `mark`.
    #[must_use]
    pub(crate) fn is_at(&self, mark: Mark) -> bool {
        self.len == mark.len
    }

    /// Forgets what was pushed after `mark`; nothing may have been consumed since.
    pub(crate) fn go_back(&mut self, mark: Mark) {
        self.iov.truncate(mark.entries);
        if let Some(last) = self.iov.last_mut() {
            last.iov_len = mark.last_len;
        }
        self.len = mark.len;
        self.last_byte = mark.last_byte;
    }

    /// Takes a `T` off the front. `None` when the list is shorter.
    pub fn read_head<T: FromBytes + IntoBytes>(&mut self) -> Option<T> {
        let mut head = T::new_zeroed();
        if self.copy_to(0, head.as_mut_bytes()) < size_of::<T>() {
            return None;
        }
        self.advance(size_of::<T>());
        Some(head)
    }

    /// Takes the last byte off the list and says where it is. `None` when the list is empty.
    ///
    /// Works once: what lies before the byte is not known.
    pub fn split_last_byte(&mut self) -> Option<GuestAddress> {
        let address = self.last_byte.filter(|_| self.len > 0)?;
        let last = self.iov.last_mut()?;
        last.iov_len = last.iov_len.checked_sub(1)?;
        if last.iov_len == 0 {
            self.iov.pop();
        }
        self.len = self.len.saturating_sub(1);
        self.last_byte = None;
        Some(address)
    }

    /// Takes `count` bytes off the front, or all there are.
    pub fn advance(&mut self, count: usize) {
        let mut left = count.min(self.len);
        self.len = self.len.saturating_sub(left);
        while let Some(entry) = self.iov.get_mut(self.first) {
            if left < entry.iov_len {
                entry.iov_base = entry.iov_base.wrapping_byte_add(left);
                entry.iov_len = entry.iov_len.saturating_sub(left);
                return;
            }
            left = left.saturating_sub(entry.iov_len);
            self.first = self.first.saturating_add(1);
        }
    }

    /// Takes bytes off the end until `len` are left, or fewer.
    pub fn truncate(&mut self, len: usize) {
        while self.len > len {
            let Some(last) = self.iov.last_mut() else {
                return;
            };
            let excess = (self.len.saturating_sub(len)).min(last.iov_len);
            last.iov_len = last.iov_len.saturating_sub(excess);
            self.len = self.len.saturating_sub(excess);
            if last.iov_len == 0 {
                self.iov.pop();
            }
            self.last_byte = None;
        }
    }

    /// Copies bytes from `skip` on into `buffer`, as many as both have. Returns how many.
    #[must_use]
    pub fn copy_to(&self, skip: usize, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        self.for_each_slice(skip, |slice| {
            let rest = buffer.get_mut(done..).unwrap_or_default();
            done = done.saturating_add(slice.copy_to(rest));
            done < buffer.len()
        });
        done
    }

    /// Copies `bytes` to `skip` and what follows, as many as fit. Returns how many.
    pub fn copy_from(&self, skip: usize, bytes: &[u8]) -> usize {
        let mut done = 0;
        self.for_each_slice(skip, |slice| {
            let rest = bytes.get(done..).unwrap_or_default();
            let count = rest.len().min(slice.len());
            slice.copy_from(rest.get(..count).unwrap_or_default());
            done = done.saturating_add(count);
            done < bytes.len()
        });
        done
    }

    /// Reads from `file` at `offset` into the front, at most `max` bytes in one `preadv`, and takes what was read off
    /// the front.
    ///
    /// # Errors
    /// The kernel's; an interrupted call is made again.
    pub(crate) fn read_at(&mut self, file: &File, offset: u64, max: usize) -> io::Result<usize> {
        let offset = file_offset(offset)?;
        let iov = self.front(max);
        let fd = file.as_raw_fd();
        let count = retry(|| match iov {
            // The kernel takes one range from registers, and a list of one from memory it first copies.
            [range] => {
                // SAFETY: `pread` writes to the range it is given, and to nothing else.
                // 1. The range lies inside mappings of `self.memory`, alive as `self` is borrowed.
                // 2. No Rust reference into guest memory exists, so writing it breaks none.
                unsafe { libc::pread(fd, range.iov_base, range.iov_len, offset) }
            }
            // SAFETY: `preadv` writes to the ranges it is given, and to nothing else.
            // 1. `iov` points to `count_of(iov)` entries, borrowed during the call.
            // 2. Each entry lies inside mappings of `self.memory`, alive as `self` is borrowed.
            // 3. No Rust reference into guest memory exists, so writing it breaks none.
            _ => unsafe { libc::preadv(fd, iov.as_ptr(), count_of(iov), offset) },
        })?;
        self.advance(count);
        Ok(count)
    }

    /// Writes the front to `file` at `offset`, at most `max` bytes in one `pwritev`, and takes what was written off
    /// the front.
    ///
    /// # Errors
    /// The kernel's; an interrupted call is made again.
    pub(crate) fn write_at(&mut self, file: &File, offset: u64, max: usize) -> io::Result<usize> {
        let offset = file_offset(offset)?;
        let iov = self.front(max);
        let fd = file.as_raw_fd();
        let count = retry(|| match iov {
            // SAFETY: `pwrite` reads the range it is given, and nothing else. The range lies inside mappings of
            // `self.memory`, alive as `self` is borrowed.
            [range] => unsafe { libc::pwrite(fd, range.iov_base, range.iov_len, offset) },
            // SAFETY: `pwritev` reads the ranges it is given, and nothing else.
            // 1. `iov` points to `count_of(iov)` entries, borrowed during the call.
            // 2. Each entry lies inside mappings of `self.memory`, alive as `self` is borrowed.
            _ => unsafe { libc::pwritev(fd, iov.as_ptr(), count_of(iov), offset) },
        })?;
        self.advance(count);
        Ok(count)
    }

    /// Fills the front with random bytes of the host, at most `max`, and takes them off the front.
    ///
    /// # Errors
    /// The kernel's; an interrupted call is made again. What was filled before stays filled, and consumed.
    pub(crate) fn fill_random(&mut self, max: usize) -> io::Result<usize> {
        let before = self.len;
        let end = self.len.saturating_sub(max);
        while self.len > end {
            let Some(entry) = self.iov.get(self.first) else {
                break;
            };
            let len = entry.iov_len.min(self.len.saturating_sub(end));
            let count = retry(|| {
                // SAFETY: `getrandom` writes to the range it is given, and to nothing else.
                // 1. The range is the front of an entry, which lies inside mappings of `self.memory`, alive as
                //    `self` is borrowed.
                // 2. No Rust reference into guest memory exists, so writing it breaks none.
                unsafe { libc::getrandom(entry.iov_base, len, 0) }
            })?;
            self.advance(count);
        }
        Ok(before.saturating_sub(self.len))
    }

    /// Reads one datagram into the list and, if it does not fit, on into `spare`. Consumes nothing.
    ///
    /// # Errors
    /// The kernel's; an interrupted call is made again.
    pub(crate) fn receive(&mut self, from: BorrowedFd<'_>, spare: &mut [u8]) -> io::Result<usize> {
        self.iov.push(iovec {
            iov_base: spare.as_mut_ptr().cast(),
            iov_len: spare.len(),
        });
        let iov = self.entries();
        let result = retry(|| {
            // SAFETY: `readv` writes to the ranges it is given, and to nothing else.
            // 1. `iov` points to `count_of(iov)` entries, borrowed during the call.
            // 2. Each entry but the last lies inside mappings of `self.memory`, alive as `self` is borrowed,
            //    to which no Rust reference exists.
            // 3. The last is `spare`, borrowed mutably until after the call and removed below.
            unsafe { libc::readv(from.as_raw_fd(), iov.as_ptr(), count_of(iov)) }
        });
        self.iov.pop();
        result
    }

    /// Writes the list as one datagram. Consumes nothing.
    ///
    /// # Errors
    /// The kernel's; an interrupted call is made again.
    pub(crate) fn send(&self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let iov = self.entries();
        let fd = to.as_raw_fd();
        retry(|| match iov {
            // SAFETY: `write` reads the range it is given, and nothing else. The range lies inside mappings of
            // `self.memory`, alive as `self` is borrowed.
            [range] => unsafe { libc::write(fd, range.iov_base, range.iov_len) },
            // SAFETY: `writev` reads the ranges it is given, and nothing else.
            // 1. `iov` points to `count_of(iov)` entries, borrowed during the call.
            // 2. Each entry lies inside mappings of `self.memory`, alive as `self` is borrowed.
            _ => unsafe { libc::writev(fd, iov.as_ptr(), count_of(iov)) },
        })
    }

    /// Reads what a stream has into the list, at most `max` bytes. The list is made of `parts`, so many bytes each, and
    /// the first `skip` bytes of each are left as they are. Consumes nothing.
    ///
    /// # Errors
    /// The kernel's; an interrupted call is made again.
    pub(crate) fn read_stream(
        &mut self,
        from: BorrowedFd<'_>,
        parts: impl IntoIterator<Item = usize>,
        skip: usize,
        mut max: usize,
    ) -> io::Result<usize> {
        self.window.clear();
        let mut at = 0_usize;
        for part in parts {
            let len = part.saturating_sub(skip).min(max);
            self.cut_more(at.saturating_add(skip), len);
            max = max.saturating_sub(len);
            at = at.saturating_add(part);
        }
        let iov = self.window.as_slice();
        retry(|| {
            // SAFETY: `readv` writes to the ranges it is given, and to nothing else.
            // 1. `iov` points to `count_of(iov)` entries, borrowed during the call.
            // 2. Each is part of an entry of `self.iov`, so it lies inside mappings of `self.memory`, alive as
            //    `self` is borrowed, to which no Rust reference exists.
            unsafe { libc::readv(from.as_raw_fd(), iov.as_ptr(), count_of(iov)) }
        })
    }

    /// Sends the front to a stream socket, at most `max` bytes of it and as many as it takes without waiting.
    /// Consumes nothing. A receiver that is gone is an error and no signal.
    ///
    /// # Errors
    /// The kernel's; an interrupted call is made again.
    pub(crate) fn send_stream(&mut self, to: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
        self.cut(0, max);
        let message = libc::msghdr {
            msg_name: std::ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: self.window.as_mut_ptr(),
            msg_iovlen: self.window.len(),
            msg_control: std::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        };
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        retry(|| {
            // SAFETY: `sendmsg` reads the message and the ranges it names, and nothing else.
            // 1. `msg_iov` points to `msg_iovlen` entries of `self.window`, borrowed during the call.
            // 2. Each is part of an entry of `self.iov`, so it lies inside mappings of `self.memory`, alive as
            //    `self` is borrowed.
            // 3. It has no name and no control data.
            unsafe { libc::sendmsg(to.as_raw_fd(), &raw const message, flags) }
        })
    }

    /// Writes the front to a stream, at most `max` bytes of it and as many as it takes, and takes what was written off
    /// the front.
    ///
    /// # Errors
    /// The kernel's; an interrupted call is made again.
    pub(crate) fn write_stream(&mut self, to: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
        self.cut(0, max);
        let iov = self.window.as_slice();
        let count = retry(|| {
            // SAFETY: `writev` reads the ranges it is given, and nothing else.
            // 1. `iov` points to `count_of(iov)` entries, borrowed during the call.
            // 2. Each is part of an entry of `self.iov`, so it lies inside mappings of `self.memory`, alive as
            //    `self` is borrowed.
            unsafe { libc::writev(to.as_raw_fd(), iov.as_ptr(), count_of(iov)) }
        })?;
        self.advance(count);
        Ok(count)
    }

    /// Puts the `max` bytes from `skip` on, or as many as there are, into the window.
    fn cut(&mut self, skip: usize, max: usize) {
        self.window.clear();
        self.cut_more(skip, max);
    }

    /// Adds the `max` bytes from `skip` on, or as many as there are, to the window.
    fn cut_more(&mut self, mut skip: usize, mut max: usize) {
        for entry in self.iov.get(self.first..).unwrap_or_default() {
            let from = skip.min(entry.iov_len);
            skip = skip.saturating_sub(from);
            let len = entry.iov_len.saturating_sub(from).min(max);
            max = max.saturating_sub(len);
            if len > 0 {
                self.window.push(iovec {
                    iov_base: entry.iov_base.wrapping_byte_add(from),
                    iov_len: len,
                });
            }
        }
    }

    /// Gives the whole pages among the first `at_most` bytes back to the host: what they held is lost, and private
    /// anonymous memory reads as zeroes from then on. Ranges that meet are one call. Consumes nothing. Returns the
    /// bytes given back.
    ///
    /// # Errors
    /// The kernel's, at the first range that it does not take: `EINVAL` for less than a huge page of hugetlbfs.
    pub(crate) fn discard(&self, at_most: usize) -> io::Result<usize> {
        let (mut left, mut freed) = (at_most, 0_usize);
        let mut run: Option<iovec> = None;
        for entry in self.entries() {
            let iov_len = entry.iov_len.min(left);
            left = left.saturating_sub(iov_len);
            match &mut run {
                Some(run) if run.iov_base.wrapping_byte_add(run.iov_len) == entry.iov_base => {
                    run.iov_len = run.iov_len.saturating_add(iov_len);
                }
                _ => {
                    freed = freed.saturating_add(run.map_or(Ok(0), |run| self.discard_run(run))?);
                    run = Some(iovec { iov_len, ..*entry });
                }
            }
        }
        Ok(freed.saturating_add(run.map_or(Ok(0), |run| self.discard_run(run))?))
    }

    /// Gives back the whole pages of a range that is made of entries of this list.
    fn discard_run(&self, run: iovec) -> io::Result<usize> {
        let start = run.iov_base.addr();
        let end = start.saturating_add(run.iov_len);
        let first = start.checked_next_multiple_of(PAGE).unwrap_or(end);
        let len = (end & !(PAGE - 1)).saturating_sub(first);
        if len == 0 {
            return Ok(0);
        }
        let first = run.iov_base.with_addr(first);
        // Pages that are shared stay in their file, which needs a hole.
        let is_shared = self
            .memory
            .iter()
            .any(|region| region.mapping().flags() & libc::MAP_SHARED != 0);
        let advice = if is_shared {
            libc::MADV_REMOVE
        } else {
            libc::MADV_DONTNEED
        };
        // SAFETY: `MADV_DONTNEED` and `MADV_REMOVE` replace the content of the pages in a range, and map or unmap nothing.
        // 1. Each byte of it lies in an entry of this list, and so in a mapping of `self.memory`, alive as `self`
        //    is borrowed.
        // 2. No Rust reference into guest memory exists, so its content may change at any time.
        let result = unsafe { libc::madvise(first, len, advice) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(len)
    }

    /// The ranges of the first `max` bytes, or of all there are.
    pub(super) fn front(&mut self, max: usize) -> &[iovec] {
        if max >= self.len {
            return self.entries();
        }
        self.cut(0, max);
        &self.window
    }

    /// The ranges that are not used up.
    pub(super) fn entries(&self) -> &[iovec] {
        self.iov.get(self.first..).unwrap_or_default()
    }

    /// Calls `visit` with each range from byte `skip` on, until it returns false.
    fn for_each_slice(&self, mut skip: usize, mut visit: impl FnMut(VolatileSlice<'_>) -> bool) {
        for entry in self.entries() {
            // SAFETY: `VolatileSlice::new` wants `iov_len` valid bytes at `iov_base` for the slice's life.
            // 1. The entry lies inside mappings of `self.memory`, all of it, since it was pushed.
            // 2. The slice lives during `visit`, while `self` and with it `self.memory` is borrowed.
            let slice = unsafe { VolatileSlice::new(entry.iov_base.cast(), entry.iov_len) };
            let from = skip.min(entry.iov_len);
            skip = skip.saturating_sub(from);
            let Ok(rest) = slice.offset(from) else {
                return;
            };
            if !rest.is_empty() && !visit(rest) {
                return;
            }
        }
    }

    /// Drops used-up entries when there are many, so that a list that is refilled while it is consumed stays
    /// short.
    fn compact(&mut self) {
        if self.first >= COMPACT_AT || self.first == self.iov.len() {
            self.iov.drain(..self.first);
            self.first = 0;
        }
    }
}

/// Adds a part of a mapping to a list of `len` bytes, of which the entries before `first` are used up. One that follows
/// the last entry in memory makes that longer: drivers often cut buffers from one piece, and a system call takes its
/// time over each entry.
fn push_slice(
    iov: &mut Vec<iovec>,
    first: usize,
    len: &mut usize,
    slice: &VolatileSlice<'_>,
) -> Result<(), PushError> {
    *len = match len.checked_add(slice.len()) {
        Some(total) if u32::try_from(total).is_ok() => total,
        _ => return Err(PushError::TooLong),
    };
    let iov_base = slice.ptr_guard_mut().as_ptr().cast();
    let unused = iov.get_mut(first..).unwrap_or_default();
    if let Some(last) = unused.last_mut()
        && last.iov_base.wrapping_byte_add(last.iov_len) == iov_base
    {
        last.iov_len = last.iov_len.saturating_add(slice.len());
        return Ok(());
    }
    if iov.len() >= MAX_SEGMENTS {
        return Err(PushError::TooLong);
    }
    iov.push(iovec {
        iov_base,
        iov_len: slice.len(),
    });
    Ok(())
}

/// The length of `iov` as system calls take it.
fn count_of(iov: &[iovec]) -> libc::c_int {
    libc::c_int::try_from(iov.len()).expect("at most `MAX_SEGMENTS` ranges, and a spare one")
}

/// `offset` as system calls take it.
fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests;
