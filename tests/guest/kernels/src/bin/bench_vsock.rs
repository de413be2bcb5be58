//! Connects to port `port=` of the host and sends `count=` bytes in packets of 64 KiB, or with the word `receive`
//! takes as many, in buffers of 4 KiB as Linux has them; says how many kicks and interrupts that took.

#![no_std]
#![no_main]

use rt::apic;
use rt::bench::{self, Waiter, wait_for_start};
use rt::boot::BootInfo;
use rt::device_memory::DeviceMemory;
use rt::interrupts::DeviceVector;
use rt::println;
use rt::virtio::vsock::{DEVICE_ID, HEADER_BYTES, HOST_CID, Header, STREAM, op};
use rt::virtio::{Device, Part, Queue, Rings, VIRTIO_F_EVENT_IDX};

rt::kernel!(main);

const PAGE: usize = 4096;
const PAGE_LEN: u32 = 4096;
/// Packets on their way to the host.
const PACKETS: usize = 64;
const PACKET_BYTES: u32 = 64 << 10;
/// What Linux takes for a stream, and how little room it lets its peer believe in.
const WINDOW: u32 = 256 << 10;
const LITTLE_ROOM: u32 = 64 << 10;
const GUEST_PORT: u32 = 1024;
const HEADER_STRIDE: usize = 64;

static RECEIVE_RINGS: Rings = Rings::zeroed();
static TRANSMIT_RINGS: Rings = Rings::zeroed();
static EVENT_RINGS: Rings = Rings::zeroed();
static BUFFERS: DeviceMemory<{ Rings::MAX_SIZE as usize * PAGE }> = DeviceMemory::zeroed();
static HEADERS: DeviceMemory<{ PACKETS * HEADER_STRIDE }> = DeviceMemory::zeroed();
static DATA: DeviceMemory<{ PACKET_BYTES as usize }> = DeviceMemory::zeroed();

struct Stream {
    receive: Queue,
    transmit: Queue,
    slots: [u16; Rings::MAX_SIZE as usize],
    cid: u64,
    port: u32,
    next_header: usize,
    is_connected: bool,
    // What the host may send and sent, modulo 2^32.
    received: u32,
    told: u32,
    // What was sent, and what the host has room for.
    sent: u32,
    window: u32,
    forwarded: u32,
}

fn main(boot: &BootInfo) {
    let line = boot.command_line();
    let count = line.number("count").unwrap_or(1 << 20);
    let device = Device::find(boot, DEVICE_ID, 0);
    let features = device.negotiate(VIRTIO_F_EVENT_IDX);
    let vector = DeviceVector::new(0);
    apic::enable();
    let mut stream = Stream {
        receive: device.set_up_queue(0, &RECEIVE_RINGS, features),
        transmit: device.set_up_queue(1, &TRANSMIT_RINGS, features),
        slots: [0; Rings::MAX_SIZE as usize],
        cid: device.config_u64(0),
        port: line
            .number("port")
            .map_or(52, |port| bench::to_u32(bench::to_usize(port))),
        next_header: 0,
        is_connected: false,
        received: 0,
        told: 0,
        sent: 0,
        window: 0,
        forwarded: 0,
    };
    device.set_up_queue(2, &EVENT_RINGS, features);
    device.route_interrupts(vector);
    device.start();
    let waiter = Waiter::new(boot, device, vector);
    stream.connect(&waiter);
    wait_for_start();
    let bytes = if line.has("receive") {
        // So that the host's process knows when.
        stream.send(op::RW, 1);
        stream.take(&waiter, count)
    } else {
        stream.give(&waiter, count)
    };
    println!(
        "done bytes={bytes} kicks={} interrupts={}",
        stream.receive.kicks() + stream.transmit.kicks(),
        waiter.interrupts()
    );
    bench::idle();
}

impl Stream {
    fn connect(&mut self, waiter: &Waiter) {
        for slot in 0..self.receive.size() {
            self.offer(slot);
        }
        self.receive.kick();
        self.send(op::REQUEST, 0);
        self.look();
        while !self.is_connected {
            waiter.wait([&mut self.receive]);
            self.look();
        }
    }

    fn give(&mut self, waiter: &Waiter, count: u64) -> u64 {
        let mut bytes = 0;
        while bytes < count || !self.transmit.is_idle() {
            while self.transmit.take_used().is_some() {}
            self.look();
            let mut added = false;
            while bytes < count && self.has_room() {
                self.add(op::RW, PACKET_BYTES.min(self.credit()));
                bytes = u64::from(self.sent);
                added = true;
            }
            if added {
                self.transmit.kick();
            } else if bytes < count && self.credit() == 0 {
                waiter.wait([&mut self.receive]);
            } else if !self.transmit.is_idle() {
                waiter.wait([&mut self.receive, &mut self.transmit]);
            }
        }
        bytes
    }

    fn take(&mut self, waiter: &Waiter, count: u64) -> u64 {
        let mut bytes = 0;
        while bytes < count {
            while self.transmit.take_used().is_some() {}
            let taken = self.look();
            bytes += taken;
            if taken == 0 {
                waiter.wait([&mut self.receive]);
            }
        }
        bytes
    }

    /// Takes what the host sent; says how many bytes of data.
    fn look(&mut self) -> u64 {
        let mut bytes = 0;
        let mut taken = 0;
        while let Some(used) = self.receive.take_used() {
            let slot = self.slots[usize::from(used.head)];
            let mut header = [0; HEADER_BYTES];
            BUFFERS.read(usize::from(slot) * PAGE, &mut header);
            let header = Header::of(&header);
            self.window = header.buf_alloc;
            self.forwarded = header.fwd_cnt;
            match header.op {
                op::RESPONSE => self.is_connected = true,
                op::RW => {
                    bytes += u64::from(header.len);
                    self.received = self.received.wrapping_add(header.len);
                    let room = WINDOW.saturating_sub(self.received.wrapping_sub(self.told));
                    if room < LITTLE_ROOM {
                        self.send(op::CREDIT_UPDATE, 0);
                    }
                }
                op::CREDIT_UPDATE => {}
                op::CREDIT_REQUEST => self.send(op::CREDIT_UPDATE, 0),
                _ => rt::fail!("the host sent {header:?}"),
            }
            self.offer(slot);
            taken += 1;
            if taken % 32 == 0 {
                self.receive.kick();
            }
        }
        self.receive.kick();
        bytes
    }

    fn credit(&self) -> u32 {
        self.window
            .saturating_sub(self.sent.wrapping_sub(self.forwarded))
    }

    /// A packet worth its while can be sent. A quarter of a window at least, as long as more is under way.
    fn has_room(&self) -> bool {
        self.transmit.room() > usize::from(self.transmit.size()) - 2 * (PACKETS - 4)
            && self.credit() >= PACKET_BYTES.min(self.window / 4).max(1)
    }

    fn send(&mut self, op: u16, len: u32) {
        while self.transmit.room() < 4 {
            self.transmit.take_used();
        }
        self.add(op, len);
        self.transmit.kick();
    }

    fn add(&mut self, op: u16, len: u32) {
        self.told = self.received;
        let header = Header {
            src_cid: self.cid,
            dst_cid: HOST_CID,
            src_port: GUEST_PORT,
            dst_port: self.port,
            len,
            kind: STREAM,
            op,
            flags: 0,
            buf_alloc: WINDOW,
            fwd_cnt: self.received,
        };
        let at = self.next_header * HEADER_STRIDE;
        self.next_header = (self.next_header + 1) % PACKETS;
        HEADERS.write(at, &header.to_bytes());
        let parts = [
            Part::readable(HEADERS.address(at), bench::to_u32(HEADER_BYTES)),
            Part::readable(DATA.address(0), len),
        ];
        self.sent = self.sent.wrapping_add(len);
        self.transmit.add(&parts[..if len > 0 { 2 } else { 1 }]);
    }

    fn offer(&mut self, slot: u16) {
        let at = BUFFERS.address(usize::from(slot) * PAGE);
        let head = self.receive.add(&[Part::writable(at, PAGE_LEN)]);
        self.slots[usize::from(head)] = slot;
    }
}
