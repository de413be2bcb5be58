//! `/machine-config`.

use vm_config::{CpuTemplate, Machine, MachineError, MachinePatch};

use super::balloon::is_within;
use super::{ANY_STATE, BEFORE_START, Command, CommandError};
use crate::{Lifecycle, Vm};

/// `GET /machine-config`.
pub struct GetMachine;
/// `PUT /machine-config`.
pub struct PutMachine(pub Machine);
/// `PATCH /machine-config`.
pub struct PatchMachine(pub MachinePatch);

impl Command for GetMachine {
    type Reply = Machine;
    const ALLOWED: &'static [Lifecycle] = ANY_STATE;

    fn run(self, vm: &mut Vm) -> Result<Machine, CommandError> {
        Ok(vm.config.machine.clone())
    }
}

impl Command for PutMachine {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        adopt(vm, self.0)
    }
}

impl Command for PatchMachine {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let patched = vm.config.machine.patched(&self.0);
        adopt(vm, patched)
    }
}

/// Takes a machine that passes all checks; else the one before stays.
fn adopt(vm: &mut Vm, mut machine: Machine) -> Result<(), CommandError> {
    machine.check().map_err(CommandError::Machine)?;
    let balloon = vm.config.balloon.as_ref();
    if balloon.is_some_and(|balloon| !is_within(balloon.amount_mib, machine.mem_size_mib)) {
        return Err(CommandError::Machine(MachineError::BelowBalloon));
    }
    match machine.cpu_template.take() {
        None | Some(CpuTemplate::None) => {}
        Some(_) => return Err(CommandError::NotSupported("cpu_template")),
    }
    vm.config.machine = machine;
    Ok(())
}
