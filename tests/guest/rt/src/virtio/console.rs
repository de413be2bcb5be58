//! A virtio console (virtio 1.2 §5.3): output by polling, and the raw queues for kernels that break the rules.

use super::{Device, Part, Queue, Rings};
use crate::boot::BootInfo;
use crate::device_memory::DeviceMemory;

/// Device ID (virtio 1.2 §5).
pub const DEVICE_ID: u32 = 3;

/// The most bytes of one chain.
pub const MAX_BYTES: usize = 64 * 1024;

static RECEIVE: Rings = Rings::zeroed();
static TRANSMIT: Rings = Rings::zeroed();
static DATA: DeviceMemory<MAX_BYTES> = DeviceMemory::zeroed();

/// A started console.
#[derive(Debug)]
pub struct Console {
    /// The device.
    pub device: Device,
    /// Queue 0.
    pub receive: Queue,
    /// Queue 1.
    pub transmit: Queue,
}

impl Console {
    /// Starts the first console.
    pub fn open(boot: &BootInfo) -> Self {
        let device = Device::find(boot, DEVICE_ID, 0);
        Self::start(device)
    }

    /// Starts `device`, again if need be.
    pub fn start(device: Device) -> Self {
        let features = device.negotiate(0);
        let receive = device.set_up_queue(0, &RECEIVE, features);
        let transmit = device.set_up_queue(1, &TRANSMIT, features);
        device.start();
        Self {
            device,
            receive,
            transmit,
        }
    }

    /// Prints `bytes` in buffers of `piece` bytes each, and waits until the device gave them back.
    pub fn print(&mut self, bytes: &[u8], piece: usize) {
        const MAX_PARTS: usize = 32;
        let mut parts = [Part::readable(0, 0); MAX_PARTS];
        let mut count = 0;
        for offset in (0..bytes.len()).step_by(piece) {
            crate::check!(count < MAX_PARTS, "a chain of too many pieces");
            let part = piece.min(bytes.len() - offset);
            parts[count] = Part::readable(address(offset), u32::try_from(part).unwrap_or(0));
            count += 1;
        }
        DATA.write(0, bytes);
        self.transmit.add(&parts[..count]);
        self.transmit.kick();
        let len = self.transmit.wait_used().len;
        crate::check!(len == 0, "the console wrote {len} bytes");
    }
}

/// Where byte `offset` of the memory for chains is.
pub fn address(offset: usize) -> u64 {
    DATA.address(offset)
}
