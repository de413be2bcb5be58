//! A virtio network device (virtio 1.2 §5.1), without offloads: whole frames in and out.

use super::{Device, Part, Queue, Rings, VIRTIO_F_EVENT_IDX};
use crate::boot::BootInfo;
use crate::clock;
use crate::device_memory::DeviceMemory;
use crate::interrupts::DeviceVector;
use crate::{apic, gates};

/// Device ID (virtio 1.2 §5).
pub const DEVICE_ID: u32 = 1;

/// The configuration space has a MAC address.
pub const VIRTIO_NET_F_MAC: u64 = 1 << 5;

/// Frames in flight, both ways together.
const FRAMES: usize = 128;
const FRAME_BYTES: usize = 2048;
/// Before each frame (virtio 1.2 §5.1.6).
const HEADER_BYTES: usize = 12;

const RECEIVE_QUEUE: u32 = 0;
const TRANSMIT_QUEUE: u32 = 1;

static RECEIVE_RINGS: Rings = Rings::zeroed();
static TRANSMIT_RINGS: Rings = Rings::zeroed();
/// A slot behind those that receive, for frames of one's own.
const OWN: usize = FRAMES;
static MEMORY: DeviceMemory<{ (FRAMES + 1) * FRAME_BYTES }> = DeviceMemory::zeroed();

/// A received frame. It is owned: to be transmitted, or given back.
#[derive(Debug)]
#[must_use = "its memory is lost unless it is transmitted or given back"]
pub struct Frame {
    slot: usize,
    len: usize,
}

impl Frame {
    /// Bytes, from the destination address on.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies bytes out, from `offset` on; `None` past the end.
    pub fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        (offset + N <= self.len).then(|| {
            MEMORY.read(self.start() + offset, &mut bytes);
            bytes
        })
    }

    /// Copies bytes out, from `offset` on. Fails the test past the end.
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) {
        crate::check!(
            offset + into.len() <= self.len,
            "read past the end of a frame"
        );
        MEMORY.read(self.start() + offset, into);
    }

    /// Copies bytes in, from `offset` on. Fails the test past the end.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        crate::check!(
            offset + bytes.len() <= self.len,
            "write past the end of a frame"
        );
        MEMORY.write(self.start() + offset, bytes);
    }

    fn start(&self) -> usize {
        self.slot * FRAME_BYTES + HEADER_BYTES
    }
}

/// How a card waits for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Spin,
    Interrupt,
}

/// A started network card.
#[derive(Debug)]
pub struct Nic {
    /// The transport.
    pub device: Device,
    /// Hardware address.
    pub mac: [u8; 6],
    receive: Queue,
    transmit: Queue,
    wait: Wait,
    /// The slot for frames of one's own is with the device.
    is_own_out: bool,
    receive_slots: [usize; Rings::MAX_SIZE as usize],
    transmit_slots: [usize; Rings::MAX_SIZE as usize],
}

impl Nic {
    /// Starts the first card, or the one `nic=` names by number. It sleeps until `vector` between
    /// frames, or spins if the command line has the word `poll`; the word `event_idx` asks for that
    /// feature. Fails the test if the device has no
    /// MAC address.
    pub fn open(boot: &BootInfo, vector: DeviceVector) -> Self {
        let nth = boot.command_line().number("nic").unwrap_or(0);
        let device = Device::find(boot, DEVICE_ID, usize::try_from(nth).unwrap_or(usize::MAX));
        let event_index = if boot.command_line().has("event_idx") {
            VIRTIO_F_EVENT_IDX
        } else {
            0
        };
        let features = device.negotiate(VIRTIO_NET_F_MAC | event_index);
        crate::check!(
            features & VIRTIO_NET_F_MAC != 0,
            "the network device has no MAC address"
        );
        let receive = device.set_up_queue(RECEIVE_QUEUE, &RECEIVE_RINGS, features);
        let transmit = device.set_up_queue(TRANSMIT_QUEUE, &TRANSMIT_RINGS, features);
        device.start();

        let mut mac = [0; 6];
        for (offset, byte) in (0..).zip(&mut mac) {
            *byte = device.config_byte(offset);
        }
        let wait = if boot.command_line().has("poll") {
            Wait::Spin
        } else {
            Wait::Interrupt
        };
        let mut nic = Self {
            device,
            mac,
            receive,
            transmit,
            wait,
            is_own_out: false,
            receive_slots: [0; Rings::MAX_SIZE as usize],
            transmit_slots: [0; Rings::MAX_SIZE as usize],
        };
        if nic.wait == Wait::Interrupt {
            apic::enable();
            device.route_interrupts(vector);
        }
        for slot in 0..FRAMES {
            nic.offer(slot);
        }
        nic.receive.kick();
        nic
    }

    /// Waits for a frame.
    pub fn receive(&mut self) -> Frame {
        loop {
            self.reclaim();
            if let Some(used) = self.receive.take_used() {
                let len = (used.len as usize).saturating_sub(HEADER_BYTES);
                return Frame {
                    slot: self.receive_slots[usize::from(used.head)],
                    len,
                };
            }
            match self.wait {
                Wait::Spin => core::hint::spin_loop(),
                // All memory is on its way out, which raises no interrupt, so none can come in.
                Wait::Interrupt if self.receive.is_idle() => core::hint::spin_loop(),
                Wait::Interrupt => {
                    self.receive.request_interrupt();
                    // An interrupt that has come since this look still ends the sleep.
                    if !self.receive.has_used() {
                        gates::wait_for_interrupt();
                        self.device.acknowledge_interrupt();
                    }
                }
            }
        }
    }

    /// Sends a frame of one's own, once the one before has left.
    pub fn send(&mut self, bytes: &[u8]) {
        while self.is_own_out {
            self.reclaim();
        }
        let fits = HEADER_BYTES + bytes.len() <= FRAME_BYTES;
        crate::check!(fits, "a frame too long to send");
        MEMORY.write(OWN * FRAME_BYTES + HEADER_BYTES, bytes);
        self.is_own_out = true;
        self.transmit(Frame {
            slot: OWN,
            len: bytes.len(),
        });
    }

    /// Sends a frame; its memory returns to the device for receiving afterwards.
    pub fn transmit(&mut self, frame: Frame) {
        // No offload: an all-zero header, which for transmission also has no buffer count.
        MEMORY.write(frame.slot * FRAME_BYTES, &[0; HEADER_BYTES]);
        let head = self.transmit.add(&[Part::readable(
            MEMORY.address(frame.slot * FRAME_BYTES),
            u32::try_from(HEADER_BYTES + frame.len).unwrap_or(0),
        )]);
        self.transmit_slots[usize::from(head)] = frame.slot;
        self.transmit.kick();
    }

    /// Gives a frame's memory back for receiving.
    pub fn give_back(&mut self, frame: Frame) {
        self.offer(frame.slot);
        self.receive.kick();
    }

    /// Waits until all that was sent has left. Fails the test if it does not.
    pub fn drain(&mut self) {
        let transmit = &mut self.transmit;
        let sent = clock::spin_until(clock::LONG, || {
            while transmit.take_used().is_some() {}
            transmit.is_idle()
        });
        crate::check!(sent, "a transmitted frame never came back");
    }

    fn reclaim(&mut self) {
        let mut count = 0;
        while let Some(used) = self.transmit.take_used() {
            match self.transmit_slots[usize::from(used.head)] {
                OWN => self.is_own_out = false,
                slot => {
                    self.offer(slot);
                    count += 1;
                }
            }
        }
        if count > 0 {
            self.receive.kick();
        }
    }

    fn offer(&mut self, slot: usize) {
        let len = u32::try_from(FRAME_BYTES).unwrap_or(0);
        let head = self
            .receive
            .add(&[Part::writable(MEMORY.address(slot * FRAME_BYTES), len)]);
        self.receive_slots[usize::from(head)] = slot;
    }
}
