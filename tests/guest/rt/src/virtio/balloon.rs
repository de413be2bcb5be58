//! A virtio balloon (virtio 1.2 §5.5), by polling, and a piece of RAM to play with.

use super::{Device, Part, Queue, Rings, Used};
use crate::boot::BootInfo;
use crate::clock;
use crate::device_memory::DeviceMemory;
use crate::physical;

/// Device ID (virtio 1.2 §5).
pub const DEVICE_ID: u32 = 5;

/// The device asks for statistics.
pub const VIRTIO_BALLOON_F_STATS_VQ: u64 = 1 << 1;
/// The device asks for free pages.
pub const VIRTIO_BALLOON_F_FREE_PAGE_HINT: u64 = 1 << 3;
/// The device can be told of free pages.
pub const VIRTIO_BALLOON_F_PAGE_REPORTING: u64 = 1 << 5;

/// No run of hints.
pub const VIRTIO_BALLOON_CMD_ID_STOP: u32 = 0;
/// The pages of a run can be used again.
pub const VIRTIO_BALLOON_CMD_ID_DONE: u32 = 1;

/// Bytes of a balloon page.
pub const PAGE_BYTES: u64 = 4096;
/// Page numbers in one list.
pub const LIST_FRAMES: usize = 256;

/// The queues there are without any feature.
pub const INFLATE: usize = 0;
/// See [`INFLATE`].
pub const DEFLATE: usize = 1;
/// The queue of the one further feature that a kernel accepts.
pub const FEATURE: usize = 2;

// Configuration space.
const NUM_PAGES: u64 = 0;
const ACTUAL: u64 = 4;
const COMMAND: u64 = 8;

/// RAM from here on belongs to the test.
const PLAYGROUND: u64 = 16 << 20;

static RINGS: [Rings; 3] = [const { Rings::zeroed() }; 3];
static LIST: DeviceMemory<{ 32 * 1024 }> = DeviceMemory::zeroed();

/// A started balloon.
#[derive(Debug)]
pub struct Balloon {
    /// The transport.
    pub device: Device,
    /// All the device offers.
    pub offered: u64,
    queues: [Option<Queue>; 3],
}

impl Balloon {
    /// Starts the balloon with at most one feature, `wanted`. Fails the test if that is not offered.
    pub fn open(boot: &BootInfo, wanted: u64) -> Self {
        let device = Device::find(boot, DEVICE_ID, 0);
        let features = device.negotiate(wanted);
        crate::check!(
            features & wanted == wanted,
            "feature {wanted:#x} is not offered"
        );
        let mut queues = [None, None, None];
        let count = if wanted == 0 { 2 } else { 3 };
        for ((index, queue), rings) in (0..count).zip(&mut queues).zip(&RINGS) {
            *queue = Some(device.set_up_queue(index, rings, features));
        }
        let offered = device.offered_features();
        device.start();
        Self {
            device,
            offered,
            queues,
        }
    }

    /// Pages that the device wants.
    pub fn target(&self) -> u64 {
        self.device.config_u32(NUM_PAGES).into()
    }

    /// The device's command.
    pub fn command(&self) -> u32 {
        self.device.config_u32(COMMAND)
    }

    /// Says how many pages were given up.
    pub fn set_actual(&self, pages: u64) {
        self.device
            .set_config_u32(ACTUAL, u32::try_from(pages).unwrap_or(u32::MAX));
    }

    /// Waits until the target `is_right`; fails the test if it does not become so.
    pub fn wait_target(&self, is_right: impl Fn(u64) -> bool) -> u64 {
        let is_in_time = clock::spin_until(6 * clock::LONG, || is_right(self.target()));
        crate::check!(is_in_time, "the target stays at {}", self.target());
        self.target()
    }

    /// A queue that the device has.
    pub fn queue(&mut self, index: usize) -> &mut Queue {
        match &mut self.queues[index] {
            Some(queue) => queue,
            None => crate::fail!("the balloon has no queue {index}"),
        }
    }

    /// Sends `parts` and waits until the device gives them back.
    pub fn send(&mut self, queue: usize, parts: &[Part]) -> Used {
        let queue = self.queue(queue);
        queue.add(parts);
        queue.kick();
        queue.wait_used()
    }

    /// Sends the first `count` pages of the playground, in lists.
    pub fn send_pages(&mut self, queue: usize, count: u64) {
        let mut sent = 0;
        while sent < count {
            let mut frames = [0; LIST_FRAMES];
            let mut len = 0;
            while len < LIST_FRAMES && sent < count {
                frames[len] = frame(page(sent));
                (len, sent) = (len + 1, sent + 1);
            }
            // Drivers send them in no order.
            frames[..len].reverse();
            let list = write_frames(&frames[..len]);
            self.send(queue, &[list]);
        }
    }
}

/// Puts page numbers where the device reads them.
pub fn write_frames(frames: &[u32]) -> Part {
    for (index, frame) in frames.iter().enumerate() {
        LIST.write(4 * index, &frame.to_le_bytes());
    }
    Part::readable(
        LIST.address(0),
        u32::try_from(4 * frames.len()).unwrap_or(0),
    )
}

/// Puts bytes where the device reads them.
pub fn write_bytes(bytes: &[u8]) -> Part {
    LIST.write(0, bytes);
    Part::readable(LIST.address(0), u32::try_from(bytes.len()).unwrap_or(0))
}

/// The number of the page at `address`.
pub fn frame(address: u64) -> u32 {
    u32::try_from(address / PAGE_BYTES).unwrap_or(u32::MAX)
}

/// Address of the playground's page `index`.
pub fn page(index: u64) -> u64 {
    PLAYGROUND + index * PAGE_BYTES
}

/// Writes each of the playground's first `count` pages. Fails the test if they are not RAM of its own.
pub fn fill(boot: &BootInfo, count: u64) {
    let is_ours = boot
        .ram()
        .any(|region| region.start <= PLAYGROUND && page(count) <= region.end);
    crate::check!(
        is_ours && physical::image().end <= PLAYGROUND,
        "there is no RAM of {count} pages at {PLAYGROUND:#x}"
    );
    for index in 0..count {
        // SAFETY: RAM outside the image, as was just checked.
        unsafe { physical::write(page(index), !index) };
    }
}

/// Whether the page holds what [`fill`] wrote.
pub fn is_filled(index: u64) -> bool {
    physical::read::<u64>(page(index)) == !index
}

/// Whether the page was given back: it reads as zero.
pub fn is_given_back(index: u64) -> bool {
    physical::read::<u64>(page(index)) == 0
}
