//! Prints what every processor answers to CPUID `leaf=` and `subleaf=`, and what it has in the register `msr=`.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rt::acpi;
use rt::boot::BootInfo;
use rt::processors::MAX_PROCESSORS;
use rt::{apic, clock, gates, println, processors};

rt::kernel!(main);

static LEAF: AtomicU32 = AtomicU32::new(0);
static SUBLEAF: AtomicU32 = AtomicU32::new(0);
static MSR: AtomicU32 = AtomicU32::new(0);
static RUNNING: AtomicU32 = AtomicU32::new(0);

/// What each processor found: eax, ebx, ecx, edx, and the register.
static FOUND: [[AtomicU64; 5]; MAX_PROCESSORS] =
    [const { [const { AtomicU64::new(0) }; 5] }; MAX_PROCESSORS];

fn main(boot: &BootInfo) {
    for (key, place) in [("leaf", &LEAF), ("subleaf", &SUBLEAF), ("msr", &MSR)] {
        let number = boot.command_line().number(key).unwrap_or(0);
        let Ok(number) = u32::try_from(number) else {
            rt::fail!("{key}= is more than 32 bits");
        };
        place.store(number, Ordering::Relaxed);
    }
    let all = acpi::processors(boot.rsdp);
    let Some((_, others)) = all.apic_ids().split_first() else {
        rt::fail!("the MADT lists no processor");
    };
    apic::enable();
    look(0);
    processors::start(others, look);
    let expected = all.apic_ids().len();
    let running = || RUNNING.load(Ordering::SeqCst) as usize;
    let all_ran = clock::spin_until(clock::LONG, || running() == expected);
    rt::check!(all_ran, "only {} of {expected} processors ran", running());
    for (index, found) in FOUND.iter().enumerate().take(expected) {
        let [eax, ebx, ecx, edx, msr] = found.each_ref().map(|value| value.load(Ordering::Relaxed));
        println!("cpu{index}={eax:#x} {ebx:#x} {ecx:#x} {edx:#x} {msr:#x}");
    }
}

/// Runs on each processor.
fn look(index: usize) {
    let leaf = gates::cpuid(
        LEAF.load(Ordering::Relaxed),
        SUBLEAF.load(Ordering::Relaxed),
    );
    let msr = match MSR.load(Ordering::Relaxed) {
        0 => 0,
        number => gates::read_msr(number),
    };
    let registers = [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx].map(u64::from);
    let [eax, ebx, ecx, edx] = registers;
    for (slot, value) in FOUND[index].iter().zip([eax, ebx, ecx, edx, msr]) {
        slot.store(value, Ordering::Relaxed);
    }
    RUNNING.fetch_add(1, Ordering::SeqCst);
}
