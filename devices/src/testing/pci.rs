//! A guest with one device in it, on the PCI transport.

use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::guest::{Guest, Place};
use super::{FakeDriver, InlineLoop};
use crate::GuestMemory;
use crate::irq::Message;
use crate::pci::{Bar, Function, MessageLines};
use crate::virtio::queue::QueueState;
use crate::virtio::transport::pci::{BAR_LEN, PciPlacement, notify_offset};
use crate::virtio::transport::{PciState, PciTransport, RestoreError, Slot, Transport};
use crate::virtio::{VirtioDevice, WorkerId, WorkerLoop};

const BAR: Bar = Bar {
    address: 0x40_0008_0000,
    size: BAR_LEN,
};

// Offsets in the common configuration (virtio 1.2 §4.1.4.3).
const DRIVER_FEATURE_SELECT: u64 = 8;
const DRIVER_FEATURE: u64 = 12;
const CONFIG_VECTOR: u64 = 16;
const STATUS: u64 = 20;
const QUEUE_SELECT: u64 = 22;
const QUEUE_SIZE: u64 = 24;
const QUEUE_VECTOR: u64 = 26;
const QUEUE_ENABLE: u64 = 28;
const QUEUE_ADDRESSES: [u64; 3] = [32, 40, 48];

const MSIX_TABLE: u64 = 0x8000;
/// MSI-X capability identifier, and its enable bit in the upper byte of message control (PCI 3.0 §6.8.2).
const MSIX: u8 = 0x11;
const MSIX_ENABLE: u8 = 0x80;

/// Remembers which messages were sent.
#[derive(Clone, Debug, Default)]
pub struct FakeLines(Arc<Mutex<Vec<u16>>>);

impl FakeLines {
    /// The vectors of messages since this was last asked.
    #[must_use]
    pub fn take(&self) -> Vec<u16> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl MessageLines for FakeLines {
    fn route(&self, _vector: u16, _message: Option<Message>) {}

    fn signal(&self, vector: u16) {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.push(vector);
    }
}

/// A device, its function, and a driver.
pub struct PciGuest {
    /// The function.
    pub transport: Arc<PciTransport>,
    /// Where its messages go.
    pub lines: FakeLines,
    workers: Arc<InlineLoop>,
    memory: Arc<GuestMemory>,
    queues: Vec<FakeDriver>,
    vectors: u16,
}

impl PciGuest {
    fn write<const N: usize>(&self, offset: u64, value: u64) {
        self.transport.write_bar(offset, &value.to_le_bytes()[..N]);
    }

    fn read<const N: usize>(&self, offset: u64) -> u64 {
        let mut data = [0; 8];
        self.transport.read_bar(offset, &mut data[..N]);
        u64::from_le_bytes(data)
    }

    fn config_byte(&self, offset: u16) -> u8 {
        let mut byte = [0];
        self.transport.read_config(offset, &mut byte);
        byte[0]
    }

    /// Where the MSI-X capability lies.
    fn msix(&self) -> u16 {
        let mut at = u16::from(self.config_byte(0x34));
        while at != 0 && self.config_byte(at) != MSIX {
            at = self.config_byte(at + 1).into();
        }
        at
    }

    /// A message for each vector.
    fn enable_msix(&self) {
        for vector in 0..u64::from(self.vectors) {
            let entry = MSIX_TABLE + 16 * vector;
            for (field, word) in [(0, 0xfee0_0000), (4, 0), (8, 0x40 + vector), (12, 0)] {
                self.write::<4>(entry + field, word);
            }
        }
        self.transport
            .write_config(self.msix() + 2, &[0, MSIX_ENABLE]);
    }
}

impl Guest for PciGuest {
    type State = PciState;

    fn with_memory(device: Box<dyn VirtioDevice>, memory: Arc<GuestMemory>) -> Self {
        let (lines, workers) = (FakeLines::default(), Arc::new(InlineLoop::default()));
        let place = PciPlacement {
            id: WorkerId(3),
            bar: BAR,
            lines: Box::new(lines.clone()),
            doorbells: Box::new(()),
            kick: EventFd::new(EFD_NONBLOCK).expect("the host has an eventfd"),
        };
        let vectors = crate::virtio::transport::pci::vectors(&device.traits());
        let loops = Arc::clone(&workers) as Arc<dyn WorkerLoop>;
        let guest = Self {
            transport: Arc::new(PciTransport::new(place, device, Arc::clone(&memory), loops)),
            lines,
            workers,
            memory,
            queues: Vec::new(),
            vectors,
        };
        guest.prepare();
        guest
    }

    fn slot(&self) -> &Slot {
        self.transport.slot()
    }

    fn workers(&self) -> &InlineLoop {
        &self.workers
    }

    fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    fn queues(&mut self) -> &mut Vec<FakeDriver> {
        &mut self.queues
    }

    /// Each structure with its edges (see `transport/pci/caps.rs`), and all of configuration space that holds something.
    fn places(&self) -> Vec<Place> {
        let window = (0..0x48)
            .chain(0x1ffe..0x2004)
            .chain(0x3ffc..0x4048)
            .chain(0x4ffc..0x5002)
            .chain(0x5ff8..0x6010)
            .chain(0x6ff8..0x7004)
            .chain(0x7ff8..0x8000 + 16 * u64::from(self.vectors) + 4)
            .chain(0x4_7ff0..0x4_8010)
            .chain([BAR_LEN - 1, BAR_LEN, u64::MAX])
            .map(Place::Window);
        let space = (0..0x110).chain(0xff0..0x1000).map(Place::Configuration);
        window.chain(space).collect()
    }

    fn read_at(&self, place: Place, data: &mut [u8]) {
        match place {
            Place::Window(offset) => self.transport.read_bar(offset, data),
            Place::Configuration(offset) => self.transport.read_config(offset, data),
        }
    }

    fn write_at(&self, place: Place, data: &[u8]) {
        match place {
            Place::Window(offset) => self.transport.write_bar(offset, data),
            Place::Configuration(offset) => self.transport.write_config(offset, data),
        }
    }

    /// The window at its place and open, a message for each vector.
    fn prepare(&self) {
        self.transport
            .write_config(0x10, &BAR.address.to_le_bytes());
        self.transport.write_config(4, &[6, 0]);
        self.enable_msix();
    }

    fn status(&self) -> u32 {
        u32::try_from(self.read::<1>(STATUS)).expect("a byte")
    }

    fn set_status(&self, status: u32) {
        self.write::<1>(STATUS, status.into());
    }

    fn accept(&self, features: u64) {
        for (word, bits) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.write::<4>(DRIVER_FEATURE_SELECT, word);
            self.write::<4>(DRIVER_FEATURE, bits);
        }
        self.write::<2>(CONFIG_VECTOR, 0);
    }

    fn max_size(&self, queue: u16) -> u16 {
        self.write::<2>(QUEUE_SELECT, queue.into());
        u16::try_from(self.read::<2>(QUEUE_SIZE)).expect("two bytes")
    }

    fn enable(&self, queue: u16, state: &QueueState) {
        self.write::<2>(QUEUE_SELECT, queue.into());
        self.write::<2>(QUEUE_SIZE, state.size.into());
        self.write::<2>(QUEUE_VECTOR, u64::from(queue) + 1);
        let addresses = [
            state.descriptor_table,
            state.available_ring,
            state.used_ring,
        ];
        for (register, address) in QUEUE_ADDRESSES.into_iter().zip(addresses) {
            self.write::<8>(register, address);
        }
        self.write::<2>(QUEUE_ENABLE, 1);
    }

    fn notify(&self, queue: u16) {
        self.write::<2>(notify_offset(queue), queue.into());
    }

    fn state(&self) -> Option<PciState> {
        self.transport.state()
    }

    fn restore(&self, state: PciState) -> Result<(), RestoreError> {
        self.transport.restore(state)
    }
}
