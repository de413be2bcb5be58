//! The machine once it exists: vCPU threads, devices, and how they stand still and go on together.

#[cfg(feature = "gdb")]
mod debug;
mod plug;
mod sight;

use std::any::Any;
use std::sync::Arc;

use devices::acpi::{Event, Events, PanicNotice};
use devices::legacy::{I8042, Serial};
use devices::virtio::transport::Slot;
use devices::virtio::{Changed, VirtioDevice, Worker, WorkerId};
use vm_config::DeviceId;

#[cfg(feature = "gdb")]
pub(crate) use debug::Impossible;

use crate::attach::{Attached, VirtioAttachment};
use crate::control::CommandError;
use crate::event_loop::EventLoop;
use crate::events::EventLog;
use crate::hotplug::PciSide;
use crate::kvm::KvmVm;
use crate::metrics::METRICS;
use crate::placement::Placement;
use crate::vcpu::{self, Surroundings};

/// The machine once it exists.
pub(crate) struct RunningMachine {
    vcpus: Vec<vcpu::Handle>,
    around: Surroundings,
    virtio: Vec<VirtioAttachment>,
    keyboard: Arc<I8042>,
    serial: Arc<Serial>,
    events: Arc<Events>,
    panic: Arc<PanicNotice>,
    /// Reads the console's input; on the loop once the machine runs.
    console: Option<(WorkerId, Box<dyn Worker>)>,
    /// With devices on PCI.
    pci: Option<PciSide>,
    placement: Placement,
    command_line: String,
    #[cfg(feature = "gdb")]
    debugged: Option<debug::Debugged>,
    /// Holds the VM, and with it guest memory, as long as the vCPUs.
    vm: KvmVm,
}

impl RunningMachine {
    /// A machine that was just built and stands still. What it counts is told from now on.
    pub(crate) fn new(
        vm: KvmVm,
        vcpus: Vec<vcpu::Handle>,
        attached: Attached,
        command_line: String,
    ) -> Self {
        METRICS.add("", attached.serial.metrics());
        METRICS.add("", attached.keyboard.metrics());
        METRICS.add("", attached.panic.metrics());
        METRICS.add("", vm.interrupt_metrics());
        for device in &attached.virtio {
            METRICS.add(&device.id, Arc::clone(&device.counters));
        }
        for (index, vcpu) in vcpus.iter().enumerate() {
            METRICS.add(index, vcpu.metrics());
        }
        Self {
            console: attached.console_input(),
            vcpus,
            around: Surroundings {
                ports: Arc::new(attached.ports),
                mmio: Arc::new(attached.mmio),
                end: attached.end,
            },
            virtio: attached.virtio,
            keyboard: attached.keyboard,
            serial: attached.serial,
            events: attached.events,
            panic: attached.panic,
            pci: attached.pci,
            placement: attached.placement,
            command_line,
            #[cfg(feature = "gdb")]
            debugged: None,
            vm,
        }
    }

    /// Lets `events` hear of the devices from here on.
    pub(crate) fn tell(&self, events: &EventLog) {
        self.virtio.iter().for_each(|device| device.tell(events));
    }

    /// Lets a machine that was just built run.
    pub(crate) fn start(&mut self, event_loop: &mut EventLoop) {
        if let Some((id, console)) = self.console.take() {
            event_loop.start(id, console);
        }
        self.run_vcpus();
    }

    /// Stops the vCPUs, then the devices.
    pub(crate) fn pause(&mut self, event_loop: &mut EventLoop) {
        #[cfg(feature = "gdb")]
        self.note_pause(true);
        self.park_vcpus(event_loop);
        for VirtioAttachment { transport, .. } in &self.virtio {
            let slot = transport.slot();
            slot.park(&event_loop.stop(slot.id()));
        }
    }

    /// Starts the devices, then the vCPUs.
    pub(crate) fn resume(&mut self, event_loop: &mut EventLoop) {
        #[cfg(feature = "gdb")]
        self.note_pause(false);
        for VirtioAttachment { transport, .. } in &self.virtio {
            let slot = transport.slot();
            if let Some(worker) = slot.unpark() {
                event_loop.start(slot.id(), worker);
            }
        }
        self.run_vcpus();
    }

    /// Changes the device that the user named `id`, if there is a `D` of that name, and tells its driver when
    /// the configuration space is another; for [`crate::Vm::change_machine`].
    pub(crate) fn change_device<D: VirtioDevice, R>(
        &self,
        id: &DeviceId,
        change: impl FnOnce(&mut D) -> Changed<R>,
    ) -> Option<R> {
        let mut change = Some(change);
        let mut same_name = self.virtio.iter().filter(|device| device.id == *id);
        same_name.find_map(|attachment| {
            let slot = attachment.transport.slot();
            let changed = slot.change(|device| {
                let device: &mut dyn Any = device;
                let device = device.downcast_mut()?;
                Some(change.take()?(device))
            });
            match changed.flatten()? {
                Changed::Inside(result) => Some(result),
                Changed::Configuration(result) => {
                    slot.notify_config_change();
                    Some(result)
                }
            }
        })
    }

    /// Lets `look` see the `D` that the user named `id`, while the machine runs.
    pub(crate) fn look<D: VirtioDevice, R>(
        &self,
        id: &DeviceId,
        look: impl FnOnce(&D) -> R,
    ) -> Option<R> {
        let looked = self.slot::<D>(id)?.look(|device| {
            let device: &dyn Any = device;
            device.downcast_ref().map(look)
        });
        looked.flatten()
    }

    /// Where the `D` is that the user named `id`.
    pub(crate) fn slot<D: VirtioDevice>(&self, id: &DeviceId) -> Option<&Slot> {
        let is_one = |device: &dyn VirtioDevice| {
            let device: &dyn Any = device;
            device.is::<D>()
        };
        self.virtio
            .iter()
            .filter(|attachment| attachment.id == *id)
            .map(|attachment| attachment.transport.slot())
            .find(|slot| slot.look(is_one) == Some(true))
    }

    pub(crate) fn press_ctrl_alt_del(&self) -> Result<(), CommandError> {
        self.keyboard
            .press_ctrl_alt_del()
            .map_err(CommandError::Keyboard)
    }

    #[cfg(feature = "gdb")]
    pub(crate) fn vcpu_count(&self) -> usize {
        self.vcpus.len()
    }

    pub(crate) fn press_power_button(&self) {
        self.events.raise(Event::PowerButton);
    }

    /// What the guest tells of its own end.
    pub(crate) fn panic_notice(&self) -> Arc<PanicNotice> {
        Arc::clone(&self.panic)
    }

    /// Returns when no vCPU is in the guest or in a device.
    fn park_vcpus(&self, event_loop: &mut EventLoop) {
        let running = || self.vcpus.iter().filter(|vcpu| vcpu.is_running());
        for vcpu in running() {
            vcpu.park();
        }
        event_loop.wait_until_parked(running().count());
        for vcpu in &self.vcpus {
            vcpu.stands_still();
        }
    }

    fn run_vcpus(&self) {
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            if !vcpu.is_running() && !self.is_held(index) {
                vcpu.run(self.around.clone());
            }
        }
    }

    /// Whether a debugger keeps a vCPU still.
    #[cfg(not(feature = "gdb"))]
    #[expect(clippy::unused_self, reason = "a debugger would be in it")]
    fn is_held(&self, _index: usize) -> bool {
        false
    }
}
