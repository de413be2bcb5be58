//! Reading events as they happen: an answer in chunks, one JSON object a line.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::ClientError;
use crate::response::read_line;

/// The longest event that is read, in bytes.
const MAX_EVENT_BYTES: usize = 64 << 10;

/// Events of a microVM, in their order. Iterating waits for the next, and ends when the microVM does.
#[derive(Debug)]
pub struct Events {
    stream: BufReader<UnixStream>,
    /// What is left of the present chunk.
    left: u64,
    is_over: bool,
}

impl Events {
    pub(crate) fn new(stream: BufReader<UnixStream>) -> Self {
        Self {
            stream,
            left: 0,
            is_over: false,
        }
    }

    fn read_event(&mut self) -> Result<Option<Value>, ClientError> {
        let mut line = Vec::new();
        loop {
            if self.left == 0 && !self.begin_chunk()? {
                return match line.is_empty() {
                    true => Ok(None),
                    false => Err(ClientError::Malformed("an event without end".to_owned())),
                };
            }
            let room = MAX_EVENT_BYTES.saturating_sub(line.len());
            let most = self.left.min(u64::try_from(room).unwrap_or(u64::MAX));
            let read = (&mut self.stream).take(most).read_until(b'\n', &mut line)?;
            if read == 0 {
                let broken = match room {
                    0 => ClientError::Malformed("an event is too long".to_owned()),
                    _ => std::io::Error::from(ErrorKind::UnexpectedEof).into(),
                };
                return Err(broken);
            }
            self.left -= u64::try_from(read).unwrap_or(self.left);
            if self.left == 0 {
                read_line(&mut self.stream)?;
            }
            if line.last() == Some(&b'\n') {
                return Ok(Some(serde_json::from_slice(&line)?));
            }
        }
    }

    /// Reads the head of a chunk (RFC 9112 §7.1); whether there is one.
    fn begin_chunk(&mut self) -> Result<bool, ClientError> {
        let line = read_line(&mut self.stream)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        self.left = u64::from_str_radix(size, 16)
            .map_err(|_| ClientError::Malformed(format!("chunk size {line:?}")))?;
        Ok(self.left > 0)
    }
}

impl Iterator for Events {
    type Item = Result<Value, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let event = self.read_event().transpose();
        self.is_over = !matches!(event, Some(Ok(_)));
        event
    }
}
