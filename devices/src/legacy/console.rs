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

/// FIFOs filled in one turn: a guest that empties its FIFO all the time must not keep the loop from the others.
const TURN: usize = 64;

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

    fn on_event(&mut self, _token: Token) -> Result<(), QueueError> {
        for _ in 0..TURN {
            if !self.feed() {
                return Ok(());
            }
        }
        // Fails only when the counter is full, that is, when the event is pending.
        let _ = self.serial.room_event().write(1);
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

    /// A guest that reads all input whenever the port raises its line.
    struct Greedy(Arc<std::sync::OnceLock<Arc<Serial>>>);

    impl crate::irq::IrqLine for Greedy {
        fn raise(&self) {
            if let Some(serial) = self.0.get() {
                take(serial);
            }
        }
    }

    #[test]
    fn a_guest_that_reads_at_once_gets_its_input_in_turns() {
        let (input, mut writer) = io::pipe().unwrap();
        let port = Arc::new(std::sync::OnceLock::new());
        let serial = Serial::new(Box::new(Greedy(Arc::clone(&port))), Box::new(io::sink()));
        let serial = Arc::new(serial.unwrap());
        serial.write(1, &[1]);
        assert!(port.set(Arc::clone(&serial)).is_ok());
        writer.write_all(&[7; (TURN + 1) * RECEIVE_FIFO]).unwrap();
        let mut worker = SerialInput::new(Arc::clone(&serial), input.into());
        worker.on_event(INPUT).unwrap();
        let read = || usize::try_from(serial.metrics().read_count.get()).unwrap();
        assert_eq!(read(), TURN * RECEIVE_FIFO);
        assert!(has_room_event(&serial));
        worker.on_event(ROOM).unwrap();
        assert_eq!(read(), (TURN + 1) * RECEIVE_FIFO);
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
