//! Client for the microVM socket API: blocking HTTP/1.1 over a Unix socket, and nothing more.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use serde_json::json;
//!
//! let mut client = api_client::Client::connect_within("/tmp/vm.sock", Duration::from_secs(1))?;
//! let answer = client.put("/actions", Some(&json!({"action_type": "InstanceStart"})))?;
//! assert_eq!(answer.status, 204, "{:?}", answer.fault());
//! # Ok::<(), api_client::ClientError>(())
//! ```
//!
//! A [`Client`] keeps its connection from one request to the next and makes a new one when the server closed
//! it. What a server can make it hold is bounded.

mod events;
mod response;

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

pub use events::Events;
pub use response::Response;

/// Pause between two attempts to connect.
const RETRY: Duration = Duration::from_millis(1);

/// A connection to one microVM.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    timeout: Option<Duration>,
    /// `None` after the server closed it.
    stream: Option<BufReader<UnixStream>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("cannot connect to {path:?}; check that the microVM process runs and listens there")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
    /// The connection broke, or the answer took too long.
    #[error("the connection broke")]
    Broken(#[from] io::Error),
    /// The answer is not HTTP/1.1 as this client reads it.
    #[error("the answer is malformed: {0}")]
    Malformed(String),
    /// The server does not tell events.
    #[error("the server refuses to tell events, with status {0}")]
    Refused(u16),
    /// The answer's body is not JSON.
    #[error("the answer's body is not JSON")]
    Json(#[from] serde_json::Error),
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let path = path.as_ref().to_owned();
        let stream = Some(open(&path, None)?);
        Ok(Self {
            path,
            timeout: None,
            stream,
        })
    }

    /// Connects as soon as somebody listens at `path`, within `limit`.
    ///
    /// # Errors
    /// When nobody listens by then.
    pub fn connect_within(path: impl AsRef<Path>, limit: Duration) -> Result<Self, ClientError> {
        let start = Instant::now();
        loop {
            match Self::connect(&path) {
                Err(_) if start.elapsed() < limit => thread::sleep(RETRY),
                result => return result,
            }
        }
    }

    /// Waits at most `timeout` for each part of an answer; `None`, as at first, waits for ever.
    ///
    /// # Errors
    /// When `timeout` is zero.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) -> Result<(), ClientError> {
        self.timeout = timeout;
        if let Some(stream) = &self.stream {
            limit(stream.get_ref(), timeout)?;
        }
        Ok(())
    }

    /// `GET path`.
    ///
    /// # Errors
    /// When there is no answer. An answer that refuses is an answer.
    pub fn get(&mut self, path: &str, body: Option<&Value>) -> Result<Response, ClientError> {
        self.request("GET", path, body)
    }

    /// `PUT path`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn put(&mut self, path: &str, body: Option<&Value>) -> Result<Response, ClientError> {
        self.request("PUT", path, body)
    }

    /// `PATCH path`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn patch(&mut self, path: &str, body: Option<&Value>) -> Result<Response, ClientError> {
        self.request("PATCH", path, body)
    }

    /// `DELETE path`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn delete(&mut self, path: &str, body: Option<&Value>) -> Result<Response, ClientError> {
        self.request("DELETE", path, body)
    }

    /// `GET /events`: what happened after the event whose `seq` is `since` (0: all that is kept), and what happens from
    /// now on. It has a connection of its own, where each part may take as long as here ([`Client::set_timeout`]).
    ///
    /// # Errors
    /// When there is no answer, or the server refuses.
    pub fn events(&self, since: u64) -> Result<Events, ClientError> {
        let mut stream = open(&self.path, self.timeout)?;
        let request = format!("GET /events?since={since} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.get_mut().write_all(request.as_bytes())?;
        let head = response::read_head(&mut stream)?;
        match (head.status, head.header("transfer-encoding")) {
            (200, Some(encoding)) if encoding.eq_ignore_ascii_case("chunked") => {
                Ok(Events::new(stream))
            }
            (status, _) => Err(ClientError::Refused(status)),
        }
    }

    fn request(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response, ClientError> {
        let body = body
            .map(serde_json::to_vec)
            .transpose()?
            .unwrap_or_default();
        let mut message = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        if !body.is_empty() {
            let len = body.len();
            message += &format!("Content-Type: application/json\r\nContent-Length: {len}\r\n");
        }
        message += "\r\n";
        let mut message = message.into_bytes();
        message.extend(body);

        // Not put back after a failure: where the next answer would begin is then unknown.
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => open(&self.path, self.timeout)?,
        };
        // A server that refused to read all of it has still answered.
        let sent = stream.get_mut().write_all(&message);
        let (response, is_last) = match (response::read(&mut stream), sent) {
            (Err(ClientError::Broken(_)), Err(failure)) => return Err(failure.into()),
            (result, _) => result?,
        };
        self.stream = (!is_last).then_some(stream);
        Ok(response)
    }
}

fn open(path: &Path, timeout: Option<Duration>) -> Result<BufReader<UnixStream>, ClientError> {
    let stream = UnixStream::connect(path).map_err(|source| ClientError::Connect {
        path: path.to_owned(),
        source,
    })?;
    limit(&stream, timeout)?;
    Ok(BufReader::new(stream))
}

fn limit(stream: &UnixStream, timeout: Option<Duration>) -> io::Result<()> {
    stream.set_read_timeout(timeout)?;
    stream.set_write_timeout(timeout)
}

#[cfg(test)]
mod tests;
