//! Prints where the initial RAM disk lies and its checksum.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::checksum::Fnv1a64;
use rt::{physical, println};

rt::kernel!(main);

fn main(boot: &BootInfo) {
    let Some(initrd) = boot.initrd else {
        rt::fail!("there is no initrd");
    };
    let mut sum = Fnv1a64::new();
    sum.update((initrd.address..initrd.address + initrd.len).map(physical::read::<u8>));
    println!("initrd_address={:#x}", initrd.address);
    println!("initrd_size={}", initrd.len);
    println!("initrd_fnv1a64={:016x}", sum.value());
}
