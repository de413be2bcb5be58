//! Prints without end, or `kib=` KiB.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::serial;

rt::kernel!(main);

const LINE: &[u8; 64] = b"a guest that prints and prints, whether anybody listens or not\r\n";

fn main(boot: &BootInfo) {
    let kib = boot.command_line().number("kib").unwrap_or(u64::MAX >> 10);
    for _ in 0..(kib << 10) / LINE.len() as u64 {
        serial::write_bytes(LINE);
    }
}
