//! A connection's stream, and how a connection that is not HTTP is told so.
//!
//! hyper answers what it cannot parse with a bare status line. [`Socket`] holds that answer back, so that the
//! client gets one in this interface's form instead: status 400 and a JSON body with the reason.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::body::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::timeout_at;

use super::activity::{Activity, Doing};
use crate::answer::{Answer, SERVER_NAME};
use crate::error::ApiError;

/// hyper's words for what it cannot parse, and ours.
const REASONS: &[(&str, &str)] = &[
    ("content-length", "Invalid value. Key:Content-Length"),
    ("version", "Unsupported HTTP version."),
    ("URI", "Invalid URI."),
    (
        "method",
        "Unsupported HTTP method; use GET, PUT, PATCH or DELETE.",
    ),
    (
        "too l",
        "Request head is too large, over 16384 bytes; send a shorter path and fewer or shorter headers.",
    ),
    (
        "transfer-encoding",
        "Unsupported transfer encoding; use chunked or Content-Length.",
    ),
    ("header", "Header is incorrectly formatted."),
];

/// Told to a client whose request is not whole in time.
const LATE: &str =
    "The request did not arrive in time; send it whole, and its body as long as announced.";

/// Why a client is told that its request cannot be one.
pub(super) enum Refusal {
    /// hyper cannot parse it.
    NotHttp(hyper::Error),
    /// It was not whole in time.
    Late,
}

/// A connection's stream.
pub(super) struct Socket {
    stream: TokioIo<UnixStream>,
    /// Hears what comes and goes.
    activity: Rc<Activity>,
    /// What was read but not used.
    unused: Bytes,
    /// hyper's own answer was held back.
    is_refused: bool,
}

impl Socket {
    pub(super) fn new(stream: UnixStream, activity: Rc<Activity>) -> Self {
        Self {
            stream: TokioIo::new(stream),
            activity,
            unused: Bytes::new(),
            is_refused: false,
        }
    }

    /// This stream with `unused`, which was read from it, to be read again.
    pub(super) fn give_back(self, unused: Bytes) -> Self {
        Self { unused, ..self }
    }

    /// Looks for the end of a client that is sent events. Nothing else that it says matters any more, and hyper, which
    /// still has some of it, does not look.
    fn check_end(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let mut bytes = [0; 256];
        loop {
            let mut ignored = ReadBuf::new(&mut bytes);
            match Pin::new(self.stream.inner_mut()).poll_read(context, &mut ignored) {
                Poll::Pending => return Ok(()),
                Poll::Ready(read) => read?,
            }
            if ignored.filled().is_empty() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    }

    /// Ends the connection after hyper is done with it: says what was wrong, if something was, and waits for
    /// the client to close, so that it can read what it was told. A client that takes long hears less.
    pub(super) async fn finish(self, refusal: Option<Refusal>) {
        let told = match refusal {
            Some(Refusal::NotHttp(wrong)) if self.is_refused => Some(explain(&wrong.to_string())),
            Some(Refusal::Late) => Some(LATE.to_owned()),
            _ => None,
        };
        let mut stream = self.stream.into_inner();
        let goodbye = async move {
            if let Some(reason) = told {
                stream.write_all(&refuse(reason)).await?;
            }
            stream.shutdown().await?;
            let mut ignored = [0; 1024];
            while stream.read(&mut ignored).await? > 0 {}
            Ok::<_, io::Error>(())
        };
        if let Some(deadline) = self.activity.deadline() {
            // Whoever is late or gone is left.
            let _ = timeout_at(deadline, goodbye).await;
        }
    }
}

/// Why a request is refused that hyper refused with `words`.
fn explain(words: &str) -> String {
    let known = REASONS.iter().find(|(theirs, _)| words.contains(theirs));
    known.map_or_else(
        || format!("Invalid request: {words}."),
        |(_, ours)| (*ours).to_owned(),
    )
}

/// The answer to a request that is none.
fn refuse(reason: String) -> Vec<u8> {
    let answer = Answer::refuse(&ApiError::Malformed(reason));
    answer.log();
    let head = format!(
        "HTTP/1.1 400 \r\nServer: {SERVER_NAME}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        answer.body().len()
    );
    [head.as_bytes(), answer.body()].concat()
}

/// Whether `bytes` are an answer that hyper made by itself: ours name the server.
fn is_own_refusal(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HTTP/1.1 4")
        && bytes.ends_with(b"\r\n\r\n")
        && !bytes
            .windows(SERVER_NAME.len())
            .any(|window| window == SERVER_NAME.as_bytes())
}

impl Read for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        if !socket.unused.is_empty() {
            socket.activity.received();
            let len = socket.unused.len().min(buffer.remaining());
            buffer.put_slice(&socket.unused.split_to(len));
            socket.activity.received();
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut socket.stream).poll_read(context, buffer);
        if let Poll::Ready(Ok(())) = read {
            // The end of the stream too, and then the connection ends.
            socket.activity.received();
        }
        read
    }
}

impl Write for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        if is_own_refusal(bytes) {
            socket.is_refused = true;
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut socket.stream).poll_write(context, bytes);
        socket.activity.takes(written.is_ready());
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        // hyper comes by whenever something happens to the connection.
        if socket.activity.doing() == Doing::Streaming {
            socket.check_end(context)?;
        }
        let flushed = Pin::new(&mut socket.stream).poll_flush(context);
        if let Poll::Ready(Ok(())) = flushed {
            // hyper flushes when it has handed over all that it has.
            socket.activity.sent();
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
