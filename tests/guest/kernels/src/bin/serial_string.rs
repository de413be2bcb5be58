//! String instructions on ports: prints `lines=` lines with `rep outsb`, and reads a register with `rep insb`.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::{port, println};

rt::kernel!(main);

const COM1: u16 = 0x3f8;
const SCRATCH: u16 = COM1 + 7;
const MARK: u8 = 0x5a;
/// Longer than a buffer of KVM's would be if it were short.
const LINE: &[u8; 63] = b"the quick brown fox jumps over the lazy dog, 0123456789 times.\n";

fn main(boot: &BootInfo) {
    let lines = boot.command_line().number("lines").unwrap_or(1);
    println!("begin");
    for _ in 0..lines {
        port::write_string(COM1, LINE);
    }
    println!("end");

    port::write(SCRATCH, MARK);
    let mut read = [0; 40];
    port::read_string(SCRATCH, &mut read);
    rt::check!(read == [MARK; 40], "rep insb read {read:02x?}");
}
