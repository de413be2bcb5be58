//! Counts on every processor until a debugger says that it is enough, and prints where all of that is.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use rt::acpi;
use rt::boot::BootInfo;
use rt::{apic, println, processors};

rt::kernel!(main);

static COUNT: AtomicU64 = AtomicU64::new(0);
static OTHER_COUNT: AtomicU64 = AtomicU64::new(0);
static ENOUGH: AtomicU64 = AtomicU64::new(0);

fn main(boot: &BootInfo) {
    let all = acpi::processors(boot.rsdp);
    apic::enable();
    if let Some((_, others)) = all.apic_ids().split_first() {
        processors::start(others, count_too);
    }
    let place = |value: &AtomicU64| core::ptr::from_ref(value) as usize;
    println!("tick={:#x}", tick as fn(u64) -> u64 as usize);
    println!("count={:#x}", place(&COUNT));
    println!("other_count={:#x}", place(&OTHER_COUNT));
    println!("enough={:#x}", place(&ENOUGH));
    println!("counting");
    let mut last = 0;
    while ENOUGH.load(Ordering::SeqCst) == 0 {
        last = tick(last);
    }
    println!("last={last}");
}

/// One more.
#[inline(never)]
fn tick(before: u64) -> u64 {
    COUNT.store(before + 1, Ordering::SeqCst);
    before + 1
}

/// Runs on each other processor.
fn count_too(_index: usize) {
    while ENOUGH.load(Ordering::SeqCst) == 0 {
        OTHER_COUNT.fetch_add(1, Ordering::SeqCst);
    }
}
