//! Puts devices on the buses and wires their kicks and interrupts to KVM.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use devices::acpi::{Events, PanicNotice, Panicked, Power, events, panic, power};
use devices::legacy::ioapic::{self, IoApic};
use devices::legacy::{ConsoleSink, I8042, Serial, SerialInput, boot_timer, i8042, serial};
use devices::metrics::Group;
use devices::pci::bus::{CONFIG_PORTS_LEN, ECAM_LEN};
use devices::pci::{BarWindows, ConfigMemory, ConfigPorts, hotplug};
use devices::virtio::block::{self, DiskError, LockWait};
use devices::virtio::console::{Console, ConsoleError};
use devices::virtio::net::{Net, NetError};
use devices::virtio::rng::Rng;
use devices::virtio::transport::Transport;
use devices::virtio::transport::mmio::{self, MmioTransport};
use devices::virtio::transport::pci::{self, PciPlacement, PciTransport};
use devices::virtio::vsock::{Vsock, VsockError};
use devices::virtio::{Balloon, Mem, VirtioDevice, Worker, WorkerId, WorkerLoop};
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_RO;
use virtio_bindings::virtio_ids::{
    VIRTIO_ID_BALLOON, VIRTIO_ID_BLOCK, VIRTIO_ID_CONSOLE, VIRTIO_ID_MEM, VIRTIO_ID_NET,
    VIRTIO_ID_PMEM, VIRTIO_ID_RNG, VIRTIO_ID_VSOCK,
};
use vm_config::{
    DeviceId, DeviceKind, DeviceName, DeviceTransport, Drive, Explain, FaultCode, FaultKind,
    SerialConfig, VmEvent,
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::arch::x86_64::layout::{
    BOOT_TIMER_START, COM1_PORT, ECAM_START, EVENTS_PORT, GSI_COM1, GSI_EVENTS, GSI_KEYBOARD,
    I8042_DATA_PORT, IOAPIC_START, PANIC_PORT, PCI_CONFIG_PORTS, PCI_HOTPLUG_PORTS, POWER_PORTS,
};
use crate::boot::cmdline::CommandLine;
use crate::boot_time::BootClock;
use crate::bus::Bus;
use crate::configuration::{Configuration, balloon_id, mem_id};
use crate::console;
use crate::diagnosis;
use crate::event_loop::{Message, Sender};
use crate::events::{DeviceEvent, EventLog};
use crate::hotplug::{PciSide, Pins};
use crate::kvm::{InterruptControllers, KvmError, KvmVm, MemorySlot, WiredLine};
use crate::messages::MessageVectors;
use crate::placement::{
    BAR_PLACES, MAX_VECTORS, MmioPlace, OutOfPlaces, PciPlace, Place, Placement,
};
use crate::pmem::OpenPmem;
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
    #[error("Drive config error: Unable to create the virtio block device")]
    Drive(#[from] DiskError),
    /// An interface that could be opened when it was named, and cannot now.
    #[error("Network config error")]
    Network(#[from] NetError),
    /// The vsock device.
    #[error("Vsock config error")]
    Vsock(#[from] VsockError),
    /// The virtio console.
    #[error("Console config error")]
    VirtioConsole(#[from] ConsoleError),
    /// Standard output.
    #[error("cannot use standard output as the guest's console; open it, to /dev/null if need be")]
    Console(#[source] io::Error),
    /// The file for the guest's console.
    #[error(
        "cannot open {path:?} for the guest's serial output; check serial_out_path as this process sees it"
    )]
    SerialOutput {
        /// Which file.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// The host gives no event.
    #[error("cannot make an event for a device; raise the limit on open files (`ulimit -n`)")]
    Event(#[source] io::Error),
}

impl Explain for AttachError {
    fn kind(&self) -> FaultKind<'_> {
        match self {
            Self::Place(inner) => FaultKind::Inner(inner),
            Self::Kvm(inner) => FaultKind::Inner(inner),
            Self::Drive(inner) => FaultKind::Inner(inner),
            Self::Network(inner) => FaultKind::Inner(inner),
            Self::Vsock(inner) => FaultKind::Inner(inner),
            Self::VirtioConsole(inner) => FaultKind::Inner(inner),
            Self::Console(_) | Self::SerialOutput { .. } => FaultKind::Code(FaultCode::SerialFile),
            Self::Event(_) => FaultKind::Code(FaultCode::HostLimit),
        }
    }
}

// The names of devices that a machine has one of, and that the user does not name.
const VSOCK: &str = "vsock";
const RNG: &str = "rng";
const CONSOLE: &str = "console";

/// The name of the one virtio console.
pub(crate) fn console_id() -> DeviceId {
    DeviceId(CONSOLE.to_owned())
}

/// A virtio device in its place.
pub(crate) struct VirtioAttachment {
    /// The user's name for it; names are unique among devices of one kind.
    pub(crate) id: DeviceId,
    pub(crate) place: Place,
    pub(crate) transport: Arc<dyn Transport>,
    /// What it counts.
    pub(crate) counters: Arc<dyn Group>,
    /// The memory that the guest has of it.
    pub(crate) memory: Option<MemorySlot>,
}

/// What was made before the rest of the machine.
pub(crate) struct MadeBefore {
    /// For a boot timer.
    pub(crate) clock: Option<BootClock>,
    /// As configured, in that order.
    pub(crate) pmem: Vec<OpenPmem>,
    pub(crate) mem: Option<Mem>,
}

impl VirtioAttachment {
    /// The device, as events name it.
    pub(crate) fn name(&self) -> DeviceName {
        let kind = match self.transport.slot().device_type() {
            VIRTIO_ID_BLOCK => DeviceKind::Drive,
            VIRTIO_ID_NET => DeviceKind::NetworkInterface,
            VIRTIO_ID_PMEM => DeviceKind::Pmem,
            VIRTIO_ID_VSOCK => DeviceKind::Vsock,
            VIRTIO_ID_RNG => DeviceKind::Entropy,
            VIRTIO_ID_BALLOON => DeviceKind::Balloon,
            VIRTIO_ID_MEM => DeviceKind::MemoryHotplug,
            VIRTIO_ID_CONSOLE => DeviceKind::Console,
            _ => DeviceKind::Other,
        };
        DeviceName {
            kind,
            id: self.id.0.clone(),
        }
    }

    /// Lets `events` hear of the device from here on.
    pub(crate) fn tell(&self, events: &EventLog) {
        let slot = self.transport.slot();
        let id = slot.id();
        events.name_device(id, self.name());
        let events = events.clone();
        slot.on_needs_reset(Box::new(move || {
            events.note_device(id, DeviceEvent::NeedsReset);
        }));
    }
}

/// The devices of a machine, on its buses.
pub(crate) struct Attached {
    pub(crate) ports: Bus,
    pub(crate) mmio: Bus,
    /// With devices on PCI.
    pub(crate) pci: Option<PciSide>,
    pub(crate) placement: Placement,
    /// In attach order.
    pub(crate) virtio: Vec<VirtioAttachment>,
    pub(crate) keyboard: Arc<I8042>,
    pub(crate) serial: Arc<Serial>,
    pub(crate) events: Arc<Events>,
    pub(crate) panic: Arc<PanicNotice>,
    /// The console is on standard output, and so on standard input.
    is_console_standard: bool,
    pub(crate) end: Arc<MachineEnd>,
}

/// Takes the devices out of `config`, in attach order, and adds to `cmdline` what a kernel must be told.
pub(crate) fn attach_devices(
    config: &mut Configuration,
    made: MadeBefore,
    vm: &KvmVm,
    sender: &Sender,
    cmdline: &mut CommandLine,
) -> Result<Attached, AttachError> {
    let mut attached = attach_legacy(&config.serial, vm, sender)?;
    if let Some(clock) = made.clock {
        let timer = Arc::new(clock.device());
        (attached.mmio).add(BOOT_TIMER_START.0, boot_timer::WINDOW_LEN, timer);
    }
    match config.transport {
        DeviceTransport::Mmio => drop(cmdline.push("pci=off")),
        DeviceTransport::Pci => attached.attach_pci_bus(sender),
    }
    let mut placement = Placement::new(config.transport);
    if let Some(index) = config.pmem.iter().position(|pmem| pmem.root_device) {
        push_pmem_root(cmdline, index, config.pmem[index].read_only);
    }
    for drive in &mut config.drives {
        let device = drive.take(|stated| block::open(stated, &config.ring, LockWait::Second))?;
        if drive.config.is_root_device {
            push_root(cmdline, &drive.config, device.as_ref());
        }
        let id = drive.config.drive_id.clone();
        attached.attach_virtio(id, device, vm, sender, placement.next()?)?;
    }
    for interface in &mut config.network_interfaces {
        let mut net = interface.take(Net::open)?;
        let id = interface.config.iface_id.clone();
        let mmds = config.mmds_config.as_ref();
        if let Some(mmds) = mmds.filter(|mmds| mmds.network_interfaces.contains(&id)) {
            net.serve_metadata(Arc::clone(&config.mmds), mmds);
        }
        attached.attach_virtio(id, Box::new(net), vm, sender, placement.next()?)?;
    }
    for (stated, OpenPmem { device, slot }) in config.pmem.iter().zip(made.pmem) {
        let id = stated.id.clone();
        attached.attach_virtio(id, Box::new(device), vm, sender, placement.next()?)?;
        attached.give_memory(slot);
    }
    if let Some(balloon) = &config.balloon {
        let device = Box::new(Balloon::new(balloon));
        attached.attach_virtio(balloon_id(), device, vm, sender, placement.next()?)?;
    }
    if let Some(vsock) = &mut config.vsock {
        let device = Box::new(vsock.take(Vsock::open)?);
        let id = DeviceId(VSOCK.to_owned());
        attached.attach_virtio(id, device, vm, sender, placement.next()?)?;
    }
    if let Some(entropy) = &config.entropy {
        let rng = Box::new(Rng::new(entropy));
        let id = DeviceId(RNG.to_owned());
        attached.attach_virtio(id, rng, vm, sender, placement.next()?)?;
    }
    if let Some(console) = &mut config.console {
        let device = Box::new(console.take(Console::open)?);
        attached.attach_virtio(console_id(), device, vm, sender, placement.next()?)?;
    }
    if let Some(mem) = made.mem {
        attached.attach_virtio(mem_id(), Box::new(mem), vm, sender, placement.next()?)?;
    }
    for place in attached.mmio_places() {
        cmdline.push_virtio_mmio(place.address, place.gsi);
    }
    attached.placement = placement;
    Ok(attached)
}

/// The root drive is the guest's first disk. Whether it can be written, a back end decides, and its device knows.
fn push_root(cmdline: &mut CommandLine, root: &Drive, device: &dyn VirtioDevice) {
    match &root.partuuid {
        Some(partuuid) => cmdline.push(&format!("root=PARTUUID={partuuid}")),
        None => cmdline.push("root=/dev/vda"),
    };
    let is_read_only = device.traits().features & (1 << VIRTIO_BLK_F_RO) != 0;
    cmdline.push(if is_read_only { "ro" } else { "rw" });
}

/// Guests number persistent memory in attach order.
fn push_pmem_root(cmdline: &mut CommandLine, index: usize, is_read_only: bool) {
    cmdline.push(&format!("root=/dev/pmem{index}"));
    cmdline.push(if is_read_only { "ro" } else { "rw" });
}

/// Where the guest's serial output goes.
fn open_console(config: &SerialConfig) -> Result<ConsoleSink, AttachError> {
    let fd = match &config.serial_out_path {
        None => console::output().map_err(AttachError::Console)?,
        Some(path) => console::open_output(path).map_err(|source| AttachError::SerialOutput {
            path: path.clone(),
            source,
        })?,
    };
    Ok(ConsoleSink::new(fd))
}

fn attach_legacy(
    config: &SerialConfig,
    vm: &KvmVm,
    sender: &Sender,
) -> Result<Attached, AttachError> {
    let mut ports = Bus::default();
    let mut mmio = Bus::default();
    vm.memory_slots().above_ram().attach(&mut mmio);
    let events = Arc::new(Events::new(Box::new(wired_line(vm, GSI_EVENTS)?)));
    if vm.controllers() == InterruptControllers::Split {
        let ioapic = Arc::new(IoApic::new(Pins::new(vm.routes(), &events)));
        mmio.add(IOAPIC_START.0, ioapic::WINDOW_LEN, ioapic);
    }
    let output = open_console(config)?;
    let serial_line = Box::new(wired_line(vm, GSI_COM1)?);
    let port = Serial::new(serial_line, Box::new(output)).map_err(AttachError::Event)?;
    let port = Arc::new(port.with_limit(config.rate_limiter));
    ports.add(COM1_PORT.into(), serial::WINDOW_LEN, port.clone());
    let end = Arc::new(MachineEnd::new(sender.clone()));
    let keyboard_line = Box::new(wired_line(vm, GSI_KEYBOARD)?);
    let keyboard = Arc::new(I8042::new(keyboard_line, end.clone()));
    ports.add(I8042_DATA_PORT.into(), i8042::WINDOW_LEN, keyboard.clone());
    attach_acpi(&mut ports, &end, &events);
    let on_panic = sender.clone();
    let panic = PanicNotice::new(Box::new(move |what| {
        let has_crash_kernel = what == Panicked::WithCrashKernel;
        let told = VmEvent::GuestPanicked { has_crash_kernel };
        on_panic.events.note(told);
        if !has_crash_kernel {
            on_panic.send(Message::Job(Box::new(diagnosis::on_panic)));
        }
    }));
    let panic = Arc::new(panic);
    ports.add(PANIC_PORT.into(), panic::WINDOW_LEN, panic.clone());
    Ok(Attached {
        ports,
        mmio,
        pci: None,
        placement: Placement::new(DeviceTransport::Mmio),
        virtio: Vec::new(),
        keyboard,
        serial: port,
        events,
        panic,
        is_console_standard: config.serial_out_path.is_none(),
        end,
    })
}

/// The registers that the ACPI tables name.
fn attach_acpi(ports: &mut Bus, end: &Arc<MachineEnd>, events: &Arc<Events>) {
    let off = Arc::clone(end);
    let power = Power::new(Arc::new(move || off.power_off()), end.clone());
    ports.add(POWER_PORTS.into(), power::WINDOW_LEN, Arc::new(power));
    ports.add(EVENTS_PORT.into(), events::WINDOW_LEN, events.clone());
}

impl Attached {
    /// The worker that reads the console's input, if there is any.
    pub(crate) fn console_input(&self) -> Option<(WorkerId, Box<dyn Worker>)> {
        if !self.is_console_standard {
            return None;
        }
        let input = SerialInput::new(Arc::clone(&self.serial), console::input()?);
        Some((CONSOLE_WORKER, Box::new(input)))
    }

    /// Places of devices that are not on PCI.
    pub(crate) fn mmio_places(&self) -> impl Iterator<Item = MmioPlace> + '_ {
        self.virtio.iter().filter_map(|device| match device.place {
            Place::Mmio(place) => Some(place),
            Place::Pci(_) => None,
        })
    }

    /// A PCI bus, and the ways to it.
    fn attach_pci_bus(&mut self, sender: &Sender) {
        let pci = PciSide::new(&self.events, sender);
        let memory = Arc::new(ConfigMemory(Arc::clone(&pci.bus)));
        self.mmio.add(ECAM_START.0, ECAM_LEN, memory);
        let windows = BarWindows::new(Arc::clone(&pci.bus), BAR_PLACES.start);
        let len = BAR_PLACES.end - BAR_PLACES.start;
        self.mmio.add(BAR_PLACES.start, len, Arc::new(windows));
        let ports = Arc::new(ConfigPorts::new(Arc::clone(&pci.bus)));
        self.ports
            .add(PCI_CONFIG_PORTS.into(), CONFIG_PORTS_LEN, ports);
        let slots = Arc::clone(&pci.hotplug);
        self.ports
            .add(PCI_HOTPLUG_PORTS.into(), hotplug::WINDOW_LEN, slots);
        self.pci = Some(pci);
    }

    fn attach_virtio(
        &mut self,
        id: DeviceId,
        device: Box<dyn VirtioDevice>,
        vm: &KvmVm,
        sender: &Sender,
        place: Place,
    ) -> Result<(), AttachError> {
        let workers = Arc::new(sender.clone()) as Arc<dyn WorkerLoop>;
        let counters = device.counters();
        let transport = match place {
            Place::Mmio(place) => self.attach_mmio(device, vm, workers, place)?,
            Place::Pci(place) => {
                let pci = self.pci.as_ref().expect("devices follow their bus");
                attach_pci(pci, device, vm, workers, place)?
            }
        };
        self.virtio.push(VirtioAttachment {
            id,
            place,
            transport,
            counters,
            memory: None,
        });
        Ok(())
    }

    /// Leaves `slot` with the device that was attached last.
    fn give_memory(&mut self, slot: MemorySlot) {
        if let Some(last) = self.virtio.last_mut() {
            last.memory = Some(slot);
        }
    }

    fn attach_mmio(
        &mut self,
        device: Box<dyn VirtioDevice>,
        vm: &KvmVm,
        workers: Arc<dyn WorkerLoop>,
        place: MmioPlace,
    ) -> Result<Arc<dyn Transport>, AttachError> {
        let kick = event()?;
        vm.wire_kick(&kick, place.address.0 + mmio::QUEUE_NOTIFY)?;
        let transport = Arc::new(MmioTransport::new(
            place.worker,
            device,
            Arc::clone(vm.memory()),
            Box::new(wired_line(vm, place.gsi)?),
            kick,
            workers,
        ));
        self.mmio
            .add(place.address.0, mmio::WINDOW_LEN, transport.clone());
        Ok(transport)
    }
}

/// Puts `device` on the bus, where vCPUs may be at work.
pub(crate) fn attach_pci(
    pci: &PciSide,
    device: Box<dyn VirtioDevice>,
    vm: &KvmVm,
    workers: Arc<dyn WorkerLoop>,
    place: PciPlace,
) -> Result<Arc<dyn Transport>, AttachError> {
    let traits = device.traits();
    let vectors = pci::vectors(&traits);
    assert!(u32::from(vectors) <= MAX_VECTORS, "devices have few queues");
    let kick = event()?;
    let queues = (0..).take(traits.queue_sizes.len());
    let doorbells = vm.wire_doorbells(
        kick.try_clone().map_err(AttachError::Event)?,
        queues.map(pci::notify_offset).collect(),
        BAR_PLACES,
    );
    let lines = (place.first_gsi..)
        .take(vectors.into())
        .map(|gsi| wired_line(vm, gsi))
        .collect::<Result<_, _>>()?;
    let placement = PciPlacement {
        id: place.worker,
        bar: place.bar,
        lines: Box::new(MessageVectors {
            first_gsi: place.first_gsi,
            lines,
            routes: vm.routes(),
            metrics: vm.interrupt_metrics(),
        }),
        kick,
        doorbells: Box::new(doorbells),
    };
    let memory = Arc::clone(vm.memory());
    let transport = Arc::new(PciTransport::new(placement, device, memory, workers));
    pci.bus
        .insert(place.device, transport.clone())
        .expect("each place is handed out once");
    Ok(transport)
}

/// An interrupt line: writing it is an interrupt on `gsi`.
fn wired_line(vm: &KvmVm, gsi: u32) -> Result<WiredLine, AttachError> {
    Ok(vm.wire_interrupt(event()?, gsi)?)
}

pub(crate) fn event() -> Result<EventFd, AttachError> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(AttachError::Event)
}
