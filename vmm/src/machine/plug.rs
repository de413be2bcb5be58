//! Devices that come and go while the machine exists. Only the bus of PCI takes them.

use std::sync::Arc;

use devices::pci::hotplug::Removal;
use devices::virtio::{VirtioDevice, WorkerLoop};
use vm_config::{DeviceId, VmEvent};

use super::RunningMachine;
use crate::Lifecycle;
use crate::attach::{AttachError, VirtioAttachment, attach_pci};
use crate::control::CommandError;
use crate::event_loop::{EventLoop, Sender};
use crate::kvm::{KvmVm, MemorySlot};
use crate::metrics::METRICS;
use crate::placement::Place;

/// A device on the bus, as a removal sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plugged {
    /// Device number.
    pub(crate) device: u8,
    /// A driver in the guest has it.
    pub(crate) is_claimed: bool,
}

impl RunningMachine {
    /// Devices can come and go.
    pub(crate) fn has_pci(&self) -> bool {
        self.pci.is_some()
    }

    /// The VM, to give devices memory.
    pub(crate) fn vm(&self) -> &KvmVm {
        &self.vm
    }

    /// Puts a device, with the `memory` that the guest has of it, on the bus and tells the guest; nothing stands still
    /// for it.
    ///
    /// # Errors
    /// When there is no such bus, it is full or the host refuses; all is as before.
    pub(crate) fn plug(
        &mut self,
        id: DeviceId,
        device: Box<dyn VirtioDevice>,
        memory: Option<MemorySlot>,
        sender: &Sender,
    ) -> Result<(), CommandError> {
        let place = self.placement.next().map_err(AttachError::from)?;
        let (Some(pci), Place::Pci(at)) = (&self.pci, place) else {
            self.placement.release(place);
            return Err(CommandError::NoPci);
        };
        let workers = Arc::new(sender.clone()) as Arc<dyn WorkerLoop>;
        let counters = device.counters();
        let attached = attach_pci(pci, device, &self.vm, workers, at);
        let transport = attached.inspect_err(|_| self.placement.release(place))?;
        METRICS.add(&id, Arc::clone(&counters));
        let attachment = VirtioAttachment {
            id,
            place,
            transport,
            counters,
            memory,
        };
        attachment.tell(&sender.events);
        sender.events.note(VmEvent::DeviceAdded(attachment.name()));
        self.virtio.push(attachment);
        pci.hotplug.insert(at.device);
        Ok(())
    }

    /// Where the device of the virtio type `device_type` is that the user named `id`.
    pub(crate) fn find_plugged(&self, device_type: u32, id: &DeviceId) -> Option<Plugged> {
        self.virtio.iter().find_map(|attachment| {
            let slot = attachment.transport.slot();
            match attachment.place {
                Place::Pci(at) if slot.device_type() == device_type && attachment.id == *id => {
                    Some(Plugged {
                        device: at.device,
                        is_claimed: slot.is_claimed(),
                    })
                }
                _ => None,
            }
        })
    }

    /// Asks the guest to let go of the device in slot `device`.
    pub(crate) fn ask_for(&self, device: u8) {
        if let Some(pci) = &self.pci {
            pci.hotplug.ask(device);
        }
    }

    /// The device in slot `device` stays.
    pub(crate) fn take_back(&self, device: u8) {
        if let Some(pci) = &self.pci {
            pci.hotplug.take_back(device);
        }
    }

    /// Takes the device out of slot `device`, with everything of it in this process and in KVM. vCPUs stand still for a
    /// moment, so that none is in the middle of an access to it; other devices go on.
    pub(crate) fn unplug(
        &mut self,
        device: u8,
        how: Removal,
        lifecycle: Lifecycle,
        event_loop: &mut EventLoop,
    ) {
        let is_it = |attachment: &VirtioAttachment| matches!(attachment.place, Place::Pci(at) if at.device == device);
        let Some(index) = self.virtio.iter().position(is_it) else {
            return;
        };
        let attachment = self.virtio.remove(index);
        if lifecycle == Lifecycle::Running {
            self.park_vcpus(event_loop);
        }
        drop(event_loop.stop(attachment.transport.slot().id()));
        let function = self.pci.as_ref().map(|pci| match how {
            Removal::Released => pci.bus.remove(device),
            Removal::Unasked => pci.bus.pull_out(device),
        });
        if lifecycle == Lifecycle::Running {
            self.run_vcpus();
        }
        let place = attachment.place;
        METRICS.remove(&attachment.counters);
        // The last that hold it: vCPUs find it on the bus only. Closing a tap may take a while, and nobody waits.
        drop((attachment, function));
        self.placement.release(place);
        if let Some(pci) = &self.pci {
            pci.hotplug.remove(device, how);
        }
    }
}
