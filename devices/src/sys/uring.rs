//! One io_uring for all drives of a microVM (Linux `io_uring(7)`).
//!
//! ```text
//!  drive --Port::start(segments)--> Ring: flight table --> kernel
//!    ^                                                       |
//!    +-- Port::take: Landed(segments, result) <-- event -----+
//! ```
//!
//! What an operation uses (the list of segments with the guest memory behind it, the file) moves into the ring's
//! table and comes back when the kernel is done with it: nobody can free or change it meanwhile. The ring is made
//! when the first drive wants it.
//!
//! Its lock is held for one short call, except by [`Port::wait`], which holds it while it waits for the disk. Nobody
//! else waits then: operations are started, taken and waited for on the one thread that all drives of a microVM
//! share, and a vCPU that starts a drive makes its port without the lock.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use io_uring::{IoUring, Probe, opcode, squeue, types};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::segments::Segments;

/// Entries of the submission queue; the completion queue has twice as many.
const ENTRIES: u16 = 256;
/// Operations under way at once: what the completion queue holds.
const MAX_FLIGHTS: u32 = 2 * ENTRIES as u32;

/// The ring of a microVM, made when it is first asked for.
#[derive(Clone, Debug, Default)]
pub struct SharedRing(Arc<Mutex<Option<Arc<Ring>>>>);

/// A ring, and what is under way in it.
pub(crate) struct Ring {
    inner: Mutex<Inner>,
    /// What the next port is called.
    next_port: AtomicU32,
    /// Signalled by the kernel with every completion.
    event: EventFd,
}

struct Inner {
    uring: IoUring,
    /// Indexed by what the kernel gives back as user data.
    flights: Vec<Option<Flight>>,
    free: Vec<u32>,
    /// Done, and not yet taken by their ports.
    landed: Vec<(u32, Landed)>,
}

/// What an operation uses until the kernel is done with it.
struct Flight {
    port: u32,
    tag: usize,
    segments: Option<Segments>,
    _file: Arc<File>,
}

/// What to do with the file.
#[derive(Debug)]
pub(crate) enum Operation {
    /// Fill the front of the segments, at most so many bytes, from a byte of the file on.
    Read(Segments, u64, usize),
    /// Store the front of the segments, at most so many bytes, to a byte of the file on.
    Write(Segments, u64, usize),
    /// Make what was written durable.
    Sync,
}

/// An operation that is done.
#[derive(Debug)]
pub(crate) struct Landed {
    /// As it was started with.
    pub tag: usize,
    /// As they were: nothing is consumed.
    pub segments: Option<Segments>,
    /// Bytes moved.
    pub result: io::Result<usize>,
}

/// One drive's way to the ring.
pub(crate) struct Port {
    ring: Arc<Ring>,
    id: u32,
    /// The ring's event under a descriptor of its own, for the event loop.
    event: EventFd,
}

impl SharedRing {
    /// The ring.
    ///
    /// # Errors
    /// The kernel's, or `Unsupported` when it has io_uring and not all that is needed.
    pub(crate) fn get(&self) -> io::Result<Arc<Ring>> {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ring) = &*ring {
            return Ok(Arc::clone(ring));
        }
        let made = Arc::new(Ring::new()?);
        *ring = Some(Arc::clone(&made));
        Ok(made)
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

impl Ring {
    fn new() -> io::Result<Self> {
        let uring = IoUring::new(ENTRIES.into())?;
        let mut probe = Probe::new();
        uring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Readv::CODE,
            opcode::Writev::CODE,
            opcode::Fsync::CODE,
        ];
        if !needed.into_iter().all(|code| probe.is_supported(code)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        uring.submitter().register_eventfd(event.as_raw_fd())?;
        let inner = Inner {
            uring,
            flights: (0..MAX_FLIGHTS).map(|_| None).collect(),
            free: (0..MAX_FLIGHTS).collect(),
            landed: Vec::with_capacity(MAX_FLIGHTS as usize),
        };
        Ok(Self {
            inner: Mutex::new(inner),
            next_port: AtomicU32::new(0),
            event,
        })
    }

    /// A way in for one drive. Takes no lock.
    ///
    /// # Errors
    /// When the host gives no descriptor.
    pub(crate) fn port(self: &Arc<Self>) -> io::Result<Port> {
        Ok(Port {
            event: self.event.try_clone()?,
            id: self.next_port.fetch_add(1, Ordering::Relaxed),
            ring: Arc::clone(self),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Port {
    /// Readable edges come with every completion, of any drive.
    pub(crate) fn event(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Queues an operation on `file`; [`Port::submit`] starts it. Its result comes with `tag`.
    ///
    /// # Errors
    /// The operation itself, when the ring has no room; a completion will make some.
    pub(crate) fn start(
        &self,
        file: &Arc<File>,
        operation: Operation,
        tag: usize,
    ) -> Result<(), Operation> {
        self.ring.lock().start(self.id, file, operation, tag)
    }

    /// Hands what is queued to the kernel.
    ///
    /// # Errors
    /// The kernel's; what was not handed over is still queued.
    pub(crate) fn submit(&self) -> io::Result<()> {
        let mut inner = self.ring.lock();
        if inner.uring.submission().is_empty() {
            return Ok(());
        }
        again(|| inner.uring.submit())
    }

    /// Takes this drive's operations that are done.
    pub(crate) fn take(&self, into: &mut Vec<Landed>) {
        let mut inner = self.ring.lock();
        inner.reap();
        let mut index = 0;
        while let Some((port, _)) = inner.landed.get(index) {
            if *port == self.id {
                into.push(inner.landed.swap_remove(index).1);
            } else {
                index += 1;
            }
        }
    }

    /// Waits until some operation is done, of this drive or another; returns at once when one was and is not
    /// taken. For a drive that stops: the ring's lock is held meanwhile.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let mut inner = self.ring.lock();
        inner.reap();
        if inner.landed.iter().any(|(port, _)| *port == self.id) {
            return Ok(());
        }
        again(|| inner.uring.submit_and_wait(1))
    }
}

impl Inner {
    fn start(
        &mut self,
        port: u32,
        file: &Arc<File>,
        mut operation: Operation,
        tag: usize,
    ) -> Result<(), Operation> {
        let full = self.uring.submission().is_full();
        if full && again(|| self.uring.submit()).is_err() {
            return Err(operation);
        }
        let Some(index) = self.free.pop() else {
            return Err(operation);
        };
        let Some(place) = self.flights.get_mut(index as usize) else {
            return Err(operation);
        };
        let fd = types::Fd(file.as_raw_fd());
        let entry = match &mut operation {
            Operation::Read(segments, at, max) => {
                let iov = segments.front(*max);
                opcode::Readv::new(fd, iov.as_ptr(), count_of(iov))
                    .offset(*at)
                    .build()
            }
            Operation::Write(segments, at, max) => {
                let iov = segments.front(*max);
                opcode::Writev::new(fd, iov.as_ptr(), count_of(iov))
                    .offset(*at)
                    .build()
            }
            Operation::Sync => opcode::Fsync::new(fd)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
        };
        let entry: squeue::Entry = entry.user_data(index.into());
        // SAFETY: what an entry points to must be valid until the operation is done.
        // 1. The array of ranges is the heap storage of `segments`, and each range lies in a mapping that
        //    `segments` keeps alive. Both move into `place` below, whatever happens: nothing between can fail. That
        //    entry of `flights` is overwritten by nobody until the kernel reports the completion of this index, for
        //    only then is the index free again, and `Inner` is not dropped before that.
        // 2. The file descriptor is open as long as `_file` in the same entry.
        // 3. No Rust reference into guest memory exists, so the kernel's writing it breaks none.
        let pushed = unsafe { self.uring.submission().push(&entry) };
        if pushed.is_err() {
            self.free.push(index);
            return Err(operation);
        }
        let segments = match operation {
            Operation::Read(segments, ..) | Operation::Write(segments, ..) => Some(segments),
            Operation::Sync => None,
        };
        *place = Some(Flight {
            port,
            tag,
            segments,
            _file: Arc::clone(file),
        });
        Ok(())
    }

    /// Notes what the kernel is done with.
    fn reap(&mut self) {
        for entry in self.uring.completion() {
            let index = entry.user_data();
            let place = usize::try_from(index).ok();
            let place = place.and_then(|index| self.flights.get_mut(index));
            let Some(flight) = place.and_then(Option::take) else {
                continue;
            };
            self.free.extend(u32::try_from(index));
            let result = usize::try_from(entry.result())
                .map_err(|_| io::Error::from_raw_os_error(entry.result().saturating_neg()));
            let landed = Landed {
                tag: flight.tag,
                segments: flight.segments,
                result,
            };
            self.landed.push((flight.port, landed));
        }
    }
}

impl Drop for Inner {
    /// Waits for what is under way: the kernel may still write to guest memory.
    fn drop(&mut self) {
        while self.free.len() < self.flights.len() {
            if again(|| self.uring.submit_and_wait(1)).is_err() {
                // Better lost than written to after it is something else.
                std::mem::forget(std::mem::take(&mut self.flights));
                return;
            }
            self.reap();
        }
    }
}

/// Makes a call again as long as a signal interrupts it.
fn again(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<()> {
    loop {
        match call() {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The length of `iov` as the ring takes it.
fn count_of(iov: &[libc::iovec]) -> u32 {
    u32::try_from(iov.len()).expect("`Segments` takes at most `MAX_SEGMENTS` ranges")
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::testing::{guest_memory, unless_forbidden};

    /// The ring, or `None` where this process may not have one.
    fn ring() -> Option<Arc<Ring>> {
        unless_forbidden(SharedRing::default().get(), "io_uring")
    }

    fn wait_for(port: &Port, count: usize) -> Vec<Landed> {
        let mut landed = Vec::new();
        while landed.len() < count {
            port.submit().unwrap();
            port.wait().unwrap();
            port.take(&mut landed);
        }
        landed
    }

    #[test]
    fn ports_get_their_own_operations_back_with_what_they_gave() {
        let Some(ring) = ring() else { return };
        let ports = [ring.port().unwrap(), ring.port().unwrap()];
        let memory = guest_memory(1 << 20);
        let file = Arc::new(tempfile::tempfile().unwrap());
        memory.write_slice(&[7; 1024], GuestAddress(0)).unwrap();
        let segments = |at| {
            let mut segments = Segments::new(Arc::clone(&memory));
            segments.push(GuestAddress(at), 512).unwrap();
            segments.push(GuestAddress(at + 512), 512).unwrap();
            segments
        };
        let write = Operation::Write(segments(0), 4096, usize::MAX);
        ports[0].start(&file, write, 10).unwrap();
        let landed = wait_for(&ports[0], 1);
        assert_eq!(landed[0].tag, 10);
        assert_eq!(*landed[0].result.as_ref().unwrap(), 1024);
        assert_eq!(landed[0].segments.as_ref().unwrap().len(), 1024);

        let read = Operation::Read(segments(8192), 4096, 600);
        ports[1].start(&file, read, 20).unwrap();
        ports[0].start(&file, Operation::Sync, 11).unwrap();
        assert_eq!(wait_for(&ports[0], 1)[0].tag, 11);
        let landed = wait_for(&ports[1], 1);
        assert_eq!(landed[0].tag, 20);
        assert_eq!(*landed[0].result.as_ref().unwrap(), 600);
        let mut bytes = [0; 1024];
        memory.read_slice(&mut bytes, GuestAddress(8192)).unwrap();
        assert_eq!(bytes[..600], [7; 600]);
        assert_eq!(bytes[600..], [0; 424]);
    }

    #[test]
    fn full_ring_gives_the_operation_back_and_an_error_is_told() {
        let Some(ring) = ring() else { return };
        let port = ring.port().unwrap();
        let (pipe, _other) = io::pipe().unwrap();
        let pipe = Arc::new(File::from(std::os::fd::OwnedFd::from(pipe)));
        let started = (0..=MAX_FLIGHTS as usize)
            .take_while(|tag| port.start(&pipe, Operation::Sync, *tag).is_ok())
            .count();
        assert_eq!(started, MAX_FLIGHTS as usize);
        let landed = wait_for(&port, started);
        assert_eq!(landed.len(), started);
        let error = landed[0].result.as_ref().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        port.start(&pipe, Operation::Sync, 0).unwrap();
    }
}
