//! The PCI host bridge: where its bus, its configuration and its windows are.
//!
//! Spec: PCI Firmware 3.3 §4.1 (`_CRS` of a host bridge) and §4.6.5 (`_DSM` function 5); ACPI 6.5 §6.2.13
//! (`_PRT`).

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, BufferData, Device, EISAName, Equal, IO, If, Method,
    Name, Package, Path, ResourceTemplate, Return, Uuid, ZERO,
};
use devices::pci::bus::DEVICES;

use super::super::layout::{
    MMIO_DEVICES_END, MMIO_DEVICES_START, MMIO64_END, MMIO64_START, PCI_CONFIG_PORTS,
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
    let crs = resources();
    let mut children: Vec<&dyn Aml> = vec![&hid, &cid, &adr, &seg, &bbn, &uid, &prt, &crs, &method];
    children.extend(slots.iter().map(|slot| slot as &dyn Aml));
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

/// `S000` to `S031`: a device number each, function 0.
fn slot(device: u8) -> Encoded {
    let address = u32::from(device) << 16;
    let name = Path::new(&format!("S{device:03}"));
    let adr = Name::new(Path::new("_ADR"), &address);
    let sun = Name::new(Path::new("_SUN"), &device);
    Encoded(bytes_of(&Device::new(name, vec![&adr, &sun])))
}
