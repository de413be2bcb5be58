//! Fails to boot in the way that `fail=` names, after the line that `say=` gives, with `_` for a space.

#![no_std]
#![no_main]

use core::hint::spin_loop;

use rt::boot::BootInfo;
use rt::interrupts::DeviceVector;
use rt::virtio::Device;
use rt::virtio::block::Disk;
use rt::{acpi, gates, port, print, println, serial, verdict};

rt::kernel!(main);

const VIRTIO_ID_BLOCK: u32 = 2;
const KEYBOARD_STATUS: u16 = 0x64;
/// Of the pvpanic device.
const PANICKED: u8 = 1 << 0;

fn main(boot: &BootInfo) {
    let line = boot.command_line();
    match line.value("fail") {
        Some("acknowledge") => {
            Device::find(boot, VIRTIO_ID_BLOCK, 0).acknowledge();
        }
        Some("use_disk") => use_disk(boot),
        Some("panic") => port::write(acpi::panic_register(boot.rsdp), PANICKED),
        _ => {}
    }
    if let Some(text) = line.value("say") {
        for word in text.split('_') {
            print!("{word} ");
        }
        println!("");
    }
    match line.value("fail") {
        Some("fault") => gates::triple_fault(),
        Some("nowhere") => gates::run_nothing(),
        Some("unmapped") => gates::run_unmapped(),
        Some("spin") => spin(),
        Some("poll") => poll(),
        Some("reset") => verdict::reset(),
        Some("use_disk") => sleep(),
        _ => gates::halt(),
    }
}

fn use_disk(boot: &BootInfo) {
    let _disk = Disk::open(boot);
}

#[inline(never)]
fn spin() -> ! {
    loop {
        spin_loop();
    }
}

fn poll() -> ! {
    loop {
        port::read(KEYBOARD_STATUS);
    }
}

fn sleep() -> ! {
    let mut input = serial::Input::enable(DeviceVector::new(0));
    loop {
        input.read();
    }
}
