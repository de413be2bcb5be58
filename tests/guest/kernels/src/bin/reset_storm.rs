//! Resets a disk and starts it again and again, while another processor reads its registers, until a byte comes in.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rt::boot::BootInfo;
use rt::virtio::block::{Disk, Request, SECTOR_BYTES, VIRTIO_BLK_T_IN};
use rt::virtio::mmio::registers;
use rt::{acpi, clock, physical, println, processors, serial};

rt::kernel!(main);

static WINDOW: AtomicU64 = AtomicU64::new(0);
static READS: AtomicU64 = AtomicU64::new(0);
static IS_OVER: AtomicBool = AtomicBool::new(false);

fn main(boot: &BootInfo) {
    let Some(announced) = boot.command_line().devices().next() else {
        rt::fail!("the command line announces no device");
    };
    WINDOW.store(announced.address, Ordering::Relaxed);
    let mut disk = Disk::open(boot);
    let all = acpi::processors(boot.rsdp);
    processors::start(all.apic_ids().get(1..).unwrap_or_default(), read_registers);
    println!("storming");

    let mut resets = 0_u64;
    while !serial::has_input() {
        disk.restart();
        disk.run_well(&[Request {
            kind: VIRTIO_BLK_T_IN,
            sector: 0,
            len: SECTOR_BYTES,
        }]);
        resets += 1;
    }
    let has_read = clock::spin_until(clock::LONG, || READS.load(Ordering::Relaxed) > 0);
    IS_OVER.store(true, Ordering::Relaxed);
    rt::check!(has_read, "the other processor read nothing");
    println!("resets={resets}");
}

fn read_registers(_index: usize) {
    let window = WINDOW.load(Ordering::Relaxed);
    while !IS_OVER.load(Ordering::Relaxed) {
        for register in [
            registers::STATUS,
            registers::CONFIG,
            registers::INTERRUPT_STATUS,
        ] {
            let _: u32 = physical::read(window + register);
        }
        READS.fetch_add(1, Ordering::Relaxed);
    }
}
