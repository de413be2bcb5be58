//! A virtio memory device (virtio 1.2 §5.15), by polling.

use core::ops::Range;

use super::{Device, Part, Queue, Rings, Used};
use crate::boot::BootInfo;
use crate::device_memory::DeviceMemory;
use crate::{clock, paging, physical};

/// Device ID (virtio 1.2 §5).
pub const DEVICE_ID: u32 = 24;
/// The driver does not touch what is not plugged.
pub const VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

/// Request: add blocks.
pub const PLUG: u16 = 0;
/// Request: take blocks away.
pub const UNPLUG: u16 = 1;
/// Request: take all away.
pub const UNPLUG_ALL: u16 = 2;
/// Request: what is there.
pub const STATE: u16 = 3;

/// Response: done.
pub const ACK: u16 = 0;
/// Response: more than requested.
pub const NACK: u16 = 1;
/// Response: a rule was broken.
pub const ERROR: u16 = 3;

/// State: all of it.
pub const PLUGGED: u16 = 0;
/// State: none of it.
pub const UNPLUGGED: u16 = 1;
/// State: some of it.
pub const MIXED: u16 = 2;

/// Bytes of a request.
pub const REQUEST_BYTES: u32 = 24;
/// Bytes of a response.
pub const RESPONSE_BYTES: u32 = 10;

const PAGE_BYTES: usize = 4096;

static RINGS: Rings = Rings::zeroed();
static MESSAGES: DeviceMemory<64> = DeviceMemory::zeroed();
const RESPONSE: usize = 32;

/// A started memory device.
#[derive(Debug)]
pub struct Mem {
    /// The transport.
    pub device: Device,
    queue: Queue,
}

impl Mem {
    /// Starts the device.
    pub fn open(boot: &BootInfo) -> Self {
        let device = Device::find(boot, DEVICE_ID, 0);
        let features = device.negotiate(VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE);
        crate::check!(
            features & VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE != 0,
            "it does not say that unplugged memory cannot be touched"
        );
        let queue = device.set_up_queue(0, &RINGS, features);
        device.start();
        Self { device, queue }
    }

    /// Bytes of a block.
    pub fn block_size(&self) -> u64 {
        self.device.config_u64(0)
    }

    /// Where the region is.
    pub fn region(&self) -> Range<u64> {
        let start = self.device.config_u64(16);
        start..start + self.device.config_u64(24)
    }

    /// Bytes that blocks can be plugged in.
    pub fn usable(&self) -> u64 {
        self.device.config_u64(32)
    }

    /// Bytes that are plugged.
    pub fn plugged(&self) -> u64 {
        self.device.config_u64(40)
    }

    /// Bytes that are to be.
    pub fn requested(&self) -> u64 {
        self.device.config_u64(48)
    }

    /// Waits until the requested size `is_right`.
    pub fn wait_requested(&self, is_right: impl Fn(u64) -> bool) -> u64 {
        let is_in_time = clock::spin_until(6 * clock::LONG, || is_right(self.requested()));
        crate::check!(is_in_time, "{} bytes stay requested", self.requested());
        self.requested()
    }

    /// Makes a request; the response and the state in it.
    pub fn ask(&mut self, kind: u16, address: u64, blocks: u16) -> (u16, u16) {
        let request = self.write_request(kind, address, blocks);
        let used = self.send(&[request, self.response()]);
        crate::check!(used.len == RESPONSE_BYTES, "{} bytes of response", used.len);
        read_response()
    }

    /// Writes a request where the device reads it.
    pub fn write_request(&self, kind: u16, address: u64, blocks: u16) -> Part {
        MESSAGES.write(0, &u64::from(kind).to_le_bytes());
        MESSAGES.write(8, &address.to_le_bytes());
        MESSAGES.write(16, &u64::from(blocks).to_le_bytes());
        Part::readable(MESSAGES.address(0), REQUEST_BYTES)
    }

    /// Room for a response.
    pub fn response(&self) -> Part {
        MESSAGES.write(RESPONSE, &[0x55; RESPONSE_BYTES as usize]);
        Part::writable(MESSAGES.address(RESPONSE), RESPONSE_BYTES)
    }

    /// Sends `parts` and waits until the device gives them back.
    pub fn send(&mut self, parts: &[Part]) -> Used {
        self.queue.add(parts);
        self.queue.kick();
        self.queue.wait_used()
    }
}

/// The response and the state in it.
pub fn read_response() -> (u16, u16) {
    let (mut kind, mut state) = ([0; 2], [0; 2]);
    MESSAGES.read(RESPONSE, &mut kind);
    MESSAGES.read(RESPONSE + 8, &mut state);
    (u16::from_le_bytes(kind), u16::from_le_bytes(state))
}

/// Makes `range` of the region reachable.
pub fn map(range: Range<u64>) {
    paging::map_memory(range);
}

/// Writes each page of `range`, which belongs to nobody else.
pub fn fill(range: Range<u64>) {
    for at in range.step_by(PAGE_BYTES) {
        // SAFETY: no RAM of the image, and only this module touches it.
        unsafe { physical::write(at, !at) };
    }
}

/// Whether each page of `range` holds what [`fill`] wrote.
pub fn is_filled(range: Range<u64>) -> bool {
    range
        .step_by(PAGE_BYTES)
        .all(|at| physical::read::<u64>(at) == !at)
}

/// Whether each page of `range` reads as zero.
pub fn is_zero(range: Range<u64>) -> bool {
    range
        .step_by(PAGE_BYTES)
        .all(|at| physical::read::<u64>(at) == 0)
}
