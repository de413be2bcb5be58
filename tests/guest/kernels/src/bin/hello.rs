//! The smallest whole kernel, entered by PVH: says how it was entered.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::println;

rt::kernel!(main);

fn main(boot: &BootInfo) {
    println!("protocol={}", boot.protocol.name());
}
