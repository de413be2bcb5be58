//! `/pmem`.

use devices::virtio::Pmem;
use vm_config::{DeviceId, Explain, FaultCode, FaultKind, PmemConfig, PmemPatch};

use super::plug::{MAX_DESCRIBED, Pluggable, Target, put};
use super::{AFTER_START, ANY_STATE, Command, CommandError};
use crate::configuration::Configuration;
use crate::pmem::{self, OpenPmem, PmemError};
use crate::{Lifecycle, Vm};

/// `PUT /pmem/{id}`. After the start, it is put on the PCI bus.
pub struct PutPmem(pub PmemConfig);
/// `PATCH /pmem/{id}`.
pub struct PatchPmem(pub PmemPatch);

/// Persistent memory that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum PmemConfigError {
    /// There is one root at most.
    #[error("A root pmem device already exist")]
    RootExists,
    /// There is one root at most.
    #[error("Attempt to add pmem as a root device while the root device defined as a block device")]
    RootIsDrive,
    /// A guest that runs has its root already.
    #[error(
        "Attempt to add pmem as a root device to a machine that runs; state it before the start, or leave root_device out"
    )]
    RootAfterStart,
    /// More than can be described.
    #[error(
        "there are {MAX_DESCRIBED} pmem devices already, more than a machine has room for; leave this one out, or replace one by its id"
    )]
    TooMany,
    /// The device or its file.
    #[error(transparent)]
    Create(#[from] PmemError),
    /// There is none of that name.
    #[error(
        "Unable to patch the pmem device: Failed perform action on device: Device not found Please verify the request arguments."
    )]
    NotFound,
}

impl Explain for PmemConfigError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::RootExists | Self::RootIsDrive => FaultCode::RootDeviceExists,
            Self::RootAfterStart => FaultCode::RootDeviceFixed,
            Self::TooMany => FaultCode::TooManyDevices,
            Self::Create(inner) => return FaultKind::Inner(inner),
            Self::NotFound => FaultCode::DeviceNotFound,
        })
    }
}

impl Command for PutPmem {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = ANY_STATE;
    const CONFIGURES: bool = true;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        put(self, vm)
    }
}

impl Pluggable for PutPmem {
    /// The file is opened at the start.
    fn describe(self, config: &mut Configuration) -> Result<(), CommandError> {
        let pmem = self.0;
        if pmem.root_device {
            let is_other = |other: &PmemConfig| other.root_device && other.id != pmem.id;
            if config.pmem.iter().any(is_other) {
                return Err(PmemConfigError::RootExists.into());
            }
            if config.has_root_drive() {
                return Err(PmemConfigError::RootIsDrive.into());
            }
        }
        let count = config.pmem.len();
        match config.pmem.iter_mut().find(|other| other.id == pmem.id) {
            Some(other) => *other = pmem,
            None if count >= MAX_DESCRIBED => return Err(PmemConfigError::TooMany.into()),
            None => config.pmem.push(pmem),
        }
        Ok(())
    }

    fn id(&self) -> DeviceId {
        self.0.id.clone()
    }

    fn is_known(config: &Configuration, id: &DeviceId) -> bool {
        config.pmem.iter().any(|pmem| pmem.id == *id)
    }

    fn plug(self, to: Target<'_>) -> Result<(), CommandError> {
        let stated = &self.0;
        if stated.root_device {
            return Err(refused_root(to.config).into());
        }
        let opened = pmem::open(stated, to.machine.vm().memory_slots());
        let OpenPmem { device, slot } = opened.map_err(PmemConfigError::Create)?;
        to.machine
            .plug(self.id(), Box::new(device), Some(slot), to.sender)?;
        to.config.pmem.push(self.0);
        Ok(())
    }
}

/// Why a guest that runs gets no root pmem device.
fn refused_root(config: &Configuration) -> PmemConfigError {
    if config.has_root_pmem() {
        PmemConfigError::RootExists
    } else if config.has_root_drive() {
        PmemConfigError::RootIsDrive
    } else {
        PmemConfigError::RootAfterStart
    }
}

impl Command for PatchPmem {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = AFTER_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let patch = self.0;
        let mut all = vm.config.pmem.iter();
        let place = all
            .position(|pmem| pmem.id == patch.id)
            .ok_or(PmemConfigError::NotFound)?;
        vm.change_machine(|machine| {
            let changed = machine.change_device(&patch.id, |pmem: &mut Pmem| pmem.change(&patch));
            Ok(changed.ok_or(PmemConfigError::NotFound)?)
        })?;
        let stated = &mut vm.config.pmem[place];
        *stated = stated.patched(&patch);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::configuration::Attachment;
    use crate::vm::tests::vm;

    #[test]
    fn a_root_that_comes_too_late_hears_why() {
        let mut vm = vm();
        let refused = |vm: &Vm| refused_root(&vm.config).to_string();
        assert!(refused(&vm).contains("before the start"));
        let drive = json!({ "drive_id": "d", "is_root_device": true, "path_on_host": "/d" });
        let drive = Attachment::taken(serde_json::from_value(drive).unwrap());
        vm.config.drives.push(drive);
        assert!(refused(&vm).contains("defined as a block device"));
        let pmem = json!({ "id": "p", "path_on_host": "/p", "root_device": true });
        vm.execute(PutPmem(serde_json::from_value(pmem.clone()).unwrap()))
            .unwrap_err();
        vm.config.pmem = vec![serde_json::from_value(pmem).unwrap()];
        assert!(refused(&vm).contains("A root pmem device already exist"));
    }
}
