//! One debugger after the other: bytes of the socket and stops of the guest, fed to the protocol.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, mpsc};

use gdbstub::common::Signal;
use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};
use rustix::event::{PollFd, PollFlags, poll};

use super::target::{Gone, Guest};
use crate::kvm::DebugExit;

/// What the event loop tells.
pub(super) struct Heard {
    pub(super) stops: mpsc::Receiver<(u8, DebugExit)>,
    pub(super) wake: Arc<OwnedFd>,
}

/// Serves debuggers until the machine is over.
pub(super) fn serve(listener: &UnixListener, mut guest: Guest, heard: &Heard) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::error!("nobody can debug any more: {error}");
                return;
            }
        };
        tracing::info!("a debugger attached");
        if guest.stop().is_err() {
            return;
        }
        // Of the debugger before.
        while heard.stops.try_recv().is_ok() {}
        let ended = session(stream, &mut guest, heard);
        let is_over = match ended {
            Ok(DisconnectReason::Kill) => guest.kill(),
            Ok(_) => guest.forget(),
            Err(why) => {
                tracing::info!("the debugger is gone: {why}");
                guest.forget()
            }
        };
        if is_over.is_err() {
            return;
        }
    }
}

/// Why a session ended other than by the protocol's ways.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the connection broke: {0}")]
    Connection(#[from] io::Error),
    #[error("{0}")]
    Protocol(String),
}

fn session(
    stream: UnixStream,
    guest: &mut Guest,
    heard: &Heard,
) -> Result<DisconnectReason, Broken> {
    let protocol =
        |error: gdbstub::stub::GdbStubError<Gone, io::Error>| Broken::Protocol(error.to_string());
    let mut machine = GdbStub::new(Wire::new(stream))
        .run_state_machine(guest)
        .map_err(protocol)?;
    loop {
        machine = match machine {
            GdbStubStateMachine::Idle(mut idle) => {
                let byte = idle.borrow_conn().read_byte()?;
                idle.incoming_data(guest, byte).map_err(protocol)?
            }
            GdbStubStateMachine::Running(mut running) => {
                match running.borrow_conn().read_byte_or_stop(heard)? {
                    Happened::Byte(byte) => running.incoming_data(guest, byte),
                    Happened::Stop(vcpu, exit) => {
                        let reason = guest.stop_reason(vcpu, exit);
                        running.report_stop(guest, reason)
                    }
                }
                .map_err(protocol)?
            }
            GdbStubStateMachine::CtrlCInterrupt(interrupted) => {
                guest.stop().map_err(|_| protocol_over())?;
                let reason = MultiThreadStopReason::Signal(Signal::SIGINT);
                interrupted
                    .interrupt_handled(guest, Some(reason))
                    .map_err(protocol)?
            }
            GdbStubStateMachine::Disconnected(disconnected) => {
                return Ok(disconnected.get_reason());
            }
        }
    }
}

fn protocol_over() -> Broken {
    Broken::Protocol("the machine is over".to_owned())
}

enum Happened {
    Byte(u8),
    Stop(u8, DebugExit),
}

/// The socket, with what was read and not used yet, and what was written and not sent yet.
struct Wire {
    stream: UnixStream,
    read: [u8; 4096],
    used: usize,
    filled: usize,
    written: Vec<u8>,
}

/// Bytes that wait to be sent at most.
const MAX_WRITTEN: usize = 16 << 10;

impl Wire {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            read: [0; 4096],
            used: 0,
            filled: 0,
            written: Vec::new(),
        }
    }

    fn next_read(&mut self) -> Option<u8> {
        let byte = *self.read.get(self.used..self.filled)?.first()?;
        self.used += 1;
        Some(byte)
    }

    /// Waits for the debugger, which has got all answers then.
    fn read_byte(&mut self) -> io::Result<u8> {
        loop {
            if let Some(byte) = self.next_read() {
                return Ok(byte);
            }
            Connection::flush(self)?;
            self.used = 0;
            self.filled = 0;
            match self.stream.read(&mut self.read) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.filled = count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for the debugger or the guest.
    fn read_byte_or_stop(&mut self, heard: &Heard) -> io::Result<Happened> {
        loop {
            if let Ok((vcpu, exit)) = heard.stops.try_recv() {
                return Ok(Happened::Stop(vcpu, exit));
            }
            if let Some(byte) = self.next_read() {
                return Ok(Happened::Byte(byte));
            }
            Connection::flush(self)?;
            let mut events = [
                PollFd::new(&self.stream, PollFlags::IN),
                PollFd::new(&*heard.wake, PollFlags::IN),
            ];
            match poll(&mut events, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let is_readable = !events[0].revents().is_empty();
            // Resets it; the stop itself is in the channel.
            let _ = rustix::io::read(&*heard.wake, &mut [0; 8]);
            if is_readable {
                return self.read_byte().map(Happened::Byte);
            }
        }
    }
}

impl Connection for Wire {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.write_all(&[byte])
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written.extend_from_slice(bytes);
        if self.written.len() > MAX_WRITTEN {
            return Connection::flush(self);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Write::write_all(&mut self.stream, &self.written)?;
        self.written.clear();
        Ok(())
    }
}
