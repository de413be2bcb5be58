//! Waits for the power button as a kernel's event device does, then switches the machine off.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::interrupts::DeviceVector;
use rt::{acpi_power, apic, gates, port, println};

rt::kernel!(main);

/// The event device's interrupt.
const GSI: u32 = 23;
const POWER_BUTTON: u8 = 1 << 2;

fn main(boot: &BootInfo) {
    let register = acpi_power::event_register(boot.rsdp);
    let vector = DeviceVector::new(0);
    apic::enable();
    apic::route(GSI, vector);
    println!("ready");
    while vector.count() == 0 {
        gates::wait_for_interrupt();
    }
    let events = port::read(register);
    println!("events={events:#x}");
    rt::check!(events == POWER_BUTTON, "events {events:#x}");
    let again = port::read(register);
    rt::check!(again == 0, "read again: {again:#x}");
    println!("PASS power_button");
    acpi_power::switch_off(boot.rsdp);
    rt::fail!("the sleep register did not switch the machine off");
}
