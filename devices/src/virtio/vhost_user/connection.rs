//! The socket to a back end: requests, which are over when the patience with them ends. Knows no queue.

use std::io::{self, ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::VhostUserError;
use super::message::{Ack, Code, Header, MAX_REGIONS};

/// How long a back end may take for all that is asked of it in a row.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The same for what needs no work of it, while a guest runs and the event loop waits.
pub const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// A back end that answers so far.
pub(super) struct Connection {
    socket: UnixStream,
    /// It acknowledges requests that have no answer of their own.
    has_ack: bool,
    /// What it may take, and when that is over.
    patience: Duration,
    deadline: Instant,
}

impl Connection {
    /// Connects to `path`. Does not wait for a back end that accepts nobody.
    pub(super) fn open(path: &Path, patience: Duration) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self {
            socket: socket.into(),
            has_ack: false,
            patience,
            deadline: Instant::now() + patience,
        })
    }

    /// The back end agreed to acknowledge.
    pub(super) fn set_ack(&mut self, has_ack: bool) {
        self.has_ack = has_ack;
    }

    /// What is asked from now on belongs together, and may take so long.
    pub(super) fn begin(&mut self, patience: Duration) {
        self.patience = patience;
        self.deadline = Instant::now() + patience;
    }

    /// Has the back end do something. It has done it when this returns, if it acknowledges.
    pub(super) fn tell(
        &mut self,
        code: Code,
        payload: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> Result<(), VhostUserError> {
        if !self.has_ack {
            return self.send(code, payload, files, Ack::None);
        }
        self.send(code, payload, files, Ack::Wanted)?;
        match self.receive::<u64>(code)? {
            0 => Ok(()),
            _ => Err(VhostUserError::Refused(code.1)),
        }
    }

    /// Asks the back end for a `T`.
    pub(super) fn ask<T>(&mut self, code: Code, payload: &[u8]) -> Result<T, VhostUserError>
    where
        T: FromBytes + IntoBytes,
    {
        self.send(code, payload, &[], Ack::None)?;
        self.receive(code)
    }

    /// The back end closed the connection, or says what nobody asked for.
    pub(super) fn is_over(&self) -> bool {
        let mut byte = [0; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = rustix::net::recv(&self.socket, &mut byte[..], flags);
        !matches!(
            peeked,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR)
        )
    }

    fn send(
        &mut self,
        code: Code,
        payload: &[u8],
        files: &[BorrowedFd<'_>],
        ack: Ack,
    ) -> Result<(), VhostUserError> {
        let size = u32::try_from(payload.len()).map_err(|_| VhostUserError::Memory)?;
        let header = Header::request(code, size, ack);
        let (mut header, mut payload) = (header.as_bytes(), payload);
        let mut files = files;
        while !(header.is_empty() && payload.is_empty()) {
            let parts = [IoSlice::new(header), IoSlice::new(payload)];
            match send_once(&self.socket, &parts, files) {
                Ok(count) => {
                    // Descriptors travel with the first byte.
                    files = &[];
                    let of_header = count.min(header.len());
                    header = header.get(of_header..).unwrap_or_default();
                    payload = payload.get(count - of_header..).unwrap_or_default();
                }
                Err(error) => self.wait(code, error, PollFlags::OUT)?,
            }
        }
        Ok(())
    }

    fn receive<T: FromBytes + IntoBytes>(&mut self, code: Code) -> Result<T, VhostUserError> {
        let mut header = Header::new_zeroed();
        self.fill(code, header.as_mut_bytes())?;
        if !header.answers(code, size_of::<T>()) {
            return Err(VhostUserError::Answer(code.1));
        }
        let mut answer = T::new_zeroed();
        self.fill(code, answer.as_mut_bytes())?;
        Ok(answer)
    }

    /// Descriptors that come along are not taken.
    fn fill(&mut self, code: Code, mut rest: &mut [u8]) -> Result<(), VhostUserError> {
        while !rest.is_empty() {
            match (&self.socket).read(rest) {
                Ok(0) => return Err(VhostUserError::Closed(code.1)),
                Ok(count) => rest = rest.get_mut(count..).unwrap_or_default(),
                Err(error) => self.wait(code, error, PollFlags::IN)?,
            }
        }
        Ok(())
    }

    /// Waits for the socket after a call that ended in `error`, until the deadline.
    fn wait(&self, code: Code, error: io::Error, ready: PollFlags) -> Result<(), VhostUserError> {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => {}
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                return Err(VhostUserError::Closed(code.1));
            }
            _ => return Err(VhostUserError::Io(code.1, error)),
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(VhostUserError::Timeout(code.1, self.patience));
        }
        let left = Timespec::try_from(left).ok();
        // Whatever it says, the call is tried again, and the clock is looked at.
        let _ = poll(&mut [PollFd::new(&self.socket, ready)], left.as_ref());
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn send_once(
    socket: &UnixStream,
    parts: &[IoSlice<'_>],
    files: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_REGIONS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(rustix::net::sendmsg(socket, parts, &mut control, flags)?)
}
