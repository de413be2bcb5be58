//! Draws random bytes in requests of several sizes, and looks whether all of them were filled.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::checksum::Fnv1a64;
use rt::println;
use rt::virtio::rng::{self, Rng};

rt::kernel!(main);

/// What the device gives to one request at most.
const MOST: usize = 64 * 1024;

fn main(boot: &BootInfo) {
    let mut device = Rng::open(boot);
    let mut total = 0;
    for (len, piece) in [
        (1, 1),
        (64, 7),
        (4096, 4096),
        (MOST, 4096),
        (2 * MOST, MOST),
    ] {
        rng::clear();
        let drawn = device.draw(len, piece);
        rt::check!(
            drawn == len.min(MOST),
            "{drawn} bytes came of {len} in pieces of {piece}"
        );
        rt::check!(
            rng::data(rng::MAX_BYTES).skip(drawn).all(|byte| byte == 0),
            "something was written behind {drawn} bytes"
        );
        // One of 256 bytes is zero; a page with 64 of them is one that was not filled.
        let zeros = rng::data(drawn).filter(|&byte| byte == 0).count();
        rt::check!(
            zeros <= 16 + drawn / 64,
            "{zeros} of {drawn} bytes are zero"
        );
        total += drawn;
    }
    let mut sum = Fnv1a64::new();
    sum.update(rng::data(MOST));
    println!("random_bytes={total}");
    println!("random_fnv1a64={:016x}", sum.value());
}
