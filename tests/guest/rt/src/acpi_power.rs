//! Off, reset and events, by the registers that the ACPI tables name.
//!
//! The byte code of the DSDT is not interpreted: names are looked for, and what must follow them is checked.
//!
//! Source: ACPI 6.5, 4.8.3.6 (reset), 4.8.3.7 (sleep), 5.2.3.2 (generic addresses), 5.2.9 (FADT), 20.2 (byte code).

use crate::{acpi, clock, physical, port};

const FADT_FLAGS: u64 = 112;
const FADT_RESET_REG: u64 = 116;
const FADT_RESET_VALUE: u64 = 128;
const FADT_SLEEP_CONTROL_REG: u64 = 244;
const FADT_SLEEP_STATUS_REG: u64 = 256;

const RESET_REG_SUP: u32 = 1 << 10;
const HW_REDUCED_ACPI: u32 = 1 << 20;

const SYSTEM_IO: u8 = 1;
const SLEEP_ENABLE: u8 = 1 << 5;
const WAKE_STATUS: u8 = 1 << 7;

/// 200 ms or more on any processor below 5 GHz.
const PATIENCE_CYCLES: u64 = 1_000_000_000;

/// Switches the machine off as a kernel does; returns only if nothing has happened for a while.
pub fn switch_off(rsdp: u64) {
    let fadt = acpi::find_table(rsdp, *b"FACP");
    let flags: u32 = physical::read(fadt + FADT_FLAGS);
    crate::check!(
        flags & HW_REDUCED_ACPI != 0,
        "the sleep registers are those of a hardware-reduced machine"
    );
    let control = register(fadt + FADT_SLEEP_CONTROL_REG);
    let status = register(fadt + FADT_SLEEP_STATUS_REG);
    let sleep_type = off_type(rsdp);
    port::write(status, WAKE_STATUS);
    // A write without the enable bit must do nothing.
    port::write(control, sleep_type << 2);
    port::write(control, sleep_type << 2 | SLEEP_ENABLE);
    clock::spin_until(PATIENCE_CYCLES, || port::read(status) & WAKE_STATUS != 0);
}

/// Resets the machine; returns only if nothing has happened for a while.
pub fn reset(rsdp: u64) {
    let fadt = acpi::find_table(rsdp, *b"FACP");
    let flags: u32 = physical::read(fadt + FADT_FLAGS);
    crate::check!(flags & RESET_REG_SUP != 0, "there is no reset register");
    let value = physical::read::<u8>(fadt + FADT_RESET_VALUE);
    port::write(register(fadt + FADT_RESET_REG), value);
    clock::spin_until(PATIENCE_CYCLES, || false);
}

/// The port of region `EVTR`, where events wait to be read.
pub fn event_register(rsdp: u64) -> u16 {
    // OperationRegion (EVTR, SystemIO, word, ...).
    let at = acpi::find_in_dsdt(rsdp, b"\x5b\x80EVTR\x01\x0b");
    physical::read(at + 8)
}

/// `SLP_TYPx` of S5: the first of the package `\_S5`, a byte.
fn off_type(rsdp: u64) -> u8 {
    let at = acpi::find_in_dsdt(rsdp, b"\x08_S5_\x12\x07\x04\x0a");
    physical::read(at + 9)
}

/// The port that a generic address names.
fn register(at: u64) -> u16 {
    let [space, bits] = [0, 1].map(|offset| physical::read::<u8>(at + offset));
    crate::check!(
        space == SYSTEM_IO && bits == 8,
        "no byte of port space: space {space}, {bits} bits"
    );
    let address = physical::read::<u32>(at + 4);
    match u16::try_from(address) {
        Ok(port) if port != 0 => port,
        _ => crate::fail!("{address:#x} is no port"),
    }
}
