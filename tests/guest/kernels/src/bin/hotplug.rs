//! Notices by itself that disks and network interfaces come on PCI, reads the disks, and lets go of those it is asked for. Ends
//! with a byte on the serial port.
//!
//! `stubborn`: keeps what it is asked for. `move`: puts each window at the first place, where no device's is.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::checksum::Fnv1a64;
use rt::hotplug::{self, Changes, Slots};
use rt::interrupts::DeviceVector;
use rt::pci::Function;
use rt::serial::{self, Input};
use rt::virtio::Device;
use rt::virtio::block::{self, Disk, VIRTIO_BLK_T_IN};
use rt::{gates, println};

rt::kernel!(main);

/// virtio-block on PCI (virtio 1.2 §4.1.2).
const DISK_ID: u32 = 0x1042_1af4;
/// Bytes of a window; the number of the slot says which of these is its own.
const WINDOW_BYTES: u64 = 512 << 10;

fn main(boot: &BootInfo) {
    let slots = Slots::listen(boot, DeviceVector::new(0));
    let _input = Input::enable(DeviceVector::new(1));
    println!("ready");
    let mut heard = 0;
    while !serial::has_input() {
        // Only what interrupts is looked at, so that a lost interrupt shows.
        if slots.interrupts() > heard {
            heard = slots.interrupts();
            if let Some(changes) = slots.take() {
                follow(boot, &slots, changes);
            }
        }
        gates::wait_for_interrupt();
    }
}

fn follow(boot: &BootInfo, slots: &Slots, changes: Changes) {
    let Changes {
        inserted,
        asked,
        changed,
    } = changes;
    println!("inserted={inserted:#x} asked={asked:#x} changed={changed:#x}");
    for slot in hotplug::slots(inserted) {
        use_device(boot, hotplug::function(boot, slot));
    }
    if boot.command_line().has("stubborn") {
        return;
    }
    for slot in hotplug::slots(asked) {
        Device::at(hotplug::function(boot, slot)).reset();
        slots.release(1 << slot);
        println!("released={slot}");
    }
}

/// Reads a disk; keeps any device claimed.
fn use_device(boot: &BootInfo, function: Function) {
    let slot = function.device;
    if boot.command_line().has("move") {
        let first = function.window() - u64::from(slot) * WINDOW_BYTES;
        function.move_window(first);
    }
    let device = Device::at(function);
    if function.id() == DISK_ID {
        let sum = checksum(Disk::at(function));
        device.claim();
        println!("disk in slot {slot}: {sum:016x}");
    } else {
        device.claim();
        let [a, b, c, d, e, f] = [0, 1, 2, 3, 4, 5].map(|at| device.config_byte(at));
        println!("interface in slot {slot}: {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    }
}

fn checksum(mut disk: Disk) -> u64 {
    let mut sum = Fnv1a64::new();
    for (requests, count) in disk.sweep(VIRTIO_BLK_T_IN) {
        disk.run_well(&requests[..count]);
        for (slot, request) in requests[..count].iter().enumerate() {
            sum.update(block::data(slot, request.len));
        }
    }
    sum.value()
}
