//! A virtio block device (virtio 1.2 §5.2): requests in batches, by polling.

use super::{Device, Part, Queue, Rings, VIRTIO_F_EVENT_IDX};
use crate::boot::BootInfo;
use crate::device_memory::DeviceMemory;

/// Device ID (virtio 1.2 §5).
pub const DEVICE_ID: u32 = 2;

/// The configuration says how many segments a request may have.
pub const VIRTIO_BLK_F_SEG_MAX: u64 = 1 << 2;
/// The device refuses writes.
pub const VIRTIO_BLK_F_RO: u64 = 1 << 5;
/// The device knows flush requests.
pub const VIRTIO_BLK_F_FLUSH: u64 = 1 << 9;

/// The configuration says what blocks the disk has.
pub const VIRTIO_BLK_F_BLK_SIZE: u64 = 1 << 6;
/// See [`VIRTIO_BLK_F_BLK_SIZE`].
pub const VIRTIO_BLK_F_TOPOLOGY: u64 = 1 << 10;
/// The device may have several queues.
pub const VIRTIO_BLK_F_MQ: u64 = 1 << 12;
/// The device forgets ranges.
pub const VIRTIO_BLK_F_DISCARD: u64 = 1 << 13;
/// The device zeroes ranges.
pub const VIRTIO_BLK_F_WRITE_ZEROES: u64 = 1 << 14;

/// Request types (virtio 1.2 §5.2.6).
pub const VIRTIO_BLK_T_IN: u32 = 0;
/// See [`VIRTIO_BLK_T_IN`].
pub const VIRTIO_BLK_T_OUT: u32 = 1;
/// See [`VIRTIO_BLK_T_IN`].
pub const VIRTIO_BLK_T_FLUSH: u32 = 4;
/// See [`VIRTIO_BLK_T_IN`].
pub const VIRTIO_BLK_T_GET_ID: u32 = 8;
/// See [`VIRTIO_BLK_T_IN`].
pub const VIRTIO_BLK_T_DISCARD: u32 = 11;
/// See [`VIRTIO_BLK_T_IN`].
pub const VIRTIO_BLK_T_WRITE_ZEROES: u32 = 13;

/// Request states (virtio 1.2 §5.2.6).
pub const VIRTIO_BLK_S_OK: u8 = 0;
/// See [`VIRTIO_BLK_S_OK`].
pub const VIRTIO_BLK_S_IOERR: u8 = 1;
/// See [`VIRTIO_BLK_S_OK`].
pub const VIRTIO_BLK_S_UNSUPP: u8 = 2;
/// What a request's status byte holds before the device writes it.
pub const STATUS_UNTOUCHED: u8 = 0xff;

/// Bytes of a sector, whatever the disk's own block size.
pub const SECTOR_BYTES: usize = 512;
/// Bytes of a device ID string.
pub const ID_BYTES: usize = 20;

/// Requests in flight at once.
pub const SLOTS: usize = 8;
/// Data bytes of one request.
pub const SLOT_BYTES: usize = 64 * 1024;
/// Data of a request is spread over pieces of this size.
const PIECE_BYTES: usize = 16 * 1024;
const MAX_PIECES: usize = SLOT_BYTES / PIECE_BYTES;

/// Header and status byte of each slot.
const CONTROL_BYTES: usize = 32;
const HEADER_BYTES: u32 = 16;
const STATUS_OFFSET: usize = 16;

static RINGS: Rings = Rings::zeroed();
static CONTROL: DeviceMemory<{ SLOTS * CONTROL_BYTES }> = DeviceMemory::zeroed();
static DATA: DeviceMemory<{ SLOTS * SLOT_BYTES }> = DeviceMemory::zeroed();

/// One request. Its data lie at the front of the slot it is given.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Request type.
    pub kind: u32,
    /// First sector.
    pub sector: u64,
    /// Bytes of data, at most [`SLOT_BYTES`].
    pub len: usize,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The status byte.
    pub status: u8,
    /// Bytes the device says it wrote, with the status byte.
    pub used_len: u32,
}

/// A started disk.
#[derive(Debug)]
pub struct Disk {
    /// The transport.
    pub device: Device,
    /// The only queue.
    pub queue: Queue,
    /// Feature bits agreed on.
    pub features: u64,
    /// Sectors.
    pub capacity: u64,
}

impl Disk {
    /// Starts the first disk, or the one `disk=` names by number. The word `event_idx` on the command
    /// line asks for that feature.
    pub fn open(boot: &BootInfo) -> Self {
        let nth = boot.command_line().number("disk").unwrap_or(0);
        Self::open_nth(boot, usize::try_from(nth).unwrap_or(usize::MAX))
    }

    /// Starts the disk with number `nth`.
    pub fn open_nth(boot: &BootInfo, nth: usize) -> Self {
        let device = Device::find(boot, DEVICE_ID, nth);
        let event_index = if boot.command_line().has("event_idx") {
            VIRTIO_F_EVENT_IDX
        } else {
            0
        };
        Self::start(device, event_index)
    }

    /// Starts the disk that is this PCI function.
    pub fn at(function: crate::pci::Function) -> Self {
        Self::start(Device::at(function), 0)
    }

    /// The same with `wanted` features too, as far as they are offered.
    pub fn open_with(boot: &BootInfo, wanted: u64) -> Self {
        let disk = Self::open(boot);
        let event_index = disk.features & VIRTIO_F_EVENT_IDX;
        Self::start(disk.device, event_index | wanted)
    }

    /// Resets the device and starts it again.
    pub fn restart(&mut self) {
        *self = Self::start(self.device, self.features & VIRTIO_F_EVENT_IDX);
    }

    fn start(device: Device, wanted: u64) -> Self {
        let features = device.negotiate(wanted | VIRTIO_BLK_F_RO | VIRTIO_BLK_F_FLUSH);
        let queue = device.set_up_queue(0, &RINGS, features);
        device.start();
        let capacity = device.config_u64(0);
        Self {
            device,
            queue,
            features,
            capacity,
        }
    }

    /// Sends up to [`SLOTS`] requests with one kick and waits for all. Request `n` has slot `n`.
    pub fn run(&mut self, requests: &[Request]) -> [Outcome; SLOTS] {
        let mut heads = [u16::MAX; SLOTS];
        for (slot, request) in requests.iter().enumerate() {
            heads[slot] = self.add(slot, *request);
        }
        self.queue.kick();

        let mut outcomes = [Outcome::default(); SLOTS];
        for _ in requests {
            let used = self.queue.wait_used();
            let Some(slot) = heads.iter().position(|&head| head == used.head) else {
                crate::fail!("the disk gave back head {} twice, or unasked", used.head);
            };
            heads[slot] = u16::MAX;
            outcomes[slot] = Outcome {
                status: status(slot),
                used_len: used.len,
            };
        }
        outcomes
    }

    /// Runs one request in slot 0.
    pub fn run_one(&mut self, kind: u32, sector: u64, len: usize) -> Outcome {
        self.run(&[Request { kind, sector, len }])[0]
    }

    /// Runs requests that must succeed.
    pub fn run_well(&mut self, requests: &[Request]) {
        let outcomes = self.run(requests);
        for (request, outcome) in requests.iter().zip(outcomes) {
            let written = if writes_data(request.kind) {
                request.len
            } else {
                0
            } + 1;
            crate::check!(
                outcome.status == VIRTIO_BLK_S_OK,
                "{request:?} ended with {outcome:?}"
            );
            crate::check!(
                outcome.used_len as usize == written,
                "{request:?} ended with {outcome:?}, but {written} bytes were to be written"
            );
        }
    }

    /// Makes a request available in `slot`, without a kick; returns its head.
    pub fn add(&mut self, slot: usize, request: Request) -> u16 {
        write_header(slot, request.kind, request.sector);
        let mut parts = [Part::readable(header_address(slot), HEADER_BYTES); MAX_PIECES + 2];
        let mut count = 1;
        let mut offset = 0;
        while offset < request.len {
            let len = PIECE_BYTES.min(request.len - offset);
            parts[count] = Part {
                address: data_address(slot) + offset as u64,
                len: u32::try_from(len).unwrap_or(u32::MAX),
                is_device_writable: writes_data(request.kind),
            };
            offset += len;
            count += 1;
        }
        parts[count] = Part::writable(status_address(slot), 1);
        self.queue.add(&parts[..=count])
    }

    /// The whole disk as requests of one kind, in batches that fit [`run`](Self::run).
    pub fn sweep(&self, kind: u32) -> impl Iterator<Item = ([Request; SLOTS], usize)> + use<> {
        let capacity = self.capacity;
        let sectors_per_slot = (SLOT_BYTES / SECTOR_BYTES) as u64;
        let per_batch = sectors_per_slot * SLOTS as u64;
        (0..capacity.div_ceil(per_batch)).map(move |batch| {
            let mut requests = [Request {
                kind,
                sector: 0,
                len: 0,
            }; SLOTS];
            let mut count = 0;
            let mut sector = batch * per_batch;
            while count < SLOTS && sector < capacity {
                let sectors = sectors_per_slot.min(capacity - sector);
                let len = usize::try_from(sectors).map_or(0, |sectors| sectors * SECTOR_BYTES);
                requests[count] = Request { kind, sector, len };
                count += 1;
                sector += sectors;
            }
            (requests, count)
        })
    }
}

/// Writes the 16-byte header of `slot` and makes its status byte recognisable.
pub fn write_header(slot: usize, kind: u32, sector: u64) {
    let at = slot * CONTROL_BYTES;
    CONTROL.write(at, &kind.to_le_bytes());
    CONTROL.write(at + 4, &[0; 4]);
    CONTROL.write(at + 8, &sector.to_le_bytes());
    CONTROL.write(at + STATUS_OFFSET, &[STATUS_UNTOUCHED]);
}

/// The status byte of `slot`.
pub fn status(slot: usize) -> u8 {
    CONTROL.byte(slot * CONTROL_BYTES + STATUS_OFFSET)
}

/// Address of the header of `slot`.
pub fn header_address(slot: usize) -> u64 {
    CONTROL.address(slot * CONTROL_BYTES)
}

/// Address of the status byte of `slot`.
pub fn status_address(slot: usize) -> u64 {
    CONTROL.address(slot * CONTROL_BYTES + STATUS_OFFSET)
}

/// Address of the data of `slot`.
pub fn data_address(slot: usize) -> u64 {
    DATA.address(slot * SLOT_BYTES)
}

/// The first `len` data bytes of `slot`.
pub fn data(slot: usize, len: usize) -> impl DoubleEndedIterator<Item = u8> {
    DATA.bytes(slot * SLOT_BYTES..slot * SLOT_BYTES + len)
}

/// Copies data out of `slot`, from `offset` on.
pub fn read_data(slot: usize, offset: usize, into: &mut [u8]) {
    DATA.read(slot * SLOT_BYTES + offset, into);
}

/// Copies data into `slot`, from `offset` on.
pub fn write_data(slot: usize, offset: usize, bytes: &[u8]) {
    DATA.write(slot * SLOT_BYTES + offset, bytes);
}

fn writes_data(kind: u32) -> bool {
    matches!(kind, VIRTIO_BLK_T_IN | VIRTIO_BLK_T_GET_ID)
}
