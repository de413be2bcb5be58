//! `/machine-config` and `/cpu-config`.

use vm_config::{CpuConfig, CpuTemplate, Machine, MachineError, MachinePatch};

use super::balloon::is_within;
use super::{BEFORE_START, Command, CommandError};
use crate::{Lifecycle, Vm};

/// `PUT /machine-config`.
pub struct PutMachine(pub Machine);
/// `PATCH /machine-config`.
pub struct PatchMachine(pub MachinePatch);
/// `PUT /cpu-config`.
pub struct PutCpuConfig(pub CpuConfig);

impl Command for PutMachine {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;
    const CONFIGURES: bool = true;

    /// All but the template is as at first where it is not named.
    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let named = self.0.cpu_template;
        let cpu_template = named.or(vm.config.machine.cpu_template);
        let machine = Machine {
            cpu_template,
            ..self.0
        };
        adopt(vm, machine, named)
    }
}

impl Command for PatchMachine {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;
    const CONFIGURES: bool = true;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let patched = vm.config.machine.patched(&self.0);
        adopt(vm, patched, self.0.cpu_template)
    }
}

impl Command for PutCpuConfig {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        vm.config.machine.cpu_template = None;
        vm.config.cpu = self.0;
        Ok(())
    }
}

/// Takes a machine that passes all checks; else the one before stays. A template that the request named replaces one
/// of `/cpu-config`.
fn adopt(
    vm: &mut Vm,
    mut machine: Machine,
    named: Option<CpuTemplate>,
) -> Result<(), CommandError> {
    machine.check().map_err(CommandError::Machine)?;
    let balloon = vm.config.balloon.as_ref();
    if balloon.is_some_and(|balloon| !is_within(balloon.amount_mib, machine.mem_size_mib)) {
        return Err(CommandError::Machine(MachineError::BelowBalloon));
    }
    machine.cpu_template = (machine.cpu_template).filter(|name| *name != CpuTemplate::None);
    if named.is_some() {
        vm.config.cpu = CpuConfig::default();
    }
    vm.config.machine = machine;
    Ok(())
}

#[cfg(test)]
mod tests {
    use vm_config::KvmCapability;

    use super::*;
    use crate::vm::tests::vm;

    fn put(vm: &mut Vm, cpu_template: Option<CpuTemplate>) {
        let machine = Machine {
            cpu_template,
            ..Machine::default()
        };
        vm.execute(PutMachine(machine)).unwrap();
    }

    fn put_custom(vm: &mut Vm) -> CpuConfig {
        let custom = CpuConfig {
            kvm_capabilities: vec![KvmCapability::Require(1)],
            ..CpuConfig::default()
        };
        vm.execute(PutCpuConfig(custom.clone())).unwrap();
        custom
    }

    fn name(vm: &mut Vm) -> Option<CpuTemplate> {
        vm.config.to_stated().machine.cpu_template
    }

    #[test]
    fn a_template_stays_until_another_is_named() {
        let mut vm = vm();
        put(&mut vm, Some(CpuTemplate::T2));
        put(&mut vm, None);
        assert_eq!(name(&mut vm), Some(CpuTemplate::T2));
        let patch = MachinePatch {
            cpu_template: Some(CpuTemplate::C3),
            ..MachinePatch::default()
        };
        vm.execute(PatchMachine(patch)).unwrap();
        assert_eq!(name(&mut vm), Some(CpuTemplate::C3));
        put(&mut vm, Some(CpuTemplate::None));
        assert_eq!(name(&mut vm), None);
    }

    #[test]
    fn of_a_name_and_a_custom_template_the_later_counts() {
        let mut vm = vm();
        put(&mut vm, Some(CpuTemplate::T2));
        let custom = put_custom(&mut vm);
        assert_eq!((name(&mut vm), &vm.config.cpu), (None, &custom));
        put(&mut vm, None);
        assert_eq!(vm.config.cpu, custom);
        put(&mut vm, Some(CpuTemplate::T2));
        assert_eq!(vm.config.cpu, CpuConfig::default());
        put_custom(&mut vm);
        put(&mut vm, Some(CpuTemplate::None));
        assert_eq!(
            (name(&mut vm), &vm.config.cpu),
            (None, &CpuConfig::default())
        );
    }

    #[test]
    fn a_machine_that_is_refused_takes_no_template_away() {
        let mut vm = vm();
        let custom = put_custom(&mut vm);
        let machine = Machine {
            vcpu_count: 0,
            cpu_template: Some(CpuTemplate::T2),
            ..Machine::default()
        };
        assert!(vm.execute(PutMachine(machine)).is_err());
        assert_eq!((name(&mut vm), &vm.config.cpu), (None, &custom));
    }
}
