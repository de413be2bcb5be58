//! Resets through the ACPI reset register, and by nothing else.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::{acpi_power, println};

rt::kernel!(main);

fn main(boot: &BootInfo) {
    // The monitor's exit decides; this line says that the kernel got here.
    println!("PASS power_reset");
    acpi_power::reset(boot.rsdp);
    rt::fail!("the reset register did not reset the machine");
}
