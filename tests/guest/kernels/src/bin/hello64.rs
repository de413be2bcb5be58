//! The smallest whole kernel, without the PVH note, so entered by the 64-bit Linux protocol: says how it was entered.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::println;

rt::kernel!(linux64 main);

fn main(boot: &BootInfo) {
    println!("protocol={}", boot.protocol.name());
}
