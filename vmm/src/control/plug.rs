//! `PUT` of a device that may come while the machine runs: which of the two it is, and what is checked first.

use vm_config::DeviceId;

use super::{CommandError, HotplugError};
use crate::configuration::Configuration;
use crate::event_loop::Sender;
use crate::machine::RunningMachine;
use crate::{Lifecycle, Vm};

/// The most drives, interfaces or pmem devices that can be described: more than a machine has room for, which
/// `InstanceStart` tells, and few enough for the descriptors they hold until then.
pub(super) const MAX_DESCRIBED: usize = 64;

/// A device that is described before the start, and put on the PCI bus after it.
pub(super) trait Pluggable: Sized {
    /// Adds it to what the machine will have, or puts it in the place of the one of its name.
    fn describe(self, config: &mut Configuration) -> Result<(), CommandError>;
    /// Its name.
    fn id(&self) -> DeviceId;
    /// Whether one of its kind has the name.
    fn is_known(config: &Configuration, id: &DeviceId) -> bool;
    /// Adds it to a machine that has a PCI bus and none of its name.
    fn plug(self, to: Target<'_>) -> Result<(), CommandError>;
}

/// Where a device is plugged in.
pub(super) struct Target<'a> {
    pub(super) machine: &'a mut RunningMachine,
    pub(super) config: &'a mut Configuration,
    pub(super) sender: &'a Sender,
}

/// Describes `device`, or plugs it in.
pub(super) fn put(device: impl Pluggable, vm: &mut Vm) -> Result<(), CommandError> {
    if vm.lifecycle == Lifecycle::NotStarted {
        return device.describe(&mut vm.config);
    }
    plug(device, vm)
}

fn plug<P: Pluggable>(device: P, vm: &mut Vm) -> Result<(), CommandError> {
    let machine = vm.machine.as_mut().ok_or(CommandError::BeforeStart)?;
    if !machine.has_pci() {
        return Err(CommandError::NoPci);
    }
    if P::is_known(&vm.config, &device.id()) {
        return Err(HotplugError::InUse.into());
    }
    device.plug(Target {
        machine,
        config: &mut vm.config,
        sender: &vm.sender,
    })
}
