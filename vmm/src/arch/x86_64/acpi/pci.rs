//! The PCI host bridge: where its bus, its configuration and its windows are; and its slots, whose devices come and go.
//!
//! ```text
//! _EVT -> PC00.PSCH   reads the registers of devices::pci::hotplug
//!           Notify (Sxxx, 1)   a device came         Notify (Sxxx, 3)   let it go
//!           Notify (PC00, 0)   look at all of them
//! guest -> PC00.Sxxx._EJ0   writes them: it let go
//! ```
//!
//! Spec: PCI Firmware 3.3 §4.1 (`_CRS` of a host bridge) and §4.6.5 (`_DSM` function 5); ACPI 6.5 §6.2.13
//! (`_PRT`), §5.6.6 (notifications), §6.3.3 (`_EJ0`). Linux takes slots with `_ADR` and `_EJ0` below a root bridge for
//! such as can change (`drivers/pci/hotplug/acpiphp_glue.c`).

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, BufferData, Device, EISAName, Equal, Field,
    FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Local, Method, Name,
    Notify, OpRegion, OpRegionSpace, Package, Path, ResourceTemplate, Return, Store, Uuid, ZERO,
};
use devices::pci::bus::DEVICES;
use devices::pci::hotplug;

use super::super::layout::{
    MMIO_DEVICES_END, MMIO_DEVICES_START, MMIO64_END, MMIO64_START, PCI_CONFIG_PORTS,
    PCI_HOTPLUG_PORTS,
};
use super::bytes_of;
use super::dsdt::Encoded;

/// Device-specific methods of PCI (PCI Firmware 3.3 §4.6).
const DSM_PCI: &str = "e5c937d0-3553-4d7a-9117-ea4d19c3434d";
/// Function 5: whether the guest may ignore the resources assigned at boot.
const DSM_IGNORE_BOOT_CONFIGURATION: u8 = 5;
/// Functions 0, which tells, and 5.
const DSM_FUNCTIONS: u8 = 1 | 1 << DSM_IGNORE_BOOT_CONFIGURATION;

/// Ports of the configuration mechanism.
const CONFIG_PORTS_LEN: u8 = 8;

/// The method that tells which slots changed.
pub(super) const PCI_SLOTS_CHANGED: &str = "\\_SB_.PC00.PSCH";

/// Notifications (ACPI 6.5 §5.6.6).
const BUS_CHECK: u8 = 0;
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;

// The registers are named in the order they lie in.
const _: () = assert!(
    hotplug::INSERTED == 0
        && hotplug::ASKED == 4
        && hotplug::CHANGED == 8
        && hotplug::RELEASE == 12
);
const INSERTED: [u8; 4] = *b"PSIN";
const ASKED: [u8; 4] = *b"PSAS";
const CHANGED: [u8; 4] = *b"PSCD";
const RELEASE: [u8; 4] = *b"PSRE";

/// `PC00`: a PCI Express root bridge that older systems may take for a PCI one.
pub(super) fn host_bridge() -> Encoded {
    let slots: Vec<_> = (0..DEVICES).map(slot).collect();
    let method = keep_boot_configuration();
    let hid = Name::new(Path::new("_HID"), &EISAName::new("PNP0A08"));
    let cid = Name::new(Path::new("_CID"), &EISAName::new("PNP0A03"));
    let adr = Name::new(Path::new("_ADR"), &ZERO);
    let seg = Name::new(Path::new("_SEG"), &ZERO);
    let bbn = Name::new(Path::new("_BBN"), &ZERO);
    let uid = Name::new(Path::new("_UID"), &ZERO);
    // No function has an interrupt pin.
    let no_pins = Package::new(Vec::new());
    let prt = Name::new(Path::new("_PRT"), &no_pins);
    let (crs, registers, changed) = (resources(), registers(), slots_changed());
    let mut children: Vec<&dyn Aml> = vec![&hid, &cid, &adr, &seg, &bbn, &uid, &prt, &crs, &method];
    children.push(&registers);
    children.extend(slots.iter().map(|slot| slot as &dyn Aml));
    children.push(&changed);
    Encoded(bytes_of(&Device::new(Path::new("PC00"), children)))
}

/// One bus, the ports of its configuration, and the windows for base addresses.
fn resources() -> Encoded {
    let bus = AddressSpace::new_bus_number(0_u16, 0);
    let ports = IO::new(PCI_CONFIG_PORTS, PCI_CONFIG_PORTS, 1, CONFIG_PORTS_LEN);
    let uncached = AddressSpaceCacheable::NotCacheable;
    let low = |address: u64| u32::try_from(address).expect("inside the 32-bit gap");
    let window_32 = AddressSpace::new_memory(
        uncached,
        true,
        low(MMIO_DEVICES_START.0),
        low(MMIO_DEVICES_END.0 - 1),
        None,
    );
    let window_64 = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        MMIO64_START.0,
        MMIO64_END.0 - 1,
        None,
    );
    let template = ResourceTemplate::new(vec![&bus, &ports, &window_32, &window_64]);
    Encoded(bytes_of(&Name::new(Path::new("_CRS"), &template)))
}

/// `_DSM`: function 5 answers 0, so that a guest keeps the addresses it finds.
fn keep_boot_configuration() -> Encoded {
    let uuid = Uuid::new(DSM_PCI);
    let functions = BufferData::new(vec![DSM_FUNCTIONS]);
    let none = BufferData::new(vec![0]);
    let (answer_functions, answer_zero) = (Return::new(&functions), Return::new(&ZERO));
    let (is_pci, is_query) = (Equal::new(&Arg(0), &uuid), Equal::new(&Arg(2), &ZERO));
    let is_keep = Equal::new(&Arg(2), &DSM_IGNORE_BOOT_CONFIGURATION);
    let query = If::new(&is_query, vec![&answer_functions]);
    let keep = If::new(&is_keep, vec![&answer_zero]);
    let known = If::new(&is_pci, vec![&query, &keep]);
    let answer_none = Return::new(&none);
    let method = Method::new(Path::new("_DSM"), 4, true, vec![&known, &answer_none]);
    Encoded(bytes_of(&method))
}

/// `S000` to `S031`: a device number each, function 0. The host bridge's stays; a guest lets the others go.
fn slot(device: u8) -> Encoded {
    let address = u32::from(device) << 16;
    let name = slot_name(device);
    let adr = Name::new(Path::new("_ADR"), &address);
    let sun = Name::new(Path::new("_SUN"), &device);
    let (release, bit) = (name_of(RELEASE), bit(device));
    let let_go = Store::new(&release, &bit);
    let eject = Method::new(Path::new("_EJ0"), 1, true, vec![&let_go]);
    let mut children: Vec<&dyn Aml> = vec![&adr, &sun];
    if device > 0 {
        children.push(&eject);
    }
    Encoded(bytes_of(&Device::new(name, children)))
}

/// The registers of `devices::pci::hotplug`, words of ports.
fn registers() -> Encoded {
    let len = u8::try_from(hotplug::WINDOW_LEN).expect("a few words");
    let region = OpRegion::new(
        Path::new("PSLR"),
        OpRegionSpace::SystemIO,
        &PCI_HOTPLUG_PORTS,
        &len,
    );
    let words = [INSERTED, ASKED, CHANGED, RELEASE].map(|name| FieldEntry::Named(name, 32));
    let fields = Field::new(
        Path::new("PSLR"),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        words.to_vec(),
    );
    Encoded([bytes_of(&region), bytes_of(&fields)].concat())
}

/// `PSCH`: takes what is in the registers and notifies whom it is about.
fn slots_changed() -> Encoded {
    let inserted = notify_slots(INSERTED, DEVICE_CHECK);
    let asked = notify_slots(ASKED, EJECT_REQUEST);
    let (changed, bridge) = (name_of(CHANGED), Path::new("\\_SB_.PC00"));
    let look = Notify::new(&bridge, &BUS_CHECK);
    let look = If::new(&changed, vec![&look]);
    let method = Method::new(Path::new("PSCH"), 0, true, vec![&inserted, &asked, &look]);
    Encoded(bytes_of(&method))
}

/// Takes a register into `Local0` and notifies the slots in it.
fn notify_slots(register: [u8; 4], notification: u8) -> Encoded {
    let register = name_of(register);
    let mut bytes = bytes_of(&Store::new(&Local(0), &register));
    for device in 1..DEVICES {
        let (bit, slot) = (bit(device), slot_name(device));
        let has_changed = And::new(&ZERO, &Local(0), &bit);
        let notify = Notify::new(&slot, &notification);
        bytes.extend(bytes_of(&If::new(&has_changed, vec![&notify])));
    }
    Encoded(bytes)
}

fn slot_name(device: u8) -> Path {
    Path::new(&format!("S{device:03}"))
}

fn name_of(register: [u8; 4]) -> Path {
    Path::new(std::str::from_utf8(&register).expect("names are ASCII"))
}

fn bit(device: u8) -> u32 {
    1 << device
}
