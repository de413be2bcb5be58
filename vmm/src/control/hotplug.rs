//! `DELETE` of drives, network interfaces and persistent memory.
//!
//! ```text
//! not started ------------------------------------> the description goes
//! started, no driver has it, or forced -----------> unplug; the guest is told to look
//! started, a driver has it --ask--> the guest lets go -> unplug
//!                                   time is up --------> it stays, refused
//! ```
//!
//! The event loop goes on while the guest is asked.

use std::collections::BTreeMap;
use std::time::Duration;

use devices::pci::hotplug::Removal as Leaving;
use devices::virtio::{VIRTIO_ID_BLOCK, VIRTIO_ID_NET, VIRTIO_ID_PMEM};
use vm_config::{DeviceId, DeviceKind, DeviceName, VmEvent};

use super::{ANY_STATE, Command, CommandError, HotplugError};
use crate::configuration::Configuration;
use crate::event_loop::Appointment;
use crate::{Lifecycle, Vm};

/// How long a guest may take to let go of a device.
pub(super) const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Called once with how a removal went; dropped uncalled when the microVM ends first.
pub type Done = Box<dyn FnOnce(Result<(), CommandError>) + Send>;

/// The devices that can be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovableKind {
    /// Of `/drives`.
    Drive,
    /// Of `/network-interfaces`.
    NetworkInterface,
    /// Of `/pmem`.
    Pmem,
}

/// Whether the guest is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// It goes once no driver has it.
    Needed,
    /// It goes at once, as if somebody pulled it out.
    Forced,
}

/// Removes a device. The command itself answers when the removal has begun, `done` hears how it ended.
pub struct RemoveDevice {
    /// What it is.
    pub kind: RemovableKind,
    /// Its name.
    pub id: DeviceId,
    /// Whether the guest is asked.
    pub consent: Consent,
    /// Hears how it ended.
    pub done: Done,
}

/// Devices that the guest was asked to let go, by device number.
#[derive(Default)]
pub(crate) struct Removals {
    pending: BTreeMap<u8, Removal>,
}

struct Removal {
    kind: RemovableKind,
    id: DeviceId,
    /// When the guest's time is up; called off when the removal ends before.
    end: Appointment,
    /// Everybody who asked for it.
    done: Vec<Done>,
}

impl Removals {
    /// Forgets all of them, and whoever waits for one.
    pub(crate) fn clear(&mut self) {
        self.pending.clear();
    }
}

impl RemovableKind {
    /// The device `id`, as events name it.
    fn name(self, id: &DeviceId) -> DeviceName {
        let kind = match self {
            Self::Drive => DeviceKind::Drive,
            Self::NetworkInterface => DeviceKind::NetworkInterface,
            Self::Pmem => DeviceKind::Pmem,
        };
        DeviceName {
            kind,
            id: id.0.clone(),
        }
    }

    /// The virtio device type (virtio 1.2 §5).
    fn device_type(self) -> u32 {
        match self {
            Self::Drive => VIRTIO_ID_BLOCK,
            Self::NetworkInterface => VIRTIO_ID_NET,
            Self::Pmem => VIRTIO_ID_PMEM,
        }
    }
}

impl Configuration {
    /// Whether there is such a device; the root device may not leave a machine.
    fn check_removable(&self, kind: RemovableKind, id: &DeviceId) -> Result<(), HotplugError> {
        let is_root = match kind {
            RemovableKind::Drive => {
                let mut drives = self.drives.iter().map(|drive| &drive.config);
                let found = drives.find(|drive| drive.drive_id == *id);
                found.map(|drive| drive.is_root_device)
            }
            RemovableKind::NetworkInterface => {
                let mut interfaces = self.network_interfaces.iter();
                let is_there = interfaces.any(|other| other.config.iface_id == *id);
                is_there.then_some(false)
            }
            RemovableKind::Pmem => {
                let found = self.pmem.iter().find(|pmem| pmem.id == *id);
                found.map(|pmem| pmem.root_device)
            }
        };
        match is_root {
            None => Err(HotplugError::NotFound),
            Some(true) => Err(HotplugError::Root),
            Some(false) => Ok(()),
        }
    }

    fn forget(&mut self, kind: RemovableKind, id: &DeviceId) {
        match kind {
            RemovableKind::Drive => self.drives.retain(|other| other.config.drive_id != *id),
            RemovableKind::NetworkInterface => {
                let interfaces = &mut self.network_interfaces;
                interfaces.retain(|other| other.config.iface_id != *id);
                self.forget_mmds_interface(id);
            }
            RemovableKind::Pmem => self.pmem.retain(|other| other.id != *id),
        }
    }
}

impl Command for RemoveDevice {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = ANY_STATE;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        if vm.lifecycle == Lifecycle::NotStarted {
            return self.forget_description(vm);
        }
        let machine = vm.machine.as_ref().filter(|machine| machine.has_pci());
        let machine = machine.ok_or(CommandError::NoPci)?;
        vm.config.check_removable(self.kind, &self.id)?;
        let plugged = machine
            .find_plugged(self.kind.device_type(), &self.id)
            .ok_or(HotplugError::NotFound)?;
        if self.consent == Consent::Forced || !plugged.is_claimed {
            vm.finish_removal(plugged.device, self.kind, &self.id, Leaving::Unasked);
            (self.done)(Ok(()));
        } else if vm.lifecycle == Lifecycle::Paused {
            return Err(HotplugError::Paused.into());
        } else {
            machine.ask_for(plugged.device);
            vm.await_release(plugged.device, self);
        }
        Ok(())
    }
}

impl RemoveDevice {
    fn forget_description(self, vm: &mut Vm) -> Result<(), CommandError> {
        match vm.config.check_removable(self.kind, &self.id) {
            Ok(()) | Err(HotplugError::Root) => {}
            Err(refused) => return Err(refused.into()),
        }
        vm.config.forget(self.kind, &self.id);
        vm.publish();
        (self.done)(Ok(()));
        Ok(())
    }
}

impl Vm {
    /// The guest let go of the device in slot `device`, which it was asked for.
    pub(crate) fn released(&mut self, device: u8) {
        if let Some(removal) = self.removals.pending.get(&device) {
            let (kind, id) = (removal.kind, removal.id.clone());
            self.finish_removal(device, kind, &id, Leaving::Released);
        }
    }

    /// Whoever asks again while the guest is asked waits for the same end.
    fn await_release(&mut self, device: u8, request: RemoveDevice) {
        if let Some(removal) = self.removals.pending.get_mut(&device) {
            removal.done.push(request.done);
            return;
        }
        let give_up = Box::new(move |vm: &mut Self| vm.give_up(device));
        let removal = Removal {
            kind: request.kind,
            id: request.id,
            end: self.event_loop.after(REMOVAL_TIMEOUT, give_up),
            done: vec![request.done],
        };
        self.removals.pending.insert(device, removal);
    }

    /// The time of the removal in slot `device` is up.
    fn give_up(&mut self, device: u8) {
        let Some(removal) = self.removals.pending.remove(&device) else {
            return;
        };
        if let Some(machine) = &self.machine {
            machine.take_back(device);
        }
        let name = removal.kind.name(&removal.id);
        self.sender.events.note(VmEvent::DeviceRemovalRefused(name));
        for done in removal.done {
            done(Err(HotplugError::NoAnswer.into()));
        }
    }

    /// Takes a device out of the machine and out of the configuration, and tells whoever waits for that.
    fn finish_removal(&mut self, device: u8, kind: RemovableKind, id: &DeviceId, how: Leaving) {
        if let Some(machine) = &mut self.machine {
            machine.unplug(device, how, self.lifecycle, &mut self.event_loop);
        }
        self.config.forget(kind, id);
        self.publish();
        self.sender
            .events
            .note(VmEvent::DeviceRemoved(kind.name(id)));
        let Some(removal) = self.removals.pending.remove(&device) else {
            return;
        };
        self.event_loop.call_off(&removal.end);
        for done in removal.done {
            done(Ok(()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use serde_json::json;

    use super::*;
    use crate::control::PutDrive;
    use crate::vm::tests::vm;

    fn remove(vm: &mut Vm, kind: RemovableKind) -> (Result<(), CommandError>, bool) {
        let (said, heard) = mpsc::channel();
        let began = vm.execute(RemoveDevice {
            kind,
            id: DeviceId("disk".to_owned()),
            consent: Consent::Needed,
            done: Box::new(move |result| said.send(result.is_ok()).unwrap()),
        });
        (began, heard.try_recv() == Ok(true))
    }

    #[test]
    fn a_description_goes_before_the_start_even_that_of_the_root() {
        let mut vm = vm();
        let image = tempfile::NamedTempFile::new().unwrap();
        let drive =
            json!({ "drive_id": "disk", "is_root_device": true, "path_on_host": image.path() });
        vm.execute(PutDrive(serde_json::from_value(drive).unwrap()))
            .unwrap();
        let (began, is_done) = remove(&mut vm, RemovableKind::NetworkInterface);
        assert!(matches!(
            began,
            Err(CommandError::Hotplug(HotplugError::NotFound))
        ));
        assert!(!is_done);
        let (began, is_done) = remove(&mut vm, RemovableKind::Drive);
        assert!(began.is_ok() && is_done);
        assert!(vm.config.drives.is_empty());
        assert!(remove(&mut vm, RemovableKind::Drive).0.is_err());
    }

    #[test]
    fn a_removal_that_ended_leaves_nothing_to_be_done_later() {
        let mut vm = vm();
        let (said, heard) = mpsc::channel();
        for _ in 0..2 {
            let said = said.clone();
            let request = RemoveDevice {
                kind: RemovableKind::Drive,
                id: DeviceId("disk".to_owned()),
                consent: Consent::Needed,
                done: Box::new(move |result| said.send(result.is_ok()).unwrap()),
            };
            vm.await_release(3, request);
        }
        assert!(vm.event_loop.has_appointments());
        vm.released(3);
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [true, true]);
        assert!(!vm.event_loop.has_appointments());
    }

    #[test]
    fn a_release_that_nobody_waits_for_changes_nothing() {
        let mut vm = vm();
        vm.released(3);
        vm.give_up(3);
        assert!(vm.removals.pending.is_empty());
    }
}
