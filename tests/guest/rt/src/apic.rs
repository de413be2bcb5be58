//! Local APIC and IOAPIC, by memory-mapped registers.
//!
//! Sources: Intel SDM 3A, chapter 11 (APIC); Intel 82093AA data sheet (IOAPIC).

use crate::interrupts::DeviceVector;
use crate::{physical, port};

const LOCAL_APIC: u64 = 0xfee0_0000;
const ID: u64 = 0x20;
const SPURIOUS_INTERRUPT_VECTOR: u64 = 0xf0;
const INTERRUPT_COMMAND_LOW: u64 = 0x300;
const INTERRUPT_COMMAND_HIGH: u64 = 0x310;

const APIC_SOFTWARE_ENABLE: u32 = 1 << 8;
const SPURIOUS_VECTOR: u32 = 0xff;
const DELIVERY_INIT: u32 = 5 << 8;
const DELIVERY_START_UP: u32 = 6 << 8;
const DELIVERY_STATUS_PENDING: u32 = 1 << 12;
const LEVEL_ASSERT: u32 = 1 << 14;

const IOAPIC_SELECT: u64 = 0xfec0_0000;
const IOAPIC_WINDOW: u64 = 0xfec0_0010;
const REDIRECTION_TABLE: u32 = 0x10;

const PIC_1_DATA: u16 = 0x21;
const PIC_2_DATA: u16 = 0xa1;

/// Local APIC ID of the calling processor.
pub fn id() -> u32 {
    physical::read::<u32>(LOCAL_APIC + ID) >> 24
}

/// Lets the calling processor receive interrupts through its local APIC, and none by the old PIC.
pub fn enable() {
    port::write(PIC_1_DATA, 0xff);
    port::write(PIC_2_DATA, 0xff);
    write_local(
        SPURIOUS_INTERRUPT_VECTOR,
        APIC_SOFTWARE_ENABLE | SPURIOUS_VECTOR,
    );
}

/// Has IOAPIC input `gsi` raise `vector` on the calling processor: edge, active high, fixed.
pub fn route(gsi: u32, vector: DeviceVector) {
    write_ioapic(REDIRECTION_TABLE + gsi * 2 + 1, id() << 24);
    write_ioapic(REDIRECTION_TABLE + gsi * 2, u32::from(vector.number()));
}

/// Sends `vector` to processor `apic_id`.
pub fn send(apic_id: u32, vector: DeviceVector) {
    command(apic_id, LEVEL_ASSERT | u32::from(vector.number()));
}

/// Puts processor `apic_id` into the wait-for-SIPI state.
pub fn send_init(apic_id: u32) {
    command(apic_id, DELIVERY_INIT | LEVEL_ASSERT);
}

/// Starts a waiting processor in real mode at physical page `page`, below 1 MiB.
pub fn send_start_up(apic_id: u32, page: u8) {
    command(apic_id, DELIVERY_START_UP | LEVEL_ASSERT | u32::from(page));
}

fn command(apic_id: u32, low: u32) {
    write_local(INTERRUPT_COMMAND_HIGH, apic_id << 24);
    write_local(INTERRUPT_COMMAND_LOW, low);
    while physical::read::<u32>(LOCAL_APIC + INTERRUPT_COMMAND_LOW) & DELIVERY_STATUS_PENDING != 0 {
    }
}

fn write_local(register: u64, value: u32) {
    // SAFETY: a device register.
    unsafe { physical::write(LOCAL_APIC + register, value) };
}

fn write_ioapic(register: u32, value: u32) {
    // SAFETY: a device register.
    unsafe { physical::write(IOAPIC_SELECT, register) };
    // SAFETY: a device register.
    unsafe { physical::write(IOAPIC_WINDOW, value) };
}
