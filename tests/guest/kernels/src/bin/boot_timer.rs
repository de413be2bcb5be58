//! Speaks to the boot timer's page, first without meaning; once a byte came in it says twice that it has booted.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::interrupts::DeviceVector;
use rt::{physical, println, serial};

rt::kernel!(main);

const PAGE: u64 = 0xc000_0000;
const PAGE_LEN: u64 = 0x1000;
const BOOTED: u8 = 123;

fn main(_boot: &BootInfo) {
    let mut input = serial::Input::enable(DeviceVector::new(0));
    for offset in (0..PAGE_LEN).step_by(8) {
        let read: u64 = physical::read(PAGE + offset);
        rt::check!(read == 0, "{read:#x} at {offset:#x}");
    }
    for byte in (0..=u8::MAX).filter(|byte| *byte != BOOTED) {
        say(0, byte);
    }
    for offset in 1..PAGE_LEN {
        say(offset, BOOTED);
    }
    say(0, u16::from(BOOTED));
    say(0, u32::from(BOOTED));
    say(0, u64::from(BOOTED));
    println!("quiet");
    input.read();
    say(0, BOOTED);
    println!("told");
    for _ in 0..100 {
        say(0, BOOTED);
    }
    let read: u8 = physical::read(PAGE);
    rt::check!(read == 0, "{read:#x} after it was told");
}

fn say<T: physical::Plain>(offset: u64, value: T) {
    // SAFETY: the boot timer's page, or nothing; this kernel lies in the first gigabyte.
    unsafe { physical::write(PAGE + offset, value) };
}
