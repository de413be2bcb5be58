//! `/boot-source`, and the start.

use std::error::Error;

use vm_config::{BootSource, VmEvent};

use super::{BEFORE_START, BootSourceError, Command, CommandError};
use crate::boot::cmdline::CommandLine;
#[cfg(not(feature = "gdb"))]
use crate::builder::build;
#[cfg(feature = "gdb")]
use crate::gdb::build;
use crate::{Lifecycle, Vm, boot, diagnosis};

/// `PUT /boot-source`.
pub struct PutBootSource(pub BootSource);
/// `PUT /actions` `InstanceStart`.
pub struct InstanceStart;

impl Command for PutBootSource {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;
    const CONFIGURES: bool = true;

    /// Opens the files, to say early what is missing; they are read at the start.
    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let source = self.0;
        let path = &source.kernel_image_path;
        boot::open(path).map_err(|error| BootSourceError::Kernel {
            path: path.clone(),
            error,
        })?;
        if let Some(initrd) = &source.initrd_path {
            boot::open(initrd).map_err(BootSourceError::Initrd)?;
        }
        CommandLine::new(source.boot_args.as_deref())
            .finish()
            .map_err(BootSourceError::CommandLine)?;
        vm.config.boot_source = Some(source);
        Ok(())
    }
}

impl Command for InstanceStart {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let events = vm.sender.events.clone();
        events.note(VmEvent::Starting);
        let built = build(&mut vm.config, &vm.sender);
        let built = built.inspect_err(|error| diagnosis::on_start_failure(vm, error));
        let mut machine = built.map_err(CommandError::from).inspect_err(|why| {
            let message = chain(why);
            events.note(VmEvent::StartFailed { message });
        })?;
        machine.tell(&events);
        events.note(VmEvent::Running);
        machine.start(&mut vm.event_loop);
        vm.machine = Some(machine);
        vm.lifecycle = Lifecycle::Running;
        diagnosis::on_start(vm);
        vm.begin_metrics();
        Ok(())
    }
}

/// `error` and what led to it, in the words of the answer.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
