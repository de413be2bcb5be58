//! `/hotplug/memory`.

use devices::virtio::mem::MemError;
use devices::virtio::{Changed, Mem};
use vm_config::{
    Explain, FaultCode, FaultKind, MemoryHotplugConfig, MemoryHotplugPatch, MemoryHotplugStatus,
};

use super::{AFTER_START, BEFORE_START, Command, CommandError};
use crate::configuration::mem_id;
use crate::{Lifecycle, Vm};

/// `PUT /hotplug/memory`.
pub struct PutMemoryHotplug(pub MemoryHotplugConfig);
/// `GET /hotplug/memory`.
pub struct GetMemoryHotplug;
/// `PATCH /hotplug/memory`.
pub struct PatchMemoryHotplug(pub MemoryHotplugPatch);

/// Something that memory hotplug cannot do.
#[derive(Debug, thiserror::Error)]
pub enum MemoryHotplugUpdateError {
    /// It was not configured.
    #[error("Failed perform action on device: Device not found")]
    NotFound,
    /// The device says so.
    #[error(transparent)]
    Device(#[from] MemError),
}

impl Explain for MemoryHotplugUpdateError {
    fn kind(&self) -> FaultKind<'_> {
        match self {
            Self::NotFound => FaultKind::Code(FaultCode::DeviceNotFound),
            Self::Device(inner) => FaultKind::Inner(inner),
        }
    }
}

impl Command for PutMemoryHotplug {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;
    const CONFIGURES: bool = true;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        self.0.check()?;
        vm.config.memory_hotplug = Some(self.0);
        Ok(())
    }
}

impl Command for GetMemoryHotplug {
    type Reply = MemoryHotplugStatus;
    const ALLOWED: &'static [Lifecycle] = AFTER_START;
    const CHANGES: bool = false;

    fn run(self, vm: &mut Vm) -> Result<MemoryHotplugStatus, CommandError> {
        use MemoryHotplugUpdateError::NotFound;
        if vm.config.memory_hotplug.is_none() {
            return Err(NotFound.into());
        }
        let status = vm.look_at(&mem_id(), Mem::status)?;
        Ok(status.ok_or(NotFound)?)
    }
}

impl Command for PatchMemoryHotplug {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = AFTER_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        use MemoryHotplugUpdateError::NotFound;
        if vm.config.memory_hotplug.is_none() {
            return Err(NotFound.into());
        }
        let id = mem_id();
        vm.change_machine(|machine| {
            let slot = machine.slot::<Mem>(&id).ok_or(NotFound)?;
            if !slot.has_driver() {
                return Err(MemoryHotplugUpdateError::from(MemError::NotActive).into());
            }
            let changed = machine.change_device(&id, |mem: &mut Mem| {
                match mem.request(self.0.requested_size_mib) {
                    Ok(()) => Changed::Configuration(Ok(())),
                    Err(error) => Changed::Inside(Err(error)),
                }
            });
            let requested = changed.ok_or(NotFound)?;
            Ok(requested.map_err(MemoryHotplugUpdateError::from)?)
        })
    }
}
