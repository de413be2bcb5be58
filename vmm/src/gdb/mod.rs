//! A debugger for the guest: the GDB remote serial protocol on a Unix socket.
//!
//! ```text
//! debugger --socket--> thread gdb --Job--> event loop --Do--> vCPU thread, parked
//!                         ^                    |  a vCPU came to a breakpoint
//!                         +---- Stops ---------+
//! ```
//!
//! The thread `gdb` speaks the protocol and may wait for its debugger as long as that likes; all that touches the guest is
//! a job of the event loop, which waits for nobody. So a debugger never holds up the API.
//!
//! Protocol: GDB manual appendix E, "Remote Serial Protocol".

mod memory;
mod registers;
mod session;
mod target;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::Builder;

use rustix::event::{EventfdFlags, eventfd};
use vm_config::Machine;

use crate::builder::{self, StartError};
use crate::configuration::Configuration;
use crate::event_loop::Sender;
use crate::kvm::DebugExit;
use crate::machine::RunningMachine;

/// Why a debugger cannot be waited for.
#[derive(Debug, thiserror::Error)]
pub enum GdbError {
    /// The socket.
    #[error(
        "cannot listen for a debugger at {path:?}; remove the file, or name another in gdb_socket_path"
    )]
    Bind {
        /// Where it was to be.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// The thread or its eventfd.
    #[error("cannot start the debugger's thread; raise the limits of this process")]
    Thread(#[source] io::Error),
}

/// A socket at which nobody listens yet; its file goes when the start fails, so that it can be repeated.
struct Socket {
    listener: UnixListener,
    /// `None` once the machine has it.
    file: Option<PathBuf>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(path) = &self.file {
            // Somebody else removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Makes the socket that `machine` asks for.
fn bind(machine: &Machine) -> Result<Option<Socket>, GdbError> {
    let Some(path) = machine.gdb_socket_path.clone() else {
        return Ok(None);
    };
    match UnixListener::bind(&path) {
        Ok(listener) => Ok(Some(Socket {
            listener,
            file: Some(path),
        })),
        Err(source) => Err(GdbError::Bind { path, source }),
    }
}

/// Builds the machine, and has it wait for a debugger when `config` says where.
pub(crate) fn build(
    config: &mut Configuration,
    event_loop: &Sender,
) -> Result<RunningMachine, StartError> {
    let socket = bind(&config.machine)?;
    let mut machine = builder::build(config, event_loop)?;
    if let Some(socket) = socket {
        start(socket, &mut machine, event_loop)?;
    }
    Ok(machine)
}

/// Has a machine that was just built wait for a debugger.
fn start(
    mut socket: Socket,
    machine: &mut RunningMachine,
    event_loop: &Sender,
) -> Result<(), GdbError> {
    let (told, heard) = mpsc::channel();
    let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
        .map_err(|error| GdbError::Thread(error.into()))?;
    let wake = Arc::new(wake);
    let guest = target::Guest::new(event_loop.clone(), machine.vcpu_count());
    let listener = socket.listener.try_clone().map_err(GdbError::Thread)?;
    let heard = session::Heard {
        stops: heard,
        wake: Arc::clone(&wake),
    };
    Builder::new()
        .name("gdb".to_owned())
        .spawn(move || session::serve(&listener, guest, &heard))
        .map_err(GdbError::Thread)?;
    machine.debug(Stops { told, wake });
    socket.file = None;
    Ok(())
}

/// Where the event loop tells of vCPUs that stopped by themselves.
pub(crate) struct Stops {
    told: mpsc::Sender<(u8, DebugExit)>,
    wake: Arc<OwnedFd>,
}

impl Stops {
    pub(crate) fn tell(&self, vcpu: u8, exit: DebugExit) {
        if self.told.send((vcpu, exit)).is_ok() {
            // Fails only when the counter is full, and then the thread is already awake.
            let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        }
    }
}
