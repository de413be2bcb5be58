//! Puts devices on the buses and wires their kicks and interrupts to KVM.

use std::io;
use std::sync::Arc;

use devices::legacy::ioapic::{self, IoApic};
use devices::legacy::{ConsoleSink, I8042, Serial, SerialInput, i8042, serial};
use devices::virtio::block::{Block, DiskError};
use devices::virtio::net::{Net, NetError};
use devices::virtio::transport::Transport;
use devices::virtio::transport::mmio::{self, MmioTransport};
use devices::virtio::{VirtioDevice, Worker, WorkerId, WorkerLoop};
use vm_config::{DeviceId, Drive};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::arch::x86_64::layout::{
    COM1_PORT, GSI_COM1, GSI_KEYBOARD, I8042_DATA_PORT, IOAPIC_START,
};
use crate::boot::cmdline::CommandLine;
use crate::bus::Bus;
use crate::configuration::Configuration;
use crate::console;
use crate::event_loop::Sender;
use crate::kvm::{InterruptControllers, KvmError, KvmVm};
use crate::placement::{MmioPlace, OutOfPlaces, Placement};
use crate::vcpu::MachineEnd;

/// The console's input has the place behind those of all devices.
const CONSOLE_WORKER: WorkerId = WorkerId(u16::MAX);

/// Why a device cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Too many devices.
    #[error(transparent)]
    Place(#[from] OutOfPlaces),
    /// KVM refuses an event.
    #[error("Kvm error")]
    Kvm(#[from] KvmError),
    /// A drive that could be opened when it was named, and cannot now.
    #[error("Drive config error")]
    Drive(#[from] DiskError),
    /// An interface that could be opened when it was named, and cannot now.
    #[error("Network config error")]
    Network(#[from] NetError),
    /// Standard output.
    #[error("cannot use standard output as the guest's console; open it, to /dev/null if need be")]
    Console(#[source] io::Error),
    /// The host gives no event.
    #[error("cannot make an event for a device; raise the limit on open files (`ulimit -n`)")]
    Event(#[source] io::Error),
}

/// A virtio device in its place.
pub(crate) struct VirtioAttachment {
    /// The user's name for it; names are unique among devices of one kind.
    pub(crate) id: DeviceId,
    pub(crate) place: MmioPlace,
    pub(crate) transport: Arc<dyn Transport>,
}

/// The devices of a machine, on its buses.
pub(crate) struct Attached {
    pub(crate) ports: Bus,
    pub(crate) mmio: Bus,
    /// In attach order.
    pub(crate) virtio: Vec<VirtioAttachment>,
    pub(crate) keyboard: Arc<I8042>,
    pub(crate) serial: Arc<Serial>,
    pub(crate) end: Arc<MachineEnd>,
}

/// Takes the devices out of `config`, in attach order, and adds to `cmdline` what a kernel must be told.
pub(crate) fn attach_devices(
    config: &mut Configuration,
    vm: &KvmVm,
    sender: &Sender,
    cmdline: &mut CommandLine,
) -> Result<Attached, AttachError> {
    let mut attached = attach_legacy(vm, sender)?;
    let mut placement = Placement::default();
    cmdline.push("pci=off");
    if let Some(root) = config.drives.first().filter(|d| d.config.is_root_device) {
        push_root(cmdline, &root.config);
    }
    for drive in &mut config.drives {
        let block = drive.take(Block::open)?;
        let id = drive.config.drive_id.clone();
        attached.attach_virtio(id, Box::new(block), vm, sender, placement.next()?)?;
    }
    for interface in &mut config.network_interfaces {
        let net = interface.take(Net::open)?;
        let id = interface.config.iface_id.clone();
        attached.attach_virtio(id, Box::new(net), vm, sender, placement.next()?)?;
    }
    for VirtioAttachment { place, .. } in &attached.virtio {
        cmdline.push_virtio_mmio(place.address, place.gsi);
    }
    Ok(attached)
}

/// The root drive is the guest's first disk.
fn push_root(cmdline: &mut CommandLine, root: &Drive) {
    match &root.partuuid {
        Some(partuuid) => cmdline.push(&format!("root=PARTUUID={partuuid}")),
        None => cmdline.push("root=/dev/vda"),
    };
    let is_read_only = root.is_read_only.unwrap_or(false);
    cmdline.push(if is_read_only { "ro" } else { "rw" });
}

fn attach_legacy(vm: &KvmVm, sender: &Sender) -> Result<Attached, AttachError> {
    let mut ports = Bus::default();
    let mut mmio = Bus::default();
    if vm.controllers() == InterruptControllers::Split {
        let ioapic = Arc::new(IoApic::new(vm.routes()));
        mmio.add(IOAPIC_START.0, ioapic::WINDOW_LEN, ioapic);
    }
    let output = ConsoleSink::new(console::output().map_err(AttachError::Console)?);
    let serial_line = Box::new(wired_line(vm, GSI_COM1)?);
    let port = Serial::new(serial_line, Box::new(output)).map_err(AttachError::Event)?;
    let port = Arc::new(port);
    ports.add(COM1_PORT.into(), serial::WINDOW_LEN, port.clone());
    let end = Arc::new(MachineEnd::new(sender.clone()));
    let keyboard_line = Box::new(wired_line(vm, GSI_KEYBOARD)?);
    let keyboard = Arc::new(I8042::new(keyboard_line, end.clone()));
    ports.add(I8042_DATA_PORT.into(), i8042::WINDOW_LEN, keyboard.clone());
    Ok(Attached {
        ports,
        mmio,
        virtio: Vec::new(),
        keyboard,
        serial: port,
        end,
    })
}

impl Attached {
    /// The worker that reads the console's input, if there is any.
    pub(crate) fn console_input(&self) -> Option<(WorkerId, Box<dyn Worker>)> {
        let input = SerialInput::new(Arc::clone(&self.serial), console::input()?);
        Some((CONSOLE_WORKER, Box::new(input)))
    }

    fn attach_virtio(
        &mut self,
        id: DeviceId,
        device: Box<dyn VirtioDevice>,
        vm: &KvmVm,
        sender: &Sender,
        place: MmioPlace,
    ) -> Result<(), AttachError> {
        let kick = event()?;
        vm.wire_kick(&kick, place.address.0 + mmio::QUEUE_NOTIFY)?;
        let transport = Arc::new(MmioTransport::new(
            place.worker,
            device,
            Arc::clone(vm.memory()),
            Box::new(wired_line(vm, place.gsi)?),
            kick,
            Arc::new(sender.clone()) as Arc<dyn WorkerLoop>,
        ));
        self.mmio
            .add(place.address.0, mmio::WINDOW_LEN, transport.clone());
        self.virtio.push(VirtioAttachment {
            id,
            place,
            transport,
        });
        Ok(())
    }
}

/// An interrupt line: writing it is an interrupt on `gsi`.
fn wired_line(vm: &KvmVm, gsi: u32) -> Result<EventFd, AttachError> {
    let line = event()?;
    vm.wire_interrupt(&line, gsi)?;
    Ok(line)
}

fn event() -> Result<EventFd, AttachError> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(AttachError::Event)
}
