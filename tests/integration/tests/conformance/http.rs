//! Bytes out, answers in.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// Far above what an answer takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection.
pub struct Connection(BufReader<UnixStream>);

/// An answer as it came.
pub struct Found {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// The body; of a stream its first chunk.
    pub text: Option<String>,
    /// The body, if it is JSON.
    pub body: Option<Value>,
}

impl Connection {
    pub fn open(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn send(&mut self, bytes: &[u8]) {
        // A server that does not read all of it has still answered.
        let _ = self.0.get_mut().write_all(bytes);
    }

    /// A request with `body`; none if it is empty.
    pub fn ask(&mut self, request: &str, body: &str) -> Result<Found, String> {
        let length = match body.len() {
            0 => String::new(),
            len => format!("Content-Length: {len}\r\n"),
        };
        self.send(format!("{request} HTTP/1.1\r\n{length}\r\n{body}").as_bytes());
        self.read()
    }

    /// The next answer.
    pub fn read(&mut self) -> Result<Found, String> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| format!("status line {line:?}"))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").ok_or(format!("header {line:?}"))?;
            headers.push((name.to_owned(), value.to_owned()));
        }
        let mut found = Found {
            status,
            headers,
            text: None,
            body: None,
        };
        found.text = self.body(&found)?;
        let text = found.text.as_deref().unwrap_or_default();
        found.body = serde_json::from_str(text).ok();
        Ok(found)
    }

    /// What follows the head of `found`.
    fn body(&mut self, found: &Found) -> Result<Option<String>, String> {
        let len = if found.is_stream() {
            let size = self.line()?;
            usize::from_str_radix(&size, 16).map_err(|_| format!("chunk size {size:?}"))?
        } else if let Some(len) = found.header("Content-Length") {
            len.parse().map_err(|_| format!("length {len:?}"))?
        } else {
            return Ok(None);
        };
        let mut body = vec![0; len];
        self.0.read_exact(&mut body).map_err(|e| e.to_string())?;
        String::from_utf8(body).map(Some).map_err(|e| e.to_string())
    }

    /// Whether the server has closed it.
    pub fn is_closed(&mut self) -> bool {
        self.0.fill_buf().is_ok_and(<[u8]>::is_empty)
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.0.read_line(&mut line).map_err(|e| e.to_string())?;
        let line = line.strip_suffix("\r\n").ok_or("no answer")?;
        Ok(line.to_owned())
    }
}

impl Found {
    /// It goes on for as long as the microVM does, and has its connection for itself.
    pub fn is_stream(&self) -> bool {
        self.header("Transfer-Encoding") == Some("chunked")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}
