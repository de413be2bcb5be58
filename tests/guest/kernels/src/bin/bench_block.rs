//! Keeps `depth=` reads in flight, `count=` in all, and says how many kicks and interrupts they took.
//!
//! Each read is of `len=` bytes, at random places or, with the word `sequential`, one behind the other. Its data
//! lies in pages that are not neighbours, as in a page cache, as many of them to a request as the device allows.

#![no_std]
#![no_main]

use rt::apic;
use rt::bench::{self, Random, Waiter, wait_for_start};
use rt::boot::BootInfo;
use rt::device_memory::DeviceMemory;
use rt::interrupts::DeviceVector;
use rt::println;
use rt::virtio::block::{DEVICE_ID, SECTOR_BYTES, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_T_IN};
use rt::virtio::{Device, Part, Queue, Rings, VIRTIO_F_EVENT_IDX};

rt::kernel!(main);

const PAGE: usize = 4096;
const PAGE_LEN: u32 = 4096;
/// Pages of data in flight at once; every other page of the memory is left out.
const PAGES: usize = 224;
/// Requests in flight at once.
const SLOTS: usize = 32;
const CONTROL_BYTES: usize = 32;
const HEADER_BYTES: u32 = 16;
const STATUS_OFFSET: usize = 16;
/// `seg_max` in the configuration space (virtio 1.2 §5.2.4).
const SEG_MAX: u64 = 12;

static RINGS: Rings = Rings::zeroed();
static CONTROL: DeviceMemory<{ SLOTS * CONTROL_BYTES }> = DeviceMemory::zeroed();
static DATA: DeviceMemory<{ 2 * PAGES * PAGE }> = DeviceMemory::zeroed();

struct Bench {
    queue: Queue,
    /// Bytes of a request, and requests that the disk has room for.
    len: usize,
    places: u64,
    is_sequential: bool,
    next_place: u64,
    random: Random,
    slots: [usize; Rings::MAX_SIZE as usize],
}

fn main(boot: &BootInfo) {
    let line = boot.command_line();
    let count = line.number("count").unwrap_or(1000);
    let device = Device::find(boot, DEVICE_ID, 0);
    let features = device.negotiate(VIRTIO_BLK_F_SEG_MAX | VIRTIO_F_EVENT_IDX);
    // Without the field a request has one segment of data, as Linux takes it.
    let segments = match features & VIRTIO_BLK_F_SEG_MAX {
        0 => 1,
        _ => device.config_u32(SEG_MAX) as usize,
    };
    let wanted = line.number("len").map_or(PAGE, bench::to_usize);
    let len = wanted.min(segments * PAGE).min(PAGES * PAGE);
    let depth = line.number("depth").map_or(SLOTS, bench::to_usize);
    let depth = depth.min(SLOTS).min(PAGES / (len / PAGE));
    let vector = DeviceVector::new(0);
    apic::enable();
    let queue = device.set_up_queue(0, &RINGS, features);
    device.route_interrupts(vector);
    device.start();
    let capacity = device.config_u64(0);
    let mut bench = Bench {
        queue,
        len,
        places: capacity * SECTOR_BYTES as u64 / len as u64,
        is_sequential: line.has("sequential"),
        next_place: 0,
        random: Random::new(),
        slots: [0; Rings::MAX_SIZE as usize],
    };
    let waiter = Waiter::new(boot, device, vector);
    wait_for_start();
    let requests = count.div_ceil((len / PAGE) as u64);
    bench.run(&waiter, requests, depth);
    println!(
        "done units={} requests={requests} kicks={} interrupts={}",
        requests * (len / PAGE) as u64,
        bench.queue.kicks(),
        waiter.interrupts()
    );
    bench::idle();
}

impl Bench {
    fn run(&mut self, waiter: &Waiter, requests: u64, depth: usize) {
        let mut begun = 0;
        for slot in 0..depth {
            self.begin(slot);
            begun += 1;
        }
        self.queue.kick();
        let mut done = 0;
        while done < requests {
            let mut freed = 0;
            while let Some(used) = self.queue.take_used() {
                let slot = self.slots[usize::from(used.head)];
                let status = CONTROL.byte(slot * CONTROL_BYTES + STATUS_OFFSET);
                rt::check!(
                    status == 0 && used.len as usize == self.len + 1,
                    "a read ended with status {status} and {} bytes",
                    used.len
                );
                done += 1;
                if begun < requests {
                    self.begin(slot);
                    begun += 1;
                    freed += 1;
                }
            }
            if freed > 0 {
                self.queue.kick();
            } else if done < requests {
                waiter.wait([&mut self.queue]);
            }
        }
    }

    /// Adds a read in `slot`.
    fn begin(&mut self, slot: usize) {
        let place = if self.is_sequential {
            let place = self.next_place;
            self.next_place = (place + 1) % self.places;
            place
        } else {
            self.random.below(self.places)
        };
        let sector = place * (self.len / SECTOR_BYTES) as u64;
        let control = slot * CONTROL_BYTES;
        CONTROL.write(control, &VIRTIO_BLK_T_IN.to_le_bytes());
        CONTROL.write(control + 8, &sector.to_le_bytes());
        CONTROL.write(control + STATUS_OFFSET, &[0xff]);
        let pages = self.len / PAGE;
        let mut parts = [Part::readable(CONTROL.address(control), HEADER_BYTES); PAGES + 2];
        for (page, part) in parts[1..=pages].iter_mut().enumerate() {
            let at = 2 * (slot * pages + page) * PAGE;
            *part = Part::writable(DATA.address(at), PAGE_LEN);
        }
        parts[pages + 1] = Part::writable(CONTROL.address(control + STATUS_OFFSET), 1);
        let head = self.queue.add(&parts[..pages + 2]);
        self.slots[usize::from(head)] = slot;
    }
}
