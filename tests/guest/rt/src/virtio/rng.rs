//! A virtio entropy device (virtio 1.2 §5.4): one request at a time, by polling.

use super::{Device, Part, Queue, Rings};
use crate::boot::BootInfo;
use crate::device_memory::DeviceMemory;

/// Device ID (virtio 1.2 §5).
pub const DEVICE_ID: u32 = 4;

/// The most bytes of one request.
pub const MAX_BYTES: usize = 128 * 1024;

static RINGS: Rings = Rings::zeroed();
static DATA: DeviceMemory<MAX_BYTES> = DeviceMemory::zeroed();

/// A started entropy device.
#[derive(Debug)]
pub struct Rng {
    queue: Queue,
}

impl Rng {
    /// Starts the first entropy device.
    pub fn open(boot: &BootInfo) -> Self {
        let device = Device::find(boot, DEVICE_ID, 0);
        let features = device.negotiate(0);
        let queue = device.set_up_queue(0, &RINGS, features);
        device.start();
        Self { queue }
    }

    /// Asks for `len` bytes, over buffers of `piece` bytes each. Returns how many came.
    pub fn draw(&mut self, len: usize, piece: usize) -> usize {
        const MAX_PARTS: usize = 32;
        let mut parts = [Part::writable(0, 0); MAX_PARTS];
        let mut count = 0;
        for offset in (0..len).step_by(piece) {
            crate::check!(count < MAX_PARTS, "a request of too many pieces");
            let part = piece.min(len - offset);
            parts[count] = Part::writable(DATA.address(offset), u32::try_from(part).unwrap_or(0));
            count += 1;
        }
        self.queue.add(&parts[..count]);
        self.queue.kick();
        self.queue.wait_used().len as usize
    }
}

/// The first `len` bytes that were drawn last.
pub fn data(len: usize) -> impl DoubleEndedIterator<Item = u8> {
    DATA.bytes(0..len)
}

/// Forgets what was drawn.
pub fn clear() {
    const ZEROS: [u8; 4096] = [0; 4096];
    for offset in (0..MAX_BYTES).step_by(ZEROS.len()) {
        DATA.write(offset, &ZEROS);
    }
}
