//! The host's end of the serial port: a sink that never blocks, and a worker that feeds input.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;

use super::serial::{RECEIVE_FIFO, Serial};
use crate::sys::poll;
use crate::virtio::queue::Queue;
use crate::virtio::{QueueError, Source, Token, Worker};

const INPUT: Token = Token(0);
const ROOM: Token = Token(1);

/// Writes to a file, pipe or terminal when it takes bytes at once, and refuses otherwise.
///
/// The descriptor is asked each time instead of being made non-blocking: that would change it for every
/// process that shares it, such as the shell that the monitor was started from.
#[derive(Debug)]
pub struct ConsoleSink(File);

impl ConsoleSink {
    /// A sink that writes to `fd`.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self(File::from(fd))
    }
}

impl Write for ConsoleSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if poll::is_writable(self.0.as_fd()) {
            self.0.write(bytes)
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Feeds a serial port from a terminal or pipe, as fast as the guest reads.
///
/// It is a worker without queues: the event loop shows it the input when that is readable, and the port's
/// room when the guest has read enough of what it had. At the end of input it goes silent.
pub struct SerialInput {
    serial: Arc<Serial>,
    input: File,
    has_ended: bool,
    /// Input the port had no room for after all: the guest had looped it meanwhile.
    held: Vec<u8>,
}

impl SerialInput {
    /// Feeds `serial` from `input`, which epoll can watch: a terminal, pipe or socket.
    #[must_use]
    pub fn new(serial: Arc<Serial>, input: OwnedFd) -> Self {
        Self {
            serial,
            input: File::from(input),
            has_ended: false,
            held: Vec::with_capacity(RECEIVE_FIFO),
        }
    }

    /// Moves one FIFO's worth. False when there is nothing more to move now.
    fn feed(&mut self) -> bool {
        if self.held.is_empty() {
            let room = self.serial.room();
            if room == 0 || self.has_ended || !poll::is_readable(self.input.as_fd()) {
                return false;
            }
            let mut bytes = [0; RECEIVE_FIFO];
            let into = bytes.get_mut(..room).unwrap_or_default();
            match self.input.read(into) {
                Ok(count) => {
                    self.has_ended = count == 0;
                    self.held.extend(into.iter().take(count));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
                // Someone else read it first, or the terminal is gone for now.
                Err(_) => return false,
            }
        }
        let taken = self.serial.receive(&self.held);
        self.held.drain(..taken);
        taken > 0
    }
}

impl Worker for SerialInput {
    fn sources(&self) -> Vec<Source> {
        let readable = |fd, token| Source {
            fd,
            token,
            events: EventSet::IN,
        };
        vec![
            readable(self.input.as_raw_fd(), INPUT),
            readable(self.serial.room_event().as_raw_fd(), ROOM),
        ]
    }

    /// Bounded by the port's room, which the guest makes by exits of its own.
    fn on_event(&mut self, _token: Token) -> Result<(), QueueError> {
        while self.feed() {}
        Ok(())
    }

    fn stop(self: Box<Self>) -> Vec<Queue> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use std::io::PipeWriter;

    use super::*;
    use crate::Registers;
    use crate::testing::FakeIrq;

    fn fed() -> (Arc<Serial>, SerialInput, PipeWriter) {
        let (input, writer) = io::pipe().unwrap();
        let serial = Serial::new(Box::new(FakeIrq::default()), Box::new(io::sink()));
        let serial = Arc::new(serial.unwrap());
        let worker = SerialInput::new(Arc::clone(&serial), input.into());
        (serial, worker, writer)
    }

    fn take(serial: &Serial) -> Vec<u8> {
        let mut taken = Vec::new();
        let mut byte = [0];
        loop {
            serial.read(5, &mut byte);
            if byte[0] & 1 == 0 {
                return taken;
            }
            serial.read(0, &mut byte);
            taken.push(byte[0]);
        }
    }

    fn has_room_event(serial: &Serial) -> bool {
        serial.room_event().read().is_ok()
    }

    #[test]
    fn long_input_arrives_whole_as_the_guest_drains_it() {
        let (serial, mut worker, mut writer) = fed();
        let text: Vec<u8> = (0..=255).cycle().take(1000).collect();
        writer.write_all(&text).unwrap();
        worker.on_event(INPUT).unwrap();
        let mut seen = Vec::new();
        while seen.len() < text.len() {
            let part = take(&serial);
            assert!(!part.is_empty() && part.len() <= RECEIVE_FIFO);
            seen.extend(part);
            assert!(seen.len() == text.len() || has_room_event(&serial));
            worker.on_event(ROOM).unwrap();
        }
        assert_eq!(seen, text);
    }

    #[test]
    fn no_event_is_written_when_no_input_waits() {
        let (serial, mut worker, mut writer) = fed();
        writer.write_all(b"x").unwrap();
        worker.on_event(INPUT).unwrap();
        take(&serial);
        assert!(!has_room_event(&serial));
    }

    #[test]
    fn end_of_input_is_silence() {
        let (serial, mut worker, writer) = fed();
        drop(writer);
        worker.on_event(INPUT).unwrap();
        worker.on_event(INPUT).unwrap();
        assert!(worker.has_ended);
        assert!(take(&serial).is_empty());
    }

    #[test]
    fn full_pipe_refuses_instead_of_blocking() {
        let (_reader, writer) = io::pipe().unwrap();
        let mut sink = ConsoleSink::new(writer.into());
        let error = loop {
            if let Err(error) = sink.write(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
