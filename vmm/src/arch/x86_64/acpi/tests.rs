//! The tables as a kernel walks them.

use super::*;

fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
}

fn devices(count: u32) -> Vec<MmioDevice> {
    let device = |index: u32| MmioDevice {
        start: GuestAddress(0xc000_1000 + u64::from(index) * 0x1000),
        len: 0x1000,
        gsi: 5 + index,
    };
    (0..count).map(device).collect()
}

fn read(memory: &GuestMemory, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// A table by address, its checksum checked.
fn table(memory: &GuestMemory, at: u64) -> Vec<u8> {
    let len = word(&read(memory, at, 8), 4);
    let bytes = read(memory, at, usize::try_from(len).unwrap());
    assert_eq!(sum(&bytes), 0, "checksum of {}", bytes[..4].escape_ascii());
    bytes
}

/// Everything the XSDT names, and the DSDT last.
fn tables(machine: &Machine<'_>) -> Vec<Vec<u8>> {
    let memory = memory();
    let rsdp = write_tables(&memory, &mut SystemArea::default(), machine).unwrap();
    assert_eq!(rsdp.0, 0xe_0000);
    let rsdp = read(&memory, rsdp.0, 36);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));
    let xsdt = table(&memory, long(&rsdp, 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    let mut all: Vec<_> = xsdt[36..]
        .chunks_exact(8)
        .map(|entry| table(&memory, long(entry, 0)))
        .collect();
    all.push(table(&memory, long(&all[0], 140)));
    all
}

fn machine(vcpu_count: u8, mmio_devices: &[MmioDevice]) -> Machine<'_> {
    Machine {
        vcpu_count,
        mmio_devices,
        generation_id: GuestAddress(0xa_0000),
        vm_clock: GuestAddress(0xd_e000),
        has_pci: false,
    }
}

#[test]
fn every_table_is_found_and_adds_up() {
    let signatures = |has_pci| {
        let devices = devices(18);
        let machine = Machine {
            has_pci,
            ..machine(32, &devices)
        };
        let tables = tables(&machine);
        let names = tables
            .iter()
            .map(|t| String::from_utf8_lossy(&t[..4]).into_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(signatures(false), ["FACP", "APIC", "DSDT"]);
    assert_eq!(signatures(true), ["FACP", "APIC", "MCFG", "DSDT"]);
}

#[test]
fn the_machine_is_hardware_reduced() {
    let fadt = &tables(&machine(1, &[]))[0];
    assert_eq!(fadt.len(), 276);
    assert_eq!((fadt[8], fadt[131]), (6, 5));
    assert_eq!(word(fadt, 112), 1 << 20 | 1 << 10 | 1 << 5 | 1 << 4);
    assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 0b10_0110);
    assert_eq!(&fadt[268..], b"CLOISTER");
}

#[test]
fn the_madt_lists_each_vcpu_and_no_8259() {
    let madt = &tables(&machine(3, &[]))[1];
    assert_eq!((word(madt, 36), word(madt, 40)), (0xfee0_0000, 0));
    assert_eq!(madt[44..56], [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    assert_eq!(madt[56 + 16..], [0, 8, 2, 2, 1, 0, 0, 0]);
}

#[test]
fn virtio_devices_carry_their_window_and_an_edge_interrupt() {
    let dsdt = tables(&machine(1, &devices(2))).pop().unwrap();
    let find = |needle: &[u8]| dsdt.windows(needle.len()).position(|w| w == needle);
    assert!(find(b"V000\x08_HID\x0dLNRO0005\0").is_some());
    assert!(find(b"V001").is_some());
    // Memory32Fixed (§6.4.3.4), then Extended Interrupt (§6.4.3.6): consumer, edge, one number.
    let window = [0x86, 9, 0, 1, 0, 0x20, 0, 0xc0, 0, 0x10, 0, 0];
    let interrupt = [0x89, 6, 0, 0b0011, 1, 6, 0, 0, 0];
    let resources = [&window[..], &interrupt[..]].concat();
    assert!(find(&resources).is_some());
}

#[test]
fn legacy_interrupts_are_those_of_isa() {
    let dsdt = tables(&machine(1, &[])).pop().unwrap();
    for gsi in [1, 4] {
        let interrupt = [0x89, 6, 0, 0b0011, 1, gsi, 0, 0, 0];
        assert!(dsdt.windows(9).any(|w| w == interrupt));
    }
}

#[test]
fn the_host_bridge_has_windows_slots_and_keeps_addresses() {
    let machine = Machine {
        has_pci: true,
        ..machine(1, &[])
    };
    let dsdt = tables(&machine).pop().unwrap();
    let has = |needle: &[u8]| dsdt.windows(needle.len()).any(|w| w == needle);
    assert!(has(b"PC00\x08_HID\x0c\x41\xd0\x0a\x08"));
    assert!(has(b"S000") && has(b"S031") && !has(b"S032"));
    // Memory from 0xc0001000 to 0xeebfffff, and from 256 to 512 GiB (§6.4.3.5).
    assert!(has(&[0, 0x10, 0, 0xc0, 0xff, 0xff, 0xbf, 0xee]));
    let window = [
        [0, 0, 0, 0, 0x40, 0, 0, 0],
        [0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0],
    ];
    assert!(has(&window.concat()));
    // 8 ports from 0xcf8 on (§6.4.2.5).
    assert!(has(&[0x47, 1, 0xf8, 0x0c, 0xf8, 0x0c, 1, 8]));
    // The identifier of `_DSM`, its first field little-endian (ACPI 6.5 §19.6.142).
    assert!(has(&[0xd0, 0x37, 0xc9, 0xe5, 0x53, 0x35, 0x7a, 0x4d]));
    let without = tables(&self::machine(1, &[])).pop().unwrap();
    assert!(!without.windows(4).any(|w| w == b"PC00"));
}

#[test]
fn the_generation_id_has_an_address_and_an_event() {
    let dsdt = tables(&machine(1, &[])).pop().unwrap();
    let find = |needle: &[u8]| dsdt.windows(needle.len()).any(|w| w == needle);
    assert!(find(
        b"VGEN\x08_HID\x0dVMGENCTR\0\x08_CID\x0dVM_Gen_Counter\0"
    ));
    // DefPackage (§20.2.5.4) of two elements: a double word, and zero.
    assert!(find(b"\x08ADDR\x12\x08\x02\x0c\x00\x00\x0a\x00\x00"));
    // The interrupt of the event device, and a method that for this one takes the register.
    assert!(find(&[0x89, 6, 0, 0b0011, 1, 23, 0, 0, 0]));
    assert!(find(b"\x93\x68\x0a\x17\x70EVTS\x60"));
    // If (And (Local0, bit)) { Notify (VGEN, 0x80) } (§20.2.5.3).
    assert!(find(b"\xa0\x0c\x7b\x60\x01\x00\x86VGEN\x0a\x80"));
}

#[test]
fn the_guest_can_switch_off_and_reset_the_machine() {
    let tables = tables(&machine(1, &[]));
    let (fadt, dsdt) = (&tables[0], &tables[tables.len() - 1]);
    // Generic addresses (§5.2.3.2): a byte of port space. Sleep control, sleep status, reset (§5.2.9).
    for (offset, port) in [(244, 0x600), (256, 0x601), (116, 0x602)] {
        assert_eq!(fadt[offset..offset + 4], [1, 8, 0, 1]);
        assert_eq!(long(fadt, offset + 4), port);
    }
    assert_eq!(fadt[128], 1, "reset value");
    // `\_S5` after the scope: a package of four numbers, the first of them 5.
    assert!(dsdt.ends_with(b"\x08_S5_\x12\x07\x04\x0a\x05\x00\x00\x00"));
}

#[test]
fn the_power_button_is_a_device_with_an_event() {
    let dsdt = tables(&machine(1, &[])).pop().unwrap();
    let find = |needle: &[u8]| dsdt.windows(needle.len()).any(|w| w == needle);
    assert!(find(b"PWRB\x08_HID\x0c\x41\xd0\x0c\x0c"));
    assert!(find(b"\xa0\x0d\x7b\x60\x0a\x04\x00\x86PWRB\x0a\x80"));
    // OperationRegion (EVTR, SystemIO, 0x603, 1), Field (EVTR, ByteAcc, NoLock, Preserve) { EVTS, 8 }.
    assert!(find(b"\x5b\x80EVTR\x01\x0b\x03\x06\x01"));
    assert!(find(b"\x5b\x81\x0bEVTR\x01EVTS\x08"));
}

#[test]
fn the_vm_clock_has_a_page_and_an_event() {
    let dsdt = tables(&machine(1, &[])).pop().unwrap();
    let find = |needle: &[u8]| dsdt.windows(needle.len()).any(|w| w == needle);
    assert!(find(b"VCLK\x08_HID\x0dAMZNC10C\0\x08_CID\x0dVMCLOCK\0"));
    // QWord Address Space (§6.4.3.5.1): memory, fixed at both ends, read-only and cacheable; from 0xde000 to 0xdefff.
    let page = [
        &[0x8a, 43, 0, 0, 0b1100, 0b10][..],
        &0_u64.to_le_bytes(),
        &0xd_e000_u64.to_le_bytes(),
        &0xd_efff_u64.to_le_bytes(),
        &0_u64.to_le_bytes(),
        &0x1000_u64.to_le_bytes(),
    ];
    assert!(find(&page.concat()));
    assert!(find(b"\xa0\x0d\x7b\x60\x0a\x02\x00\x86VCLK\x0a\x80"));
}

#[test]
fn the_panic_notice_is_a_port() {
    let dsdt = tables(&machine(1, &[])).pop().unwrap();
    let find = |needle: &[u8]| dsdt.windows(needle.len()).any(|w| w == needle);
    assert!(find(b"PEVT\x08_HID\x0dQEMU0001\0"));
    // One port, 0x604 (§6.4.2.5).
    assert!(find(&[0x47, 1, 0x04, 0x06, 0x04, 0x06, 1, 1]));
}

#[test]
fn slots_but_the_first_can_be_let_go_and_the_event_device_tells_of_them() {
    let with_pci = Machine {
        has_pci: true,
        ..machine(1, &[])
    };
    let dsdt = tables(&with_pci).pop().unwrap();
    let find = |needle: &[u8]| dsdt.windows(needle.len()).any(|w| w == needle);
    // OperationRegion (PSLR, SystemIO, 0x500, 16), Field (PSLR, DWordAcc, NoLock, Preserve) { ... } of four words.
    assert!(find(
        b"\x5b\x80PSLR\x01\x0b\x00\x05\x0a\x10\x5b\x81\x1aPSLR\x03PSIN\x20PSAS\x20PSCD\x20PSRE\x20"
    ));
    // Device (S003) { _ADR, _SUN, Method (_EJ0, 1, Serialized) { Store (8, PSRE) } }.
    assert!(find(
        b"S003\x08_ADR\x0c\x00\x00\x03\x00\x08_SUN\x0a\x03\x14\x0d_EJ0\x09\x70\x0a\x08PSRE"
    ));
    let ejects = dsdt.windows(4).filter(|w| w == b"_EJ0").count();
    assert_eq!(ejects, 31);
    // If (And (Local0, 8)) { Notify (S003, 1) }, and 3 for the other register.
    for notification in [b"\x01", b"\x0a\x03" as &[u8]] {
        let notify = [b"\x7b\x60\x0a\x08\x00\x86S003", notification].concat();
        assert!(find(&notify), "{notification:?}");
    }
    // If (PSCD) { Notify (\_SB.PC00, 0) }.
    assert!(find(b"PSCD\x86\\\x2e_SB_PC00\x00"));
    assert!(find(b"\x7b\x60\x0a\x08\x00\\\x2f\x03_SB_PC00PSCH"));
    let without = tables(&machine(1, &[])).pop().unwrap();
    assert!(!without.windows(4).any(|w| w == b"PSCH"));
}
