//! Just enough HTTP/1.1 to speak to the monitor's socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

/// Longer than any request may take, shorter than a test.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A connection that is kept alive.
pub struct Client {
    stream: BufReader<UnixStream>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status code.
    pub status: u16,
    /// `Null` when there is none.
    pub body: Value,
}

impl Client {
    /// Connects to the socket at `path`.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)
            .with_context(|| format!("cannot connect to {}", path.display()))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Sends a request without body.
    pub fn get(&mut self, path: &str) -> Result<Answer> {
        self.exchange(&format!("GET {path} HTTP/1.1\r\n\r\n"))
    }

    /// Sends a request that creates or replaces.
    pub fn put(&mut self, path: &str, body: &Value) -> Result<Answer> {
        let body = body.to_string();
        let length = body.len();
        self.exchange(&format!(
            "PUT {path} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    }

    fn exchange(&mut self, request: &str) -> Result<Answer> {
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status_line = self.line()?;
        let status = status_line
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .with_context(|| format!("not a status line: {status_line:?}"))?;
        let mut length = 0;
        loop {
            let header = self.line()?;
            if header.is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value
                    .trim()
                    .parse()
                    .with_context(|| format!("bad header {header:?}"))?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body)?
        };
        Ok(Answer { status, body })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let length = self
            .stream
            .read_line(&mut line)
            .context("no answer from the monitor")?;
        anyhow::ensure!(length > 0, "the monitor closed the connection");
        Ok(line.trim_end().to_owned())
    }
}
