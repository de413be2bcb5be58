//! Starts every processor of the MADT, or as many as `cpus=` says, and prints what each says it is.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};

use rt::acpi::{self, Processors};
use rt::boot::BootInfo;
use rt::processors::MAX_PROCESSORS;
use rt::{apic, clock, gates, println, processors};

rt::kernel!(main);

/// What each processor found: local APIC ID, leaf 1 ebx, leaf 0xb.0 eax ebx edx, leaf 0xb.1 eax ebx.
static FOUND: [[AtomicU32; 7]; MAX_PROCESSORS] =
    [const { [const { AtomicU32::new(0) }; 7] }; MAX_PROCESSORS];
static RUNNING: AtomicU32 = AtomicU32::new(0);

fn main(boot: &BootInfo) {
    let all = match boot.command_line().number("cpus") {
        Some(count) => Processors::numbered(usize::try_from(count).unwrap_or(usize::MAX)),
        None => acpi::processors(boot.rsdp),
    };
    let Some((&boot_id, others)) = all.apic_ids().split_first() else {
        rt::fail!("the MADT lists no processor");
    };
    rt::check!(
        boot_id == apic::id(),
        "the MADT does not list the boot processor first"
    );

    apic::enable();
    look(0);
    processors::start(others, look);
    let expected = all.apic_ids().len();
    let all_ran = clock::spin_until(clock::LONG, || running() == expected);
    rt::check!(all_ran, "only {} of {expected} processors ran", running());

    for (index, (found, &apic_id)) in FOUND.iter().zip(all.apic_ids()).enumerate() {
        print(index, apic_id, found);
    }
    println!("cpus={}", running());
}

fn running() -> usize {
    RUNNING.load(Ordering::SeqCst) as usize
}

/// Runs on each processor.
fn look(index: usize) {
    let leaf_1 = gates::cpuid(1, 0);
    let smt = gates::cpuid(0xb, 0);
    let core = gates::cpuid(0xb, 1);
    let found = [
        apic::id(),
        leaf_1.ebx,
        smt.eax,
        smt.ebx,
        smt.edx,
        core.eax,
        core.ebx,
    ];
    for (slot, value) in FOUND[index].iter().zip(found) {
        slot.store(value, Ordering::Relaxed);
    }
    RUNNING.fetch_add(1, Ordering::SeqCst);
}

fn print(index: usize, apic_id: u32, found: &[AtomicU32; 7]) {
    let [
        local,
        ebx_1,
        smt_shift,
        smt_count,
        x2apic_id,
        core_shift,
        core_count,
    ] = found.each_ref().map(|value| value.load(Ordering::Relaxed));
    println!(
        "cpu index={index} apic_id={local} leaf1_apic_id={} leaf1_logical={} leafb_x2apic_id={x2apic_id} \
         leafb_smt={}/{} leafb_core={}/{}",
        ebx_1 >> 24,
        ebx_1 >> 16 & 0xff,
        smt_shift & 0x1f,
        smt_count & 0xffff,
        core_shift & 0x1f,
        core_count & 0xffff,
    );
    rt::check!(
        local == apic_id,
        "processor {index} has local APIC ID {local}, not {apic_id}"
    );
    rt::check!(
        ebx_1 >> 24 == apic_id,
        "leaf 1 of processor {index} has another APIC ID"
    );
    rt::check!(
        x2apic_id == apic_id,
        "leaf 0xb of processor {index} has another APIC ID"
    );
}
