//! Sends frames of `len=` bytes, `count=` in all, or with the word `receive` takes frames until their bytes are
//! `count=` times `len=`; says how many kicks and interrupts that took.
//!
//! Frames longer than 1514 bytes are TCP segments that nobody has cut yet. Their data lies in pages, as a Linux
//! driver has it; so do the buffers for receiving, several of which a long frame fills.

#![no_std]
#![no_main]

use core::ops::Range;

use rt::apic;
use rt::bench::{self, Waiter, wait_for_start};
use rt::boot::BootInfo;
use rt::device_memory::DeviceMemory;
use rt::interrupts::DeviceVector;
use rt::println;
use rt::virtio::net::DEVICE_ID;
use rt::virtio::{Device, Part, Queue, Rings, VIRTIO_F_EVENT_IDX};

rt::kernel!(main);

// Feature bits (virtio 1.2 §5.1.3).
const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const HOST_TSO4: u64 = 1 << 11;
const MRG_RXBUF: u64 = 1 << 15;

const PAGE: usize = 4096;
const PAGE_LEN: u32 = 4096;
const HEADER_BYTES: usize = 12;
/// The longest frame that is sent whole.
const SHORT_FRAME: usize = 1514;
/// Ethernet, IPv4 and TCP headers.
const PROTOCOL_BYTES: usize = 14 + 20 + 20;
/// Where `num_buffers` is in the header (virtio 1.2 §5.1.6).
const NUM_BUFFERS: usize = 10;
const SEGMENT: u16 = 1448;
const MAX_FRAME: usize = 65_214;

static RECEIVE_RINGS: Rings = Rings::zeroed();
static TRANSMIT_RINGS: Rings = Rings::zeroed();
/// What every frame that is sent starts with, its header in front; the same memory for all.
static START: DeviceMemory<PAGE> = DeviceMemory::zeroed();
/// The rest of a long frame.
static REST: DeviceMemory<{ 17 * PAGE }> = DeviceMemory::zeroed();
static BUFFERS: DeviceMemory<{ Rings::MAX_SIZE as usize * PAGE }> = DeviceMemory::zeroed();

fn main(boot: &BootInfo) {
    let line = boot.command_line();
    let count = line.number("count").unwrap_or(1000);
    let len = line.number("len").map_or(64, bench::to_usize);
    rt::check!((60..=MAX_FRAME).contains(&len), "frames of {len} bytes");
    let device = Device::find(boot, DEVICE_ID, 0);
    let wanted = CSUM | HOST_TSO4 | GUEST_CSUM | GUEST_TSO4 | MRG_RXBUF;
    let features = device.negotiate(wanted | VIRTIO_F_EVENT_IDX);
    rt::check!(
        features & wanted == wanted,
        "the device has only {features:#x}"
    );
    let vector = DeviceVector::new(0);
    apic::enable();
    let mut receive = device.set_up_queue(0, &RECEIVE_RINGS, features);
    let mut transmit = device.set_up_queue(1, &TRANSMIT_RINGS, features);
    device.route_interrupts(vector);
    device.start();
    let waiter = Waiter::new(boot, device, vector);
    let (frames, bytes, queue) = if line.has("receive") {
        wait_for_start();
        let (frames, bytes) = take(&waiter, &mut receive, count * len as u64);
        (frames, bytes, receive)
    } else {
        write_start(len);
        wait_for_start();
        send(&waiter, &mut transmit, count, len);
        (count, count * len as u64, transmit)
    };
    println!(
        "done frames={frames} bytes={bytes} kicks={} interrupts={}",
        queue.kicks(),
        waiter.interrupts()
    );
    bench::idle();
}

/// The start of a frame to nobody: UDP if it is short, else TCP to be cut and summed up by whoever comes next.
fn write_start(len: usize) {
    let ip_len = u16::try_from(len - 14).unwrap_or(u16::MAX);
    let is_long = len > SHORT_FRAME;
    let at = HEADER_BYTES;
    if is_long {
        // NEEDS_CSUM, TCPV4, the headers' length, the segments', where the sum starts and where it goes.
        START.write(0, &[1, 1]);
        START.write(2, &54_u16.to_le_bytes());
        START.write(4, &SEGMENT.to_le_bytes());
        START.write(6, &34_u16.to_le_bytes());
        START.write(8, &16_u16.to_le_bytes());
    }
    START.write(at, &[0x02, 0, 0, 0, 0xee, 1, 0x02, 0, 0, 0, 0xee, 2, 8, 0]);
    START.write(at + 14, &[0x45, 0]);
    START.write(at + 16, &ip_len.to_be_bytes());
    let protocol = if is_long { 6 } else { 17 };
    START.write(at + 22, &[64, protocol]);
    START.write(at + 26, &[10, 0, 0, 1, 10, 0, 0, 2]);
    START.write(at + 24, &internet_checksum(at + 14..at + 34));
    if is_long {
        // Data offset: five words.
        START.write(at + 46, &[0x50, 0x10]);
    } else {
        START.write(at + 34, &[0, 9, 0, 9]);
        START.write(at + 38, &(ip_len - 20).to_be_bytes());
    }
}

/// Of the bytes there (RFC 1071): some hosts look at it before they pass a frame on.
fn internet_checksum(range: Range<usize>) -> [u8; 2] {
    let mut sum = 0_u32;
    for (position, byte) in START.bytes(range).enumerate() {
        sum += u32::from(byte) << if position % 2 == 0 { 8 } else { 0 };
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [low, high, ..] = (!sum).to_le_bytes();
    [high, low]
}

fn send(waiter: &Waiter, queue: &mut Queue, count: u64, len: usize) {
    let first = if len > SHORT_FRAME {
        PROTOCOL_BYTES
    } else {
        len
    };
    let mut parts = [Part::readable(START.address(0), bench::to_u32(HEADER_BYTES + first)); 18];
    let mut used_parts = 1;
    let mut left = len - first;
    while left > 0 {
        let part = left.min(PAGE);
        parts[used_parts] =
            Part::readable(REST.address((used_parts - 1) * PAGE), bench::to_u32(part));
        left -= part;
        used_parts += 1;
    }
    let parts = &parts[..used_parts];
    let mut sent = 0;
    while sent < count || !queue.is_idle() {
        while queue.take_used().is_some() {}
        let mut added = 0;
        while sent < count && queue.room() >= parts.len() {
            queue.add(parts);
            sent += 1;
            added += 1;
            // As a driver under load does: not each frame on its own, nor all at the end.
            if added % 32 == 0 {
                queue.kick();
            }
        }
        queue.kick();
        if added == 0 && !queue.is_idle() {
            waiter.wait([queue]);
        }
    }
}

/// Takes frames until `wanted` bytes came; says how many of each.
fn take(waiter: &Waiter, queue: &mut Queue, wanted: u64) -> (u64, u64) {
    let mut slots = [0_u16; Rings::MAX_SIZE as usize];
    for slot in 0..queue.size() {
        offer(queue, &mut slots, slot);
    }
    queue.kick();
    let (mut frames, mut bytes) = (0, 0);
    let mut buffers_left = 0_u16;
    while bytes < wanted {
        let mut taken = 0;
        while let Some(used) = queue.take_used() {
            let slot = slots[usize::from(used.head)];
            bytes += u64::from(used.len);
            if buffers_left == 0 {
                let mut count = [0; 2];
                BUFFERS.read(usize::from(slot) * PAGE + NUM_BUFFERS, &mut count);
                buffers_left = u16::from_le_bytes(count);
                bytes -= HEADER_BYTES as u64;
                frames += 1;
                rt::check!(buffers_left > 0, "a frame in no buffer");
            }
            buffers_left -= 1;
            offer(queue, &mut slots, slot);
            taken += 1;
            if taken % 32 == 0 {
                queue.kick();
            }
        }
        if taken > 0 {
            queue.kick();
        } else {
            waiter.wait([queue]);
        }
    }
    (frames, bytes)
}

/// Offers a buffer; its head leads back to it.
fn offer(queue: &mut Queue, slots: &mut [u16; Rings::MAX_SIZE as usize], slot: u16) {
    let at = BUFFERS.address(usize::from(slot) * PAGE);
    let head = queue.add(&[Part::writable(at, PAGE_LEN)]);
    slots[usize::from(head)] = slot;
}
