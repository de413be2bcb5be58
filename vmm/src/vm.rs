//! A microVM: what was configured, and the machine once it runs.

use crate::control::{Command, CommandError, Mailbox};
use crate::{ExitReason, Lifecycle};

/// What the command line decides for the process's one microVM.
#[derive(Clone, Debug, Default)]
pub struct Settings {}

/// The process's one microVM.
pub struct Vm {
    lifecycle: Lifecycle,
}

/// Serves `mailbox` on this thread until the microVM ends. Returns when it has ended; the caller exits the
/// process with the reason's code.
pub fn run(settings: Settings, mailbox: Mailbox) -> ExitReason {
    let _ = (settings, mailbox);
    ExitReason::EventLoop("not built yet".to_owned())
}

impl Vm {
    /// Checks the state and runs the command.
    pub(crate) fn execute<C: Command>(&mut self, command: C) -> Result<C::Reply, CommandError> {
        if C::ALLOWED.contains(&self.lifecycle) {
            return command.run(self);
        }
        match self.lifecycle {
            Lifecycle::NotStarted => Err(CommandError::BeforeStart),
            Lifecycle::Running | Lifecycle::Paused => Err(CommandError::AfterStart),
        }
    }
}
