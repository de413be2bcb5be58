//! Lets go of devices that it was not asked for, writes garbage where slots are told of, and lets go of a disk with
//! requests on their way. The disk in slot 1 must not notice.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::hotplug::{self, Slots};
use rt::interrupts::DeviceVector;
use rt::pci::{self, Function, header};
use rt::virtio::block::{Disk, Request, SECTOR_BYTES, SLOT_BYTES, SLOTS, VIRTIO_BLK_T_IN};
use rt::{gates, physical, port, println};

rt::kernel!(main);

const VICTIM: u8 = 2;

fn main(boot: &BootInfo) {
    let slots = Slots::listen(boot, DeviceVector::new(0));
    let count = pci::functions(boot).count();
    rt::check!(count == 3, "{count} functions");
    garbage(&slots);
    expect_all(boot, "garbage");
    Disk::at(hotplug::function(boot, VICTIM));
    println!("ready");

    while !is_asked(&slots) {
        gates::wait_for_interrupt();
    }
    slots.release(!(1 << VICTIM));
    expect_all(boot, "letting go of all others");

    let victim = hotplug::function(boot, VICTIM);
    let window = victim.window();
    let mut disk = Disk::at(victim);
    for slot in 0..SLOTS {
        let len = SLOT_BYTES;
        let kind = VIRTIO_BLK_T_IN;
        disk.add(
            slot,
            Request {
                kind,
                sector: 0,
                len,
            },
        );
    }
    disk.queue.kick();
    slots.release(1 << VICTIM);
    disk.queue.kick();
    slots.release(u32::MAX);
    let is_gone = rt::clock::spin_until(rt::clock::LONG, || victim.id() == u32::MAX);
    rt::check!(is_gone, "the device stays");
    poke(victim, window);
    let count = pci::functions(boot).count();
    rt::check!(count == 2, "{count} functions are left");
    read(boot);
    println!("gone");
}

fn is_asked(slots: &Slots) -> bool {
    slots
        .take()
        .is_some_and(|changes| changes.asked == 1 << VICTIM)
}

/// Every register in every width, and all slots at once.
fn garbage(slots: &Slots) {
    for offset in 0..hotplug::WINDOW_BYTES {
        let register = slots.registers + offset;
        for pattern in [0x00, 0x01, 0xaa, 0xff] {
            port::write(register, pattern);
            let _ = port::read(register);
            port::write_u32(register, u32::from_ne_bytes([pattern; 4]));
            let _ = port::read_u32(register);
        }
        port::write_string(register, &[0xff; 8]);
    }
    slots.release(1);
    slots.release(u32::MAX);
}

/// The device is not there any more, wherever one looks.
fn poke(victim: Function, window: u64) {
    victim.write(header::COMMAND, u16::MAX);
    for offset in [0, 0x14, 0x2000, 0x6000, 0x8000] {
        // SAFETY: the window of a device that is gone.
        unsafe { physical::write(window + offset, u32::MAX) };
        let found: u32 = physical::read(window + offset);
        rt::check!(found == u32::MAX, "its window reads as {found:#x}");
    }
}

fn expect_all(boot: &BootInfo, after: &str) {
    let count = pci::functions(boot).count();
    rt::check!(count == 3, "after {after} there are {count} functions");
    read(boot);
}

fn read(boot: &BootInfo) {
    let outcome = Disk::at(hotplug::function(boot, 1)).run_one(VIRTIO_BLK_T_IN, 0, SECTOR_BYTES);
    rt::check!(outcome.status == 0, "a read ended with {outcome:?}");
}
