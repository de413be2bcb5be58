//! The host's end: Unix sockets, and the line by which a host process says to which port it wants.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, socket_with,
};

use vm_config::{Explain, FaultCode, FaultKind};

/// A vsock device that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// The socket that the user named.
    #[error(
        "Cannot create backend for vsock device: Error binding to the host-side Unix socket: {error}; {}",
        remedy(error, path)
    )]
    Bind {
        /// Its path.
        path: PathBuf,
        /// The host's answer; part of the message, so not its source.
        error: io::Error,
    },
    /// What waits for sockets.
    #[error(
        "Cannot create backend for vsock device: cannot wait for sockets: {0}; raise the limit on open files (`ulimit -n`)"
    )]
    Wait(io::Error),
}

impl Explain for VsockError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::Bind { .. } => FaultCode::VsockSocket,
            Self::Wait(_) => FaultCode::HostLimit,
        })
    }
}

/// The socket on which the host reaches the guest; its path goes with it.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Makes the socket at `path`.
    pub(super) fn bind(path: &Path) -> Result<Self, VsockError> {
        let failed = |error| VsockError::Bind {
            path: path.to_owned(),
            error,
        };
        // The kernel would make a name up, and guests would reach sockets of the working directory (unix(7), autobind).
        if path.as_os_str().is_empty() {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        let socket = UnixListener::bind(path).map_err(failed)?;
        // From here on the path goes when this is dropped.
        let listener = Self {
            socket,
            path: path.to_owned(),
        };
        listener.socket.set_nonblocking(true).map_err(failed)?;
        Ok(listener)
    }

    /// Connects to the host process that serves `port`: at the same path with `_<port>` behind it. Never waits.
    pub(super) fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &address)?;
        Ok(UnixStream::from(socket))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody else may have removed it already.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The longest line by which a host process asks for a port, its end included.
const MAX_LINE: usize = 32;

/// What a host process said first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// `CONNECT <port>`.
    Port(u32),
    /// Not all of it yet.
    Unfinished,
    /// Something else.
    Wrong,
}

/// What a host process said first. What is no such line is taken off the stream, too: a socket that is closed with
/// something unread gives its peer an error in place of an end.
pub(super) fn read_greeting(stream: &UnixStream, is_ending: bool) -> Greeting {
    let greeting = take_line(stream, is_ending);
    if greeting == Greeting::Wrong {
        // Closed next, whatever this says.
        let _ = recv(stream, &mut [0; MAX_LINE][..], RecvFlags::DONTWAIT);
    }
    greeting
}

/// Takes the line `CONNECT <port>\n` off the stream once all of it is there, and nothing behind it. Pieces of it
/// stay in the socket until then. `is_ending`: no more will come.
fn take_line(stream: &UnixStream, is_ending: bool) -> Greeting {
    let mut line = [0; MAX_LINE];
    let flags = RecvFlags::DONTWAIT;
    let len = match recv(stream, &mut line[..], flags | RecvFlags::PEEK) {
        Ok((len, _)) => len,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Greeting::Unfinished,
        Err(_) => return Greeting::Wrong,
    };
    let is_newline = |byte: &u8| *byte == b'\n';
    let said = line.get(..len).unwrap_or_default();
    let Some(end) = said.iter().position(is_newline) else {
        let can_go_on = len > 0 && len < MAX_LINE && !is_ending;
        return if can_go_on {
            Greeting::Unfinished
        } else {
            Greeting::Wrong
        };
    };
    let Some(port) = said.get(..end).and_then(parse) else {
        return Greeting::Wrong;
    };
    let mut line = [0; MAX_LINE];
    let whole = line.get_mut(..=end).unwrap_or_default();
    match recv(stream, whole, flags) {
        Ok((taken, _)) if taken == end + 1 => Greeting::Port(port),
        _ => Greeting::Wrong,
    }
}

/// The port in `CONNECT <port>`, in any case of letters.
fn parse(line: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let is_connect = words.next()?.eq_ignore_ascii_case("connect");
    let port = words.next().filter(|_| is_connect)?;
    port.parse().ok()
}

/// What a user can do about a socket that cannot be made.
fn remedy(error: &io::Error, path: &Path) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("if no other microVM uses it, remove {}", path.display())
        }
        io::ErrorKind::NotFound => format!("make the directory of {}", path.display()),
        io::ErrorKind::InvalidInput => "use a path of 1 to 96 bytes".to_owned(),
        _ => format!("check {} as the jailed process sees it", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn greet(text: &[u8], is_ending: bool) -> (Greeting, Vec<u8>) {
        let (mut host, ours) = UnixStream::pair().unwrap();
        host.write_all(text).unwrap();
        let greeting = read_greeting(&ours, is_ending);
        drop(host);
        let mut rest = Vec::new();
        (&ours).read_to_end(&mut rest).unwrap();
        (greeting, rest)
    }

    #[test]
    fn a_line_is_taken_and_what_follows_it_is_left() {
        for text in [
            "CONNECT 52\nhello",
            "connect 52\nhello",
            "Connect  52 \r\nhello",
        ] {
            let (greeting, rest) = greet(text.as_bytes(), false);
            assert_eq!(greeting, Greeting::Port(52), "{text}");
            assert_eq!(rest, b"hello");
        }
        assert_eq!(
            greet(b"CONNECT 4294967295\n", true).0,
            Greeting::Port(u32::MAX)
        );
    }

    #[test]
    fn a_line_in_pieces_is_waited_for() {
        let (mut host, ours) = UnixStream::pair().unwrap();
        for piece in ["CON", "NECT", " 5", "2"] {
            host.write_all(piece.as_bytes()).unwrap();
            assert_eq!(read_greeting(&ours, false), Greeting::Unfinished);
        }
        host.write_all(b"\n").unwrap();
        assert_eq!(read_greeting(&ours, false), Greeting::Port(52));
        assert_eq!(read_greeting(&ours, false), Greeting::Unfinished);
    }

    #[test]
    fn what_is_no_such_line_is_wrong() {
        for text in [
            "\n",
            "CONNECT\n",
            "CONNECT x\n",
            "CONNECT -1\n",
            "CONNECT 4294967296\n",
            "DISCONNECT 52\n",
            "CONNECT 52                        \n",
            "\u{ff}\u{fe}\n",
        ] {
            assert_eq!(greet(text.as_bytes(), false).0, Greeting::Wrong, "{text}");
        }
        assert_eq!(greet(b"CONNECT 52", true).0, Greeting::Wrong);
        assert_eq!(greet(&[b'C'; 32], false).0, Greeting::Wrong);
    }

    #[test]
    fn a_path_in_use_says_so_and_one_of_ours_goes_with_us() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.sock");
        let first = Listener::bind(&path).unwrap();
        let text = Listener::bind(&path).unwrap_err().to_string();
        let words = "Cannot create backend for vsock device: Error binding to the host-side Unix socket: \
                     Address already in use (os error 98); ";
        assert!(text.starts_with(words), "{text}");
        drop(first);
        assert!(!path.exists());
        Listener::bind(&path).unwrap();
    }

    #[test]
    fn a_path_of_nothing_is_refused() {
        let text = Listener::bind(Path::new("")).unwrap_err().to_string();
        assert!(text.contains("use a path of 1 to 96 bytes"), "{text}");
    }

    #[test]
    fn a_full_queue_of_connections_refuses_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&folder.path().join("v")).unwrap();
        assert!(listener.connect(5).is_err());
        let _service = UnixListener::bind(folder.path().join("v_5")).unwrap();
        let mut held = Vec::new();
        let refused = std::iter::repeat_with(|| listener.connect(5))
            .take(20_000)
            .find_map(|stream| stream.map(|stream| held.push(stream)).err());
        // Where the host's queue is longer than its limit on files, that limit ends it.
        assert!(refused.is_some());
    }
}
