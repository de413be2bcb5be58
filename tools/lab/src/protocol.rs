//! What the host and the agent in the outer machine say to each other.
//!
//! Frames over a virtio serial port: two little-endian 32-bit lengths, then a JSON message of
//! the first length, then raw bytes of the second. The port carries nothing else, so whatever
//! a guest prints can only ever arrive as the bytes of a frame.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Host to agent.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Runs the test program once.
    Run {
        /// Its arguments, to which the agent adds where things are.
        arguments: Vec<String>,
        /// Ends it after this many seconds.
        timeout_s: u64,
    },
}

/// Agent to host.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// The outer machine is up and waits for a request.
    Ready,
    /// The bytes are output of the test program.
    Output,
    /// The bytes are a log file that the test left.
    File {
        /// Its name, without directories.
        name: String,
    },
    /// The test program ended, and all its output and files were sent.
    Finished {
        /// Why it failed, if it did.
        failure: Option<String>,
    },
}

/// A message and the bytes that go with it.
#[derive(Debug, PartialEq)]
pub struct Frame<M> {
    /// What it is about.
    pub message: M,
    /// Empty for most messages.
    pub bytes: Vec<u8>,
}

/// No frame is larger; a larger length means that the two sides lost step.
const MAX_LENGTH: u32 = 64 << 20;

/// Sends one frame.
pub fn send(to: &mut impl Write, message: &impl Serialize, bytes: &[u8]) -> io::Result<()> {
    let message = serde_json::to_vec(message)?;
    let mut frame = Vec::with_capacity(8 + message.len() + bytes.len());
    for part in [message.as_slice(), bytes] {
        let length = u32::try_from(part.len())
            .ok()
            .filter(|length| *length <= MAX_LENGTH);
        let length = length.ok_or(io::ErrorKind::FileTooLarge)?;
        frame.extend(length.to_le_bytes());
    }
    frame.extend(message);
    frame.extend(bytes);
    to.write_all(&frame)?;
    to.flush()
}

/// Receives one frame, or `None` when the other side has gone between two frames.
pub fn receive<M: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<Frame<M>>> {
    let mut lengths = [0; 8];
    match from.read_exact(&mut lengths) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let (message, bytes) = lengths.split_at(4);
    let message = read_part(from, message)?;
    let bytes = read_part(from, bytes)?;
    Ok(Some(Frame {
        message: serde_json::from_slice(&message)?,
        bytes,
    }))
}

fn read_part(from: &mut impl Read, length: &[u8]) -> io::Result<Vec<u8>> {
    let length = length
        .try_into()
        .map(u32::from_le_bytes)
        .map_err(io::Error::other)?;
    if length > MAX_LENGTH {
        let text = format!("a frame of {length} bytes; the lab's channel lost step");
        return Err(io::Error::other(text));
    }
    let mut part = Vec::new();
    let read = from
        .by_ref()
        .take(u64::from(length))
        .read_to_end(&mut part)?;
    if u64::try_from(read).map_err(io::Error::other)? < u64::from(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let mut wire = Vec::new();
        let request = Request::Run {
            arguments: vec!["run".into(), "x".into()],
            timeout_s: 3,
        };
        send(&mut wire, &request, b"").unwrap();
        send(&mut wire, &Event::Output, b"text\n{\0}").unwrap();

        let mut from = wire.as_slice();
        let frame = receive::<Request>(&mut from).unwrap().unwrap();
        assert_eq!(
            frame,
            Frame {
                message: request,
                bytes: vec![]
            }
        );
        let frame = receive::<Event>(&mut from).unwrap().unwrap();
        assert_eq!(
            frame,
            Frame {
                message: Event::Output,
                bytes: b"text\n{\0}".to_vec()
            }
        );
        assert_eq!(receive::<Event>(&mut from).unwrap(), None);
    }

    #[test]
    fn a_frame_that_is_cut_or_absurd_is_an_error() {
        let mut wire = Vec::new();
        send(&mut wire, &Event::Output, b"text").unwrap();
        assert!(receive::<Event>(&mut &wire[..wire.len() - 1]).is_err());
        assert!(receive::<Event>(&mut [0xff; 32].as_slice()).is_err());
    }
}
