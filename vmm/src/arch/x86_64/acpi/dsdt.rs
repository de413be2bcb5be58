//! DSDT: the devices a kernel cannot find by itself.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, Device, EISAName, Equal, Field, FieldAccessType,
    FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Local, Memory32Fixed, Method,
    MethodCall, Name, Notify, ONE, OpRegion, OpRegionSpace, Package, Path, ResourceTemplate, Scope,
    Store, ZERO,
};
use acpi_tables::sdt::Sdt;
use devices::acpi::clock::PAGE_LEN;
use devices::acpi::power::SLEEP_TYPE_OFF;
use devices::acpi::{Event, panic};

use super::super::layout::{
    COM1_PORT, EVENTS_PORT, GSI_COM1, GSI_DEVICE_FIRST, GSI_EVENTS, GSI_KEYBOARD,
    I8042_COMMAND_PORT, I8042_DATA_PORT, PANIC_PORT,
};
use super::pci::{PCI_SLOTS_CHANGED, host_bridge};
use super::{Machine, MmioDevice, OEM_ID, OEM_REVISION, bytes_of};

/// Bytes of a table header (§5.2.6).
const HEADER_LEN: u32 = 36;
/// DSDT revision: 64-bit integers (§5.2.11.1).
const DSDT_REVISION: u8 = 2;

/// The generation id's device.
const GENERATION: &str = "VGEN";
/// The VM clock's.
const CLOCK: &str = "VCLK";
/// The power button's.
const POWER_BUTTON: &str = "PWRB";

/// The whole table.
pub(super) fn dsdt(machine: &Machine<'_>) -> Vec<u8> {
    let mut nodes: Vec<_> = machine.mmio_devices.iter().map(virtio).collect();
    let generation = generation(machine.generation_id.0);
    let clock = clock(machine.vm_clock.0);
    nodes.extend([com1(), ps2(), generation, clock]);
    nodes.extend([power_button(), panic_notice()]);
    if machine.has_pci {
        nodes.push(host_bridge());
    }
    nodes.push(events(machine.has_pci));
    let children = nodes.iter().map(|node| node as &dyn Aml).collect();
    let aml = bytes_of(&Scope::new(Path::new("_SB_"), children));
    let mut table = Sdt::new(
        *b"DSDT",
        HEADER_LEN,
        DSDT_REVISION,
        OEM_ID,
        *b"CLSTDSDT",
        OEM_REVISION,
    );
    table.append_slice(&aml);
    table.append_slice(&off());
    table.as_slice().to_vec()
}

/// AML that is ready to be put into a scope.
pub(super) struct Encoded(pub(super) Vec<u8>);

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// An exclusive, edge-triggered, active-high interrupt.
fn edge_interrupt(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

/// virtio-mmio, by the id that Linux and other guests look for (`drivers/virtio/virtio_mmio.c`).
fn virtio(device: &MmioDevice) -> Encoded {
    let uid = device.gsi.saturating_sub(GSI_DEVICE_FIRST);
    let word = |value: u64| u32::try_from(value).expect("virtio-mmio windows lie below 4 GiB");
    let registers = Memory32Fixed::new(true, word(device.start.0), word(device.len));
    let interrupt = edge_interrupt(device.gsi);
    Encoded(bytes_of(&Device::new(
        Path::new(&format!("V{uid:03}")),
        vec![
            &Name::new(Path::new("_HID"), &"LNRO0005"),
            &Name::new(Path::new("_UID"), &uid),
            &Name::new(Path::new("_CCA"), &ONE),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![&registers, &interrupt]),
            ),
        ],
    )))
}

fn com1() -> Encoded {
    let ports = IO::new(COM1_PORT, COM1_PORT, 0, 8);
    let interrupt = edge_interrupt(GSI_COM1);
    Encoded(bytes_of(&Device::new(
        Path::new("COM1"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &0_u8),
            &Name::new(Path::new("_DDN"), &"COM1"),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![&interrupt, &ports]),
            ),
        ],
    )))
}

fn ps2() -> Encoded {
    let data = IO::new(I8042_DATA_PORT, I8042_DATA_PORT, 1, 1);
    let command = IO::new(I8042_COMMAND_PORT, I8042_COMMAND_PORT, 1, 1);
    let interrupt = edge_interrupt(GSI_KEYBOARD);
    Encoded(bytes_of(&Device::new(
        Path::new("PS2_"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0303")),
            &Name::new(Path::new("_UID"), &0_u8),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![&data, &command, &interrupt]),
            ),
        ],
    )))
}

/// The generation id, by the ids that guests look for (Linux `drivers/virt/vmgenid.c`).
fn generation(address: u64) -> Encoded {
    let (low, high) = (address & u64::from(u32::MAX), address >> 32);
    Encoded(bytes_of(&Device::new(
        Path::new(GENERATION),
        vec![
            &Name::new(Path::new("_HID"), &"VMGENCTR"),
            &Name::new(Path::new("_CID"), &"VM_Gen_Counter"),
            &Name::new(Path::new("_DDN"), &"VM_Gen_Counter"),
            &Name::new(Path::new("ADDR"), &Package::new(vec![&low, &high])),
        ],
    )))
}

/// The VM clock, by the ids that guests look for (Linux `drivers/ptp/ptp_vmclock.c`).
fn clock(address: u64) -> Encoded {
    let end = address + u64::from(PAGE_LEN) - 1;
    let cached = AddressSpaceCacheable::Cacheable;
    let page = AddressSpace::new_memory(cached, false, address, end, None);
    Encoded(bytes_of(&Device::new(
        Path::new(CLOCK),
        vec![
            &Name::new(Path::new("_HID"), &"AMZNC10C"),
            &Name::new(Path::new("_CID"), &"VMCLOCK"),
            &Name::new(Path::new("_DDN"), &"VMCLOCK"),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&page])),
        ],
    )))
}

/// pvpanic, by the id that guests look for (Linux `drivers/misc/pvpanic/pvpanic-mmio.c`).
fn panic_notice() -> Encoded {
    let len = u8::try_from(panic::WINDOW_LEN).expect("it is one port");
    let port = IO::new(PANIC_PORT, PANIC_PORT, 1, len);
    Encoded(bytes_of(&Device::new(
        Path::new("PEVT"),
        vec![
            &Name::new(Path::new("_HID"), &"QEMU0001"),
            &Name::new(Path::new("_UID"), &0_u8),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&port])),
        ],
    )))
}

/// A power button (§4.8.3.1.2).
fn power_button() -> Encoded {
    let hid = Name::new(Path::new("_HID"), &EISAName::new("PNP0C0C"));
    Encoded(bytes_of(&Device::new(Path::new(POWER_BUTTON), vec![&hid])))
}

/// `\_S5`: what to write to switch the machine off (§7.4.2).
fn off() -> Vec<u8> {
    let values = Package::new(vec![&SLEEP_TYPE_OFF, &ZERO, &ZERO, &ZERO]);
    bytes_of(&Name::new(Path::new("_S5_"), &values))
}

/// The generic event device (§5.6.9): its interrupts are events of other devices.
fn events(has_pci: bool) -> Encoded {
    let interrupt = edge_interrupt(GSI_EVENTS);
    let port = OpRegion::new(
        Path::new("EVTR"),
        OpRegionSpace::SystemIO,
        &EVENTS_PORT,
        &ONE,
    );
    let register = Field::new(
        Path::new("EVTR"),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        vec![FieldEntry::Named(*b"EVTS", 8)],
    );
    let mut dispatch = vec![
        notify_on(Event::Generation, GENERATION),
        notify_on(Event::Clock, CLOCK),
        notify_on(Event::PowerButton, POWER_BUTTON),
    ];
    if has_pci {
        let look = MethodCall::new(Path::new(PCI_SLOTS_CHANGED), Vec::new());
        dispatch.push(do_on(Event::PciSlots, &look));
    }
    let register_name = Path::new("EVTS");
    let take = Store::new(&Local(0), &register_name);
    let mut steps: Vec<&dyn Aml> = vec![&take];
    steps.extend(dispatch.iter().map(|step| step as &dyn Aml));
    let is_register = Equal::new(&Arg(0), &GSI_EVENTS);
    let dispatch = If::new(&is_register, steps);
    Encoded(bytes_of(&Device::new(
        Path::new("GED_"),
        vec![
            &Name::new(Path::new("_HID"), &"ACPI0013"),
            &Name::new(Path::new("_UID"), &0_u8),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&interrupt])),
            &port,
            &register,
            &Method::new(Path::new("_EVT"), 1, true, vec![&dispatch]),
        ],
    )))
}

/// Notifies `device` with 0x80 when the events in `Local0` have `event`.
fn notify_on(event: Event, device: &str) -> Encoded {
    let device = Path::new(device);
    do_on(event, &Notify::new(&device, &0x80_u8))
}

/// Does `step` when the events in `Local0` have `event`.
fn do_on(event: Event, step: &dyn Aml) -> Encoded {
    let bit = event as u8;
    let has_happened = And::new(&ZERO, &Local(0), &bit);
    Encoded(bytes_of(&If::new(&has_happened, vec![step])))
}
