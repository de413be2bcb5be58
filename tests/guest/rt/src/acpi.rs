//! The ACPI tables a kernel needs: the processors of the MADT, the configuration space of the MCFG, the generation
//! id of the DSDT.
//!
//! Source: ACPI 6.5, chapters 5.2.5 (RSDP) to 5.2.12 (MADT).

use crate::physical;
use crate::processors::MAX_PROCESSORS;

const HEADER_BYTES: u64 = 36;
/// Entries follow the header, the local APIC's address and the flags.
const MADT_FIRST_ENTRY: u64 = HEADER_BYTES + 8;
/// `X_DSDT` of the FADT (5.2.9).
const FADT_X_DSDT: u64 = 140;
const PROCESSOR_LOCAL_APIC: u8 = 0;
const ENABLED: u32 = 1;

/// Local APIC IDs of the enabled processors, in the MADT's order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Processors {
    apic_ids: [u32; MAX_PROCESSORS],
    count: usize,
}

impl Processors {
    /// The IDs; the boot processor's is among them.
    pub fn apic_ids(&self) -> &[u32] {
        &self.apic_ids[..self.count]
    }

    /// IDs 0 to `count` - 1, for a machine that describes none.
    pub fn numbered(count: usize) -> Self {
        let mut processors = Self::default();
        for (id, _) in (0..).zip(0..count) {
            processors.add(id);
        }
        processors
    }

    fn add(&mut self, apic_id: u32) {
        crate::check!(
            self.count < MAX_PROCESSORS,
            "more than {MAX_PROCESSORS} processors"
        );
        self.apic_ids[self.count] = apic_id;
        self.count += 1;
    }
}

/// Finds the MADT from the root pointer and lists its processors. Fails the test if a table is
/// missing or its checksum is wrong.
pub fn processors(rsdp: u64) -> Processors {
    let madt = find_table(rsdp, *b"APIC");
    let end = madt + table_len(madt);
    let mut processors = Processors::default();
    let mut entry = madt + MADT_FIRST_ENTRY;
    while entry < end {
        let kind: u8 = physical::read(entry);
        let len: u8 = physical::read(entry + 1);
        crate::check!(len >= 2, "MADT entry of {len} bytes");
        let flags: u32 = physical::read(entry + 4);
        if kind == PROCESSOR_LOCAL_APIC && flags & ENABLED != 0 {
            processors.add(u32::from(physical::read::<u8>(entry + 3)));
        }
        entry += u64::from(len);
    }
    processors
}

/// Where the configuration space of PCI bus 0 is (PCI Firmware 3.3, 4.1.2). Fails the test if there is no
/// MCFG, or its first entry does not begin at bus 0.
pub fn configuration_space(rsdp: u64) -> u64 {
    let mcfg = find_table(rsdp, *b"MCFG");
    let entry = mcfg + HEADER_BYTES + 8;
    crate::check!(entry + 16 <= mcfg + table_len(mcfg), "the MCFG is empty");
    let segment: u16 = physical::read(entry + 8);
    let first_bus: u8 = physical::read(entry + 10);
    crate::check!(
        segment == 0 && first_bus == 0,
        "the MCFG begins with segment {segment}, bus {first_bus}"
    );
    physical::read(entry)
}

/// Where the generation id lies, as device `VGEN` of the DSDT says. Fails the test if there is none.
///
/// The byte code is not interpreted: the name `ADDR` is looked for, and behind it a package of a double word
/// and zero (ACPI 6.5, 20.2.5.4).
pub fn generation_id(rsdp: u64) -> u64 {
    let name = find_in_dsdt(rsdp, b"ADDR");
    let package = [4, 6, 7].map(|offset| physical::read::<u8>(name + offset));
    crate::check!(
        package == [0x12, 2, 0x0c],
        "ADDR is no package of a double word: {package:02x?}"
    );
    physical::read::<u32>(name + 8).into()
}

/// Where the VM clock's page lies: the lowest address of the first resource of device `VCLK`, a QWord address space
/// (ACPI 6.5, 6.4.3.5.1).
pub fn vm_clock(rsdp: u64) -> u64 {
    let resource = find_in_dsdt(rsdp, b"AMZNC10C");
    let template = (resource..).find(|at| physical::read::<u8>(*at) == 0x8a);
    let at = template.unwrap_or(resource);
    let kind: u8 = physical::read(at + 3);
    crate::check!(kind == 0, "the clock's resource is no memory: {kind}");
    let [low, high] = [14, 22].map(|offset| physical::read::<u64>(at + offset));
    crate::check!(
        high.wrapping_sub(low) == 4095,
        "the clock is at {low:#x}..={high:#x}"
    );
    low
}

/// The port of the panic notice: the first resource of device `PEVT`, a port (ACPI 6.5, 6.4.2.5).
pub fn panic_register(rsdp: u64) -> u16 {
    let resource = find_in_dsdt(rsdp, b"QEMU0001");
    let descriptor = (resource..).find(|at| physical::read::<u8>(*at) == 0x47);
    physical::read(descriptor.unwrap_or(resource) + 2)
}

/// Where `bytes` are in the DSDT. Fails the test if they are not.
pub(crate) fn find_in_dsdt(rsdp: u64, bytes: &[u8]) -> u64 {
    let fadt = find_table(rsdp, *b"FACP");
    let dsdt: u64 = physical::read(fadt + FADT_X_DSDT);
    check_sum(dsdt, table_len(dsdt), "DSDT");
    let last = (dsdt + table_len(dsdt)).saturating_sub(bytes.len() as u64);
    let is_here = |at: &u64| {
        (*at..)
            .zip(bytes)
            .all(|(at, b)| physical::read::<u8>(at) == *b)
    };
    match (dsdt..=last).find(is_here) {
        Some(at) => at,
        None => crate::fail!("the DSDT has no {bytes:02x?}"),
    }
}

pub(crate) fn find_table(rsdp: u64, signature: [u8; 4]) -> u64 {
    let magic: u64 = physical::read(rsdp);
    crate::check!(magic.to_le_bytes() == *b"RSD PTR ", "no RSDP at {rsdp:#x}");
    let revision: u8 = physical::read(rsdp + 15);
    crate::check!(
        revision >= 2,
        "the RSDP has revision {revision}, so no XSDT"
    );
    check_sum(rsdp, 20, "RSDP");
    check_sum(rsdp, 36, "extended RSDP");

    let xsdt: u64 = physical::read(rsdp + 24);
    check_sum(xsdt, table_len(xsdt), "XSDT");
    let mut pointer = xsdt + HEADER_BYTES;
    while pointer < xsdt + table_len(xsdt) {
        let table: u64 = physical::read(pointer);
        if physical::read::<u32>(table).to_le_bytes() == signature {
            check_sum(table, table_len(table), "table");
            return table;
        }
        pointer += 8;
    }
    crate::fail!("the XSDT lists no {signature:?}")
}

fn table_len(table: u64) -> u64 {
    u64::from(physical::read::<u32>(table + 4))
}

fn check_sum(start: u64, len: u64, name: &str) {
    let sum = (start..start + len).fold(0u8, |sum, at| sum.wrapping_add(physical::read(at)));
    crate::check!(
        sum == 0,
        "checksum of the {name} at {start:#x} is off by {sum:#x}"
    );
}
