//! `/boot-source`, and the start.

use vm_config::BootSource;

use super::{BEFORE_START, BootSourceError, Command, CommandError};
use crate::boot::cmdline::CommandLine;
use crate::{Lifecycle, Vm, boot, builder, diagnosis};

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
        let built = builder::build(&mut vm.config, &vm.sender);
        let mut machine = built.inspect_err(|error| diagnosis::on_start_failure(vm, error))?;
        machine.start(&mut vm.event_loop);
        vm.machine = Some(machine);
        vm.lifecycle = Lifecycle::Running;
        diagnosis::on_start(vm);
        vm.begin_metrics();
        Ok(())
    }
}
