//! What can be asked of a microVM from outside its event loop.
//!
//! A request is a type that implements [`Command`]: it says in which states it is allowed and runs on the
//! event loop, between two events, with the whole [`Vm`] to itself. [`Control`] carries it there and the
//! answer back.

mod commands;
mod error;

use std::sync::mpsc;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

pub use commands::*;
pub use error::CommandError;

use crate::{Lifecycle, Vm};

/// Something that can be asked of a microVM.
pub trait Command: Send + 'static {
    /// The answer.
    type Reply: Send + 'static;
    /// The states in which it can be asked.
    const ALLOWED: &'static [Lifecycle];
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

type Job = Box<dyn FnOnce(&mut Vm) + Send>;

/// The sending end: asks the microVM.
pub struct Control {
    jobs: mpsc::Sender<Job>,
    wake: EventFd,
}

/// The receiving end, owned by the event loop.
pub struct Mailbox {
    jobs: mpsc::Receiver<Job>,
    wake: EventFd,
}

impl Mailbox {
    /// A mailbox and the way to write to it.
    ///
    /// # Errors
    /// When the host gives no eventfd.
    pub fn new() -> std::io::Result<(Control, Self)> {
        let (sender, jobs) = mpsc::channel();
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let control = Control {
            jobs: sender,
            wake: wake.try_clone()?,
        };
        Ok((control, Self { jobs, wake }))
    }
}

impl Control {
    /// Sends `command` to the event loop; `reply` is called there with the answer. It is dropped uncalled
    /// when the microVM ends first.
    pub fn submit<C: Command>(
        &self,
        command: C,
        reply: impl FnOnce(Result<C::Reply, CommandError>) + Send + 'static,
    ) {
        let job: Job = Box::new(move |vm| reply(vm.execute(command)));
        if self.jobs.send(job).is_ok() {
            // The counter cannot overflow: the loop reads it before it serves the jobs.
            let _ = self.wake.write(1);
        }
    }
}
