//! Interrupts arrive: one sent to itself, and one for each finished disk request.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::interrupts::DeviceVector;
use rt::virtio::block::{Disk, Request, SECTOR_BYTES, VIRTIO_BLK_T_IN};
use rt::{apic, clock, gates, println};

rt::kernel!(main);

/// Requests awaited awake, then as many awaited asleep.
const REQUESTS: u64 = 8;

fn main(boot: &BootInfo) {
    let own = DeviceVector::new(0);
    let from_disk = DeviceVector::new(1);
    apic::enable();
    apic::send(apic::id(), own);
    gates::enable_interrupts();
    let arrived = clock::spin_until(clock::LONG, || own.count() > 0);
    println!("self_interrupts={}", own.count());
    rt::check!(arrived, "an interrupt to itself did not arrive");

    let mut disk = Disk::open(boot);
    disk.device.route_interrupts(from_disk);
    for request in 1..=REQUESTS {
        submit(&mut disk);
        let arrived = clock::spin_until(clock::LONG, || from_disk.count() >= request);
        rt::check!(arrived, "no interrupt for request {request}");
        finish(&mut disk);
    }
    println!("awake_interrupts={}", from_disk.count());

    gates::disable_interrupts();
    for request in REQUESTS + 1..=2 * REQUESTS {
        submit(&mut disk);
        while from_disk.count() < request {
            gates::wait_for_interrupt();
        }
        finish(&mut disk);
    }
    println!("asleep_interrupts={}", from_disk.count() - REQUESTS);
    rt::check!(
        from_disk.count() == 2 * REQUESTS,
        "more interrupts than requests"
    );
}

fn submit(disk: &mut Disk) {
    disk.queue.request_interrupt();
    disk.add(
        0,
        Request {
            kind: VIRTIO_BLK_T_IN,
            sector: 0,
            len: SECTOR_BYTES,
        },
    );
    disk.queue.kick();
}

/// The interrupt says why it came, and the request is done.
fn finish(disk: &mut Disk) {
    let reasons = disk.device.acknowledge_interrupt();
    rt::check!(reasons == 1, "interrupt with status {reasons:#x}");
    rt::check!(
        disk.queue.take_used().is_some(),
        "interrupt before the request was done"
    );
}
