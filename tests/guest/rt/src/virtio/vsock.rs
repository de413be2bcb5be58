//! A virtio vsock device (virtio 1.2 §5.10): packets in and out, well-formed or not.

use super::{Device, Part, Queue, Rings, VIRTIO_F_EVENT_IDX};
use crate::boot::BootInfo;
use crate::clock;
use crate::device_memory::DeviceMemory;
use crate::interrupts::DeviceVector;
use crate::{apic, gates};

/// Device ID (virtio 1.2 §5).
pub const DEVICE_ID: u32 = 19;
/// The host's address (virtio 1.2 §5.10.4).
pub const HOST_CID: u64 = 2;
/// The type of all streams (virtio 1.2 §5.10.6).
pub const STREAM: u16 = 1;

/// Operations (virtio 1.2 §5.10.6).
pub mod op {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const REQUEST: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const RST: u16 = 3;
    pub const SHUTDOWN: u16 = 4;
    pub const RW: u16 = 5;
    pub const CREDIT_UPDATE: u16 = 6;
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flags of a shutdown (virtio 1.2 §5.10.6.5): the sender receives no more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// The sender sends no more.
pub const SHUTDOWN_SEND: u32 = 2;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 44;
/// Buffers for receiving.
const BUFFERS: usize = 64;
/// Packets on their way out.
const HEADERS: usize = 96;
/// Bytes of a buffer, header included.
const BUFFER_BYTES: usize = 4096;
/// Bytes of memory for packets that are sent without a received buffer.
pub const SCRATCH_BYTES: usize = 64 * 1024;
const HEADER_STRIDE: usize = 64;

static RECEIVE_RINGS: Rings = Rings::zeroed();
static TRANSMIT_RINGS: Rings = Rings::zeroed();
static EVENT_RINGS: Rings = Rings::zeroed();
static BUFFER_MEMORY: DeviceMemory<{ BUFFERS * BUFFER_BYTES }> = DeviceMemory::zeroed();
static HEADER_MEMORY: DeviceMemory<{ HEADERS * HEADER_STRIDE }> = DeviceMemory::zeroed();
static SCRATCH: DeviceMemory<SCRATCH_BYTES> = DeviceMemory::zeroed();

/// A packet's header (virtio 1.2 §5.10.6).
#[derive(Clone, Copy, Debug, Default)]
pub struct Header {
    /// Who sends.
    pub src_cid: u64,
    /// To whom.
    pub dst_cid: u64,
    /// The sender's port.
    pub src_port: u32,
    /// The receiver's port.
    pub dst_port: u32,
    /// Bytes behind the header.
    pub len: u32,
    /// [`STREAM`].
    pub kind: u16,
    /// See [`op`].
    pub op: u16,
    /// Of a shutdown.
    pub flags: u32,
    /// Bytes that the sender can hold.
    pub buf_alloc: u32,
    /// Bytes that the sender has passed on.
    pub fwd_cnt: u32,
}

impl Header {
    /// As it lies in memory.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.src_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.op.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// What lies in memory.
    pub fn of(bytes: &[u8; HEADER_BYTES]) -> Self {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from(half(at + 2)) << 16 | u32::from(half(at));
        let long = |at: usize| u64::from(word(at + 4)) << 32 | u64::from(word(at));
        Self {
            src_cid: long(0),
            dst_cid: long(8),
            src_port: word(16),
            dst_port: word(20),
            len: word(24),
            kind: half(28),
            op: half(30),
            flags: word(32),
            buf_alloc: word(36),
            fwd_cnt: word(40),
        }
    }
}

/// A received packet. It is owned: its data are sent, or it is given back.
#[derive(Debug)]
#[must_use = "its memory is lost unless it is sent or given back"]
pub struct Packet {
    /// What came.
    pub header: Header,
    slot: u8,
}

/// A started vsock device.
#[derive(Debug)]
pub struct Vsock {
    /// The guest's address.
    pub cid: u64,
    device: Device,
    receive: Queue,
    transmit: Queue,
    receive_slots: [u8; Rings::MAX_SIZE as usize],
    /// The buffer whose data a sent packet carries.
    transmit_slots: [Option<u8>; Rings::MAX_SIZE as usize],
    free_headers: [u8; HEADERS],
    free_header_count: usize,
    transmit_headers: [u8; Rings::MAX_SIZE as usize],
}

impl Vsock {
    /// Starts the device. It sleeps until `vector` between packets; the word `event_idx` on the command line asks
    /// for that feature.
    pub fn open(boot: &BootInfo, vector: DeviceVector) -> Self {
        let device = Device::find(boot, DEVICE_ID, 0);
        let event_index = if boot.command_line().has("event_idx") {
            VIRTIO_F_EVENT_IDX
        } else {
            0
        };
        let features = device.negotiate(event_index);
        let receive = device.set_up_queue(0, &RECEIVE_RINGS, features);
        let transmit = device.set_up_queue(1, &TRANSMIT_RINGS, features);
        device.set_up_queue(2, &EVENT_RINGS, features);
        device.start();
        let mut free_headers = [0; HEADERS];
        for (index, slot) in (0..).zip(&mut free_headers) {
            *slot = index;
        }
        let mut vsock = Self {
            cid: device.config_u64(0),
            device,
            receive,
            transmit,
            receive_slots: [0; Rings::MAX_SIZE as usize],
            transmit_slots: [None; Rings::MAX_SIZE as usize],
            free_header_count: free_headers.len(),
            free_headers,
            transmit_headers: [0; Rings::MAX_SIZE as usize],
        };
        apic::enable();
        device.route_interrupts(vector);
        for (slot, _) in (0..).zip(0..BUFFERS) {
            vsock.offer(slot);
        }
        vsock.receive.kick();
        vsock
    }

    /// Waits for a packet.
    pub fn receive(&mut self) -> Packet {
        loop {
            if let Some(packet) = self.try_receive() {
                return packet;
            }
            if self.transmit.is_idle() && !self.receive.is_idle() {
                self.receive.request_interrupt();
                if !self.receive.has_used() {
                    gates::wait_for_interrupt();
                    self.device.acknowledge_interrupt();
                }
            } else {
                core::hint::spin_loop();
            }
        }
    }

    /// A packet, if one is there.
    pub fn try_receive(&mut self) -> Option<Packet> {
        self.reclaim();
        let used = self.receive.take_used()?;
        let slot = self.receive_slots[usize::from(used.head)];
        let mut bytes = [0; HEADER_BYTES];
        BUFFER_MEMORY.read(usize::from(slot) * BUFFER_BYTES, &mut bytes);
        let header = Header::of(&bytes);
        let len = header.len as usize + HEADER_BYTES;
        crate::check!(
            used.len as usize == len && len <= BUFFER_BYTES,
            "{header:?} came in {} bytes",
            used.len
        );
        crate::check!(
            header.src_cid == HOST_CID && header.dst_cid == self.cid,
            "{header:?} is not for this guest"
        );
        Some(Packet { header, slot })
    }

    /// Sends `header` with no data.
    pub fn send(&mut self, header: Header) {
        self.send_parts(header, None, &[]);
    }

    /// Sends `header` with the data of `packet`, whose memory returns to the device afterwards.
    pub fn send_data_of(&mut self, header: Header, packet: Packet) {
        let at = BUFFER_MEMORY.address(usize::from(packet.slot) * BUFFER_BYTES + HEADER_BYTES);
        let part = Part::readable(at, packet.header.len);
        self.send_parts(header, Some(packet.slot), &[part]);
    }

    /// Sends `header`, whatever its length says, with `data` in memory of its own; one such packet at a time.
    pub fn send_bytes(&mut self, header: Header, data: &[u8]) {
        SCRATCH.write(0, data);
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.send_parts(header, None, &[Part::readable(SCRATCH.address(0), len)]);
        self.drain();
    }

    /// Sends a piece of memory that is no packet.
    pub fn send_nonsense(&mut self, part: Part) {
        self.transmit.add(&[part]);
        self.transmit.kick();
        self.transmit.wait_used();
    }

    /// Gives a packet's memory back.
    pub fn give_back(&mut self, packet: Packet) {
        self.offer(packet.slot);
        self.receive.kick();
    }

    /// Waits until all that was sent was taken.
    pub fn drain(&mut self) {
        let is_done = clock::spin_until(clock::LONG, || {
            self.reclaim();
            self.transmit.is_idle()
        });
        crate::check!(is_done, "a packet was not taken");
    }

    fn send_parts(&mut self, header: Header, slot: Option<u8>, data: &[Part]) {
        let has_room = clock::spin_until(clock::LONG, || {
            self.reclaim();
            self.free_header_count > 0
        });
        crate::check!(has_room, "the device takes no packets");
        self.free_header_count -= 1;
        let index = self.free_headers[self.free_header_count];
        let at = usize::from(index) * HEADER_STRIDE;
        HEADER_MEMORY.write(at, &header.to_bytes());
        let header_len = u32::try_from(HEADER_BYTES).unwrap_or(0);
        let mut parts = [Part::readable(HEADER_MEMORY.address(at), header_len); 2];
        if let Some(part) = data.first() {
            parts[1] = *part;
        }
        let count = if data.first().is_some_and(|part| part.len > 0) {
            2
        } else {
            1
        };
        let head = self.transmit.add(&parts[..count]);
        self.transmit_slots[usize::from(head)] = slot;
        self.transmit_headers[usize::from(head)] = index;
        self.transmit.kick();
    }

    fn reclaim(&mut self) {
        while let Some(used) = self.transmit.take_used() {
            let head = usize::from(used.head);
            self.free_headers[self.free_header_count] = self.transmit_headers[head];
            self.free_header_count += 1;
            if let Some(slot) = self.transmit_slots[head].take() {
                self.offer(slot);
                self.receive.kick();
            }
        }
    }

    fn offer(&mut self, slot: u8) {
        let len = u32::try_from(BUFFER_BYTES).unwrap_or(0);
        let address = BUFFER_MEMORY.address(usize::from(slot) * BUFFER_BYTES);
        let head = self.receive.add(&[Part::writable(address, len)]);
        self.receive_slots[usize::from(head)] = slot;
    }
}
