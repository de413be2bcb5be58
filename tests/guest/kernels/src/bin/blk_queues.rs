//! Uses all queues of the disk at the same time, each from a processor of its own: writes, flushes, and reads what the
//! next processor wrote.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicUsize, Ordering};

use rt::acpi;
use rt::boot::BootInfo;
use rt::device_memory::DeviceMemory;
use rt::handed::Handed;
use rt::virtio::block::{
    DEVICE_ID, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use rt::virtio::{Device, Part, Queue, Rings};
use rt::{apic, clock, println, processors};

rt::kernel!(main);

/// Queues that this kernel has room for.
const MAX_QUEUES: usize = 4;
/// Requests of each.
const ROUNDS: u64 = 40;
const SECTORS: u64 = 8;
const BYTES: usize = 4096;
/// Where in a lane's memory the header and the status byte are; its data are in front.
const HEADER: usize = BYTES;
const STATUS: usize = BYTES + 16;
/// The configuration space says how many queues there are (virtio 1.2 §5.2.4).
const NUM_QUEUES: u64 = 34;

static RINGS: [Rings; MAX_QUEUES] = [const { Rings::zeroed() }; MAX_QUEUES];
static MEMORY: [DeviceMemory<{ BYTES + 32 }>; MAX_QUEUES] =
    [const { DeviceMemory::zeroed() }; MAX_QUEUES];
static LANES: [Handed<Queue>; MAX_QUEUES] = [const { Handed::nothing() }; MAX_QUEUES];
static COUNT: AtomicUsize = AtomicUsize::new(0);
static WRITTEN: AtomicUsize = AtomicUsize::new(0);
static DONE: AtomicUsize = AtomicUsize::new(0);

fn main(boot: &BootInfo) {
    let device = Device::find(boot, DEVICE_ID, 0);
    let wanted = VIRTIO_BLK_F_MQ | VIRTIO_BLK_F_FLUSH;
    let features = device.negotiate(wanted);
    rt::check!(features & wanted == wanted, "offered: {features:#x}");
    let config = [0, 1].map(|offset| device.config_byte(NUM_QUEUES + offset));
    let count = usize::from(u16::from_le_bytes(config));
    println!("queues={count}");
    rt::check!((2..=MAX_QUEUES).contains(&count), "{count} queues");
    for (index, lane) in (0..).zip(&LANES[..count]) {
        lane.put(device.set_up_queue(index, &RINGS[index as usize], features));
    }
    device.start();
    COUNT.store(count, Ordering::SeqCst);

    let all = acpi::processors(boot.rsdp);
    let Some(others) = all.apic_ids().get(1..count) else {
        rt::fail!("fewer processors than queues");
    };
    apic::enable();
    processors::start(others, run);
    run(0);
    wait_for(&DONE);
}

/// Runs on each processor.
fn run(index: usize) {
    let mut queue = LANES[index].take();
    for round in 0..ROUNDS {
        for offset in (0..BYTES).step_by(8) {
            MEMORY[index].write(offset, &word(index, round, offset));
        }
        request(&mut queue, index, VIRTIO_BLK_T_OUT, sector(index, round));
        if round % 8 == 7 {
            request(&mut queue, index, VIRTIO_BLK_T_FLUSH, 0);
        }
    }
    WRITTEN.fetch_add(1, Ordering::SeqCst);
    wait_for(&WRITTEN);
    let next = (index + 1) % COUNT.load(Ordering::SeqCst);
    for round in 0..ROUNDS {
        request(&mut queue, index, VIRTIO_BLK_T_IN, sector(next, round));
        let mut found = [0; 8];
        for offset in (0..BYTES).step_by(8) {
            MEMORY[index].read(offset, &mut found);
            let expected = word(next, round, offset);
            rt::check!(
                found == expected,
                "queue {index}: round {round} of {next}, byte {offset}: {found:02x?}"
            );
        }
    }
    DONE.fetch_add(1, Ordering::SeqCst);
}

fn wait_for(counter: &AtomicUsize) {
    let all = COUNT.load(Ordering::SeqCst);
    let is_done = clock::spin_until(clock::LONG, || counter.load(Ordering::SeqCst) == all);
    rt::check!(is_done, "not all processors came so far");
}

/// Sends one request and waits for it.
fn request(queue: &mut Queue, index: usize, kind: u32, sector: u64) {
    let memory = &MEMORY[index];
    memory.write(HEADER, &kind.to_le_bytes());
    memory.write(HEADER + 4, &[0; 4]);
    memory.write(HEADER + 8, &sector.to_le_bytes());
    memory.write(STATUS, &[0xff]);
    let data = Part {
        address: memory.address(0),
        len: 4096,
        is_device_writable: kind == VIRTIO_BLK_T_IN,
    };
    let header = Part::readable(memory.address(HEADER), 16);
    let status = Part::writable(memory.address(STATUS), 1);
    if kind == VIRTIO_BLK_T_FLUSH {
        queue.add(&[header, status]);
    } else {
        queue.add(&[header, data, status]);
    }
    queue.kick();
    queue.wait_used();
    let status = memory.byte(STATUS);
    rt::check!(
        status == VIRTIO_BLK_S_OK,
        "queue {index}: request {kind} at {sector} ended with {status}"
    );
}

fn sector(index: usize, round: u64) -> u64 {
    (index as u64 * ROUNDS + round) * SECTORS
}

fn word(index: usize, round: u64, offset: usize) -> [u8; 8] {
    ((index as u64 + 1) << 48 | round << 32 | offset as u64).to_le_bytes()
}
