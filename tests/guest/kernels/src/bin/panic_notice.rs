//! Tells the host of a panic `times=` times, as the pvpanic driver does, then idles until a byte comes in.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::interrupts::DeviceVector;
use rt::{acpi, port, println, serial};

rt::kernel!(main);

const PANICKED: u8 = 1 << 0;
const CRASH_LOADED: u8 = 1 << 1;

fn main(boot: &BootInfo) {
    let times = boot.command_line().number("times").unwrap_or(1);
    let register = acpi::panic_register(boot.rsdp);
    let offered = port::read(register);
    rt::check!(offered == PANICKED | CRASH_LOADED, "offers {offered:#x}");
    let mut input = serial::Input::enable(DeviceVector::new(0));
    println!("ready");
    input.read();
    for _ in 0..times {
        port::write(register, PANICKED);
    }
    println!("told");
    input.read();
}
