//! What can be asked of a microVM from outside its event loop.
//!
//! A request is a type that implements [`Command`]: it says in which states it is allowed and runs on the
//! event loop, between two events, with the whole [`Vm`] to itself. [`Control`] carries it there and the
//! answer back.

mod balloon;
mod boot;
mod console;
mod drives;
mod entropy;
mod error;
mod hotplug;
mod machine;
mod memory_hotplug;
mod metrics;
mod mmds;
mod network;
mod plug;
mod pmem;
mod sealing;
mod serial;
mod snapshot;
mod state;
mod vsock;

use std::io;
use std::sync::Arc;

pub use balloon::{
    BalloonConfigError, BalloonUpdateError, GetBalloon, GetBalloonStatistics, GetHintingStatus,
    PatchBalloon, PatchBalloonStatistics, PutBalloon, StartHinting, StopHinting,
};
pub use boot::{InstanceStart, PutBootSource};
pub use console::PutConsole;
pub use drives::{PatchDrive, PutDrive};
pub use entropy::PutEntropy;
pub use error::{
    BootSourceError, CommandError, DriveError, DrivePatchError, HotplugError, LoggerError,
    NetworkError,
};
pub(crate) use hotplug::Removals;
pub use hotplug::{Consent, Done, RemovableKind, RemoveDevice};
pub use machine::{PatchMachine, PutCpuConfig, PutMachine};
pub use memory_hotplug::{
    GetMemoryHotplug, MemoryHotplugUpdateError, PatchMemoryHotplug, PutMemoryHotplug,
};
pub use metrics::{FlushMetrics, GetMetrics, PutMetrics};
pub use mmds::{GetMmds, MmdsConfigError, PatchMmds, PutMmds, PutMmdsConfig};
pub use network::{PatchNetworkInterface, PutNetworkInterface};
pub use pmem::{PatchPmem, PmemConfigError, PutPmem};
pub use serial::PutSerial;
pub use snapshot::{CreateSnapshot, LoadSnapshot, SnapshotCreateError, SnapshotLoadError};
pub use state::{GetLifecycle, Pause, Resume, SendCtrlAltDel, SendPowerButton, VmConfig};
pub use vsock::PutVsock;

use crate::event_loop::{self, Message, Receiver, Sender};
use crate::published::NoticeBoard;
use crate::{EventLog, Lifecycle, Vm, VmState};

/// Something that can be asked of a microVM.
pub trait Command: Send + 'static {
    /// The answer.
    type Reply: Send + 'static;
    /// The states in which it can be asked.
    const ALLOWED: &'static [Lifecycle];
    /// Whether it can change what [`Control::state`] shows.
    const CHANGES: bool = true;
    /// Whether it makes the process that of a new microVM, into which no snapshot can be loaded any more. It does so
    /// before the start, also when it is refused.
    const CONFIGURES: bool = false;
    /// Does it. Called on the event loop.
    ///
    /// # Errors
    /// Says what is wrong and what to do; the microVM is as before.
    fn run(self, vm: &mut Vm) -> Result<Self::Reply, CommandError>;
}

/// Before the microVM starts.
pub const BEFORE_START: &[Lifecycle] = &[Lifecycle::NotStarted];
/// After the microVM started.
pub const AFTER_START: &[Lifecycle] = &[Lifecycle::Running, Lifecycle::Paused];
/// Always.
pub const ANY_STATE: &[Lifecycle] = &[Lifecycle::NotStarted, Lifecycle::Running, Lifecycle::Paused];

/// The sending end: asks the microVM.
pub struct Control {
    sender: Sender,
    board: NoticeBoard,
}

/// The receiving end, owned by the event loop.
pub struct Mailbox {
    pub(crate) receiver: Receiver,
    /// For the threads that the machine will have.
    pub(crate) sender: Sender,
    pub(crate) board: NoticeBoard,
}

impl Mailbox {
    /// A mailbox and the way to write to it.
    ///
    /// # Errors
    /// When the host gives no eventfd.
    pub fn new() -> io::Result<(Control, Self)> {
        let (sender, receiver) = event_loop::channel()?;
        let board = NoticeBoard::default();
        let control = Control {
            sender: sender.clone(),
            board: board.clone(),
        };
        let mailbox = Self {
            receiver,
            sender,
            board,
        };
        Ok((control, mailbox))
    }
}

impl Control {
    /// What happens to the microVM.
    #[must_use]
    pub fn events(&self) -> &EventLog {
        &self.sender.events
    }

    /// What the microVM is now, without waiting for its turn: a command that takes long does not hold it up.
    #[must_use]
    pub fn state(&self) -> Arc<VmState> {
        self.board.read()
    }

    /// Sends `command` to the event loop; `reply` is called there with the answer. It is dropped uncalled
    /// when the microVM ends first.
    pub fn submit<C: Command>(
        &self,
        command: C,
        reply: impl FnOnce(Result<C::Reply, CommandError>) + Send + 'static,
    ) {
        let job = Box::new(move |vm: &mut Vm| reply(vm.execute(command)));
        self.sender.send(Message::Job(job));
    }
}
