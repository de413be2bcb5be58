//! A microVM: what was configured, and the machine once it runs.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use devices::mmds::Mmds;
use devices::virtio::VirtioDevice;
use vm_config::{DeviceId, DeviceTransport, VmEvent};

use crate::configuration::Configuration;
use crate::control::Removals;
use crate::control::{Command, CommandError, Mailbox};
use crate::diagnosis::{self, Doctor};
use crate::event_loop::{EventLoop, Message, Sender};
use crate::machine::RunningMachine;
use crate::metrics::METRICS;
use crate::published::{NoticeBoard, VmState};
use crate::{ExitReason, Lifecycle};

/// The process's one microVM.
pub struct Vm {
    pub(crate) lifecycle: Lifecycle,
    /// Something was configured before the start.
    pub(crate) is_configured: bool,
    pub(crate) config: Configuration,
    pub(crate) machine: Option<RunningMachine>,
    pub(crate) event_loop: EventLoop,
    /// Devices that the guest was asked to let go.
    pub(crate) removals: Removals,
    pub(crate) doctor: Doctor,
    /// For the threads that the machine will have.
    pub(crate) sender: Sender,
    /// What others read of this without asking.
    pub(crate) board: NoticeBoard,
}

/// What was said of the microVM when the process started.
pub struct Beginning {
    /// Where its virtio devices are.
    pub transport: DeviceTransport,
    /// Whether it has a boot timer.
    pub has_boot_timer: bool,
    /// Its metadata.
    pub mmds: Mmds,
}

/// Serves `mailbox` on this thread until the microVM ends.
/// The caller then exits the process with the reason's code; vCPUs may still be in the guest.
#[must_use]
pub fn run(mailbox: Mailbox, beginning: Beginning) -> ExitReason {
    let event_loop = match EventLoop::new(mailbox.receiver) {
        Ok(event_loop) => event_loop,
        Err(error) => return ExitReason::EventLoop(error.to_string()),
    };
    METRICS.add("", beginning.mmds.metrics());
    // Never dropped: the process is about to end, and the kernel takes things apart faster than we could.
    let mut vm = ManuallyDrop::new(Vm {
        lifecycle: Lifecycle::NotStarted,
        is_configured: false,
        config: Configuration {
            transport: beginning.transport,
            has_boot_timer: beginning.has_boot_timer,
            mmds: Arc::new(beginning.mmds),
            ..Configuration::default()
        },
        machine: None,
        event_loop,
        removals: Removals::default(),
        doctor: Doctor::default(),
        sender: mailbox.sender,
        board: mailbox.board,
    });
    let reason = vm.serve();
    diagnosis::on_end(&mut vm, &reason);
    vm.sender.events.end(VmEvent::Exited {
        reason: reason.cause(),
        message: reason.to_string(),
        exit_code: reason.code(),
    });
    // The API thread waits for the answers to its requests before the process ends; these get none.
    vm.event_loop.hang_up();
    vm.removals.clear();
    reason
}

impl Vm {
    fn serve(&mut self) -> ExitReason {
        loop {
            match self.event_loop.next() {
                Ok(Message::Job(job)) => job(self),
                Ok(Message::Ended(reason)) => return reason,
                #[cfg(feature = "gdb")]
                Ok(Message::Debug(vcpu, exit)) => {
                    if let Some(machine) = &mut self.machine {
                        machine.stopped_for_debugger(vcpu, exit, &mut self.event_loop);
                    }
                }
                // Workers are served inside the loop, and whoever waits for vCPUs does so in there.
                Ok(
                    Message::Parked
                    | Message::Seen(_)
                    | Message::StartWorker(..)
                    | Message::StopWorker(..),
                ) => {}
                Err(error) => return ExitReason::EventLoop(error.to_string()),
            }
        }
    }

    /// Lets `change` have the started machine while all of it stands still; it goes on after, if it ran before.
    ///
    /// # Errors
    /// Those of `change`, or that the machine is not started.
    pub(crate) fn change_machine<R>(
        &mut self,
        change: impl FnOnce(&mut RunningMachine) -> Result<R, CommandError>,
    ) -> Result<R, CommandError> {
        let machine = self.machine.as_mut().ok_or(CommandError::BeforeStart)?;
        if self.lifecycle == Lifecycle::Paused {
            return change(machine);
        }
        machine.pause(&mut self.event_loop);
        let result = change(machine);
        machine.resume(&mut self.event_loop);
        result
    }

    /// Lets `look` see the configured device `id` of the started machine, which goes on meanwhile. While its driver
    /// starts or resets it a device cannot be seen; that is over when the vCPUs stand still.
    ///
    /// # Errors
    /// That the machine is not started.
    pub(crate) fn look_at<D: VirtioDevice, R>(
        &mut self,
        id: &DeviceId,
        look: impl Fn(&D) -> R,
    ) -> Result<Option<R>, CommandError> {
        let machine = self.machine.as_ref().ok_or(CommandError::BeforeStart)?;
        match machine.look(id, &look) {
            None => self.change_machine(|machine| Ok(machine.look(id, &look))),
            seen => Ok(seen),
        }
    }

    /// Shows others what this is now.
    pub(crate) fn publish(&self) {
        let panic = self.machine.as_ref().map(RunningMachine::panic_notice);
        let state = VmState::new(self.lifecycle, self.config.to_stated());
        self.board.put_up(state.with_guest(panic));
    }

    /// Checks the state, runs the command, and shows what it changed.
    pub(crate) fn execute<C: Command>(&mut self, command: C) -> Result<C::Reply, CommandError> {
        if C::ALLOWED.contains(&self.lifecycle) {
            self.is_configured |= C::CONFIGURES;
            let result = command.run(self);
            // One that failed may have changed something too.
            if C::CHANGES {
                self.publish();
            }
            return result;
        }
        match self.lifecycle {
            Lifecycle::NotStarted => Err(CommandError::BeforeStart),
            Lifecycle::Running | Lifecycle::Paused => Err(CommandError::AfterStart),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A microVM that nobody serves, with nothing configured.
    pub(crate) fn vm() -> Vm {
        let (_, mailbox) = Mailbox::new().unwrap();
        Vm {
            lifecycle: Lifecycle::NotStarted,
            is_configured: false,
            config: Configuration::default(),
            machine: None,
            event_loop: EventLoop::new(mailbox.receiver).unwrap(),
            removals: Removals::default(),
            doctor: Doctor::default(),
            sender: mailbox.sender,
            board: mailbox.board,
        }
    }
}
