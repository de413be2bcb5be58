//! Prints `chains=` chains of numbered lines on the virtio console, and on the serial port what it printed.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::checksum::Fnv1a64;
use rt::println;
use rt::virtio::console::Console;

rt::kernel!(main);

/// Chains of several lengths, in pieces of several lengths.
const SHAPES: [(usize, usize); 4] = [(1, 1), (100, 7), (4096, 4096), (30_000, 1000)];

fn main(boot: &BootInfo) {
    let chains = boot.command_line().number("chains").unwrap_or(40);
    let mut console = Console::open(boot);
    println!("ready");
    let mut bytes = [0; 30_000];
    let (mut total, mut sum, mut word) = (0, Fnv1a64::new(), 1_u64);
    for (_, (len, piece)) in (0..chains).zip(SHAPES.iter().cycle()) {
        let chain = &mut bytes[..*len];
        for byte in &mut *chain {
            // A linear congruence (Knuth's MMIX): no stretch of it repeats.
            word = word
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = word.to_le_bytes()[7];
        }
        console.print(chain, *piece);
        sum.update(chain.iter().copied());
        total += len;
    }
    println!("printed={total}");
    println!("console_fnv1a64={:016x}", sum.value());
}
