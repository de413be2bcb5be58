//! Reads persistent memory, writes over its beginning, and flushes it.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::checksum::Fnv1a64;
use rt::device_memory::DeviceMemory;
use rt::interrupts::DeviceVector;
use rt::virtio::{Device, Part, Queue, Rings};
use rt::{paging, physical, println, serial};

rt::kernel!(main);

/// Device ID (virtio 1.2 §5).
const DEVICE_ID: u32 = 27;
const VIRTIO_PMEM_REQ_TYPE_FLUSH: u32 = 0;
/// What the answer holds before the device writes it.
const UNTOUCHED: u32 = 0x5555_5555;
/// Bytes that are written.
const WRITTEN: u64 = 8192;

static RINGS: Rings = Rings::zeroed();
static REQUEST: DeviceMemory<8> = DeviceMemory::zeroed();

fn main(boot: &BootInfo) {
    let device = Device::find(boot, DEVICE_ID, 0);
    let features = device.negotiate(0);
    let mut queue = device.set_up_queue(0, &RINGS, features);
    device.start();
    let (start, size) = (device.config_u64(0), device.config_u64(8));
    println!("start={start:#x}");
    println!("size={size}");
    rt::check!(
        start.is_multiple_of(2 << 20) && size.is_multiple_of(2 << 20),
        "not whole 2 MiB pages"
    );
    rt::check!(
        boot.ram()
            .all(|ram| ram.end <= start || start + size <= ram.start),
        "it overlaps RAM"
    );
    paging::map_memory(start..start + size);
    if boot.command_line().has("wait") {
        let mut input = serial::Input::enable(DeviceVector::new(0));
        println!("ready");
        input.read();
    }

    let mut sum = Fnv1a64::new();
    let words = (start..start + size).step_by(8);
    sum.update(words.flat_map(|at| physical::read::<u64>(at).to_le_bytes()));
    println!("fnv1a64={:016x}", sum.value());

    let mut is_written = true;
    for at in (start..start + WRITTEN).step_by(8) {
        // SAFETY: no RAM, and mapped by nobody but this function.
        unsafe { physical::write(at, !at) };
        is_written &= physical::read::<u64>(at) == !at;
    }
    println!("written={}", if is_written { "yes" } else { "no" });
    let flushed = ask(&mut queue, VIRTIO_PMEM_REQ_TYPE_FLUSH);
    println!("flush={flushed:#x}");
    let again = ask(&mut queue, VIRTIO_PMEM_REQ_TYPE_FLUSH);
    println!("again={again:#x}");
    let unknown = ask(&mut queue, 1);
    println!("unknown={unknown:#x}");
    rt::check!(!device.needs_reset(), "the device gave up");
}

/// Makes a request and gives the answer.
fn ask(queue: &mut Queue, kind: u32) -> u32 {
    REQUEST.write(0, &kind.to_le_bytes());
    REQUEST.write(4, &UNTOUCHED.to_le_bytes());
    queue.add(&[
        Part::readable(REQUEST.address(0), 4),
        Part::writable(REQUEST.address(4), 4),
    ]);
    queue.kick();
    let used = queue.wait_used();
    rt::check!(used.len == 4, "{} bytes of answer", used.len);
    let mut answer = [0; 4];
    REQUEST.read(4, &mut answer);
    u32::from_le_bytes(answer)
}
