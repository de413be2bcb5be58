//! A guest with one device in it, on the memory-mapped transport.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::guest::{Guest, MEMORY, Place};
use super::{FakeDriver, FakeIrq, InlineLoop, shared_memory};
use crate::virtio::queue::QueueState;
use crate::virtio::transport::{MmioState, RestoreError, Slot, Transport};
use crate::virtio::{MmioTransport, QueueError, VirtioDevice, WorkerId, WorkerLoop};
use crate::{GuestMemory, Registers};

/// Offset of the status register (virtio 1.2 §4.2.2).
const STATUS: u64 = 0x70;

/// A device, its transport, and a driver.
pub struct FakeGuest {
    /// The window.
    pub transport: Arc<MmioTransport>,
    /// The line of the device.
    pub irq: FakeIrq,
    /// The loop on which the device runs.
    pub workers: Arc<InlineLoop>,
    /// Guest memory: the lower 2 MiB are the test's.
    pub memory: Arc<GuestMemory>,
    /// The queues, once the driver set them up.
    pub queues: Vec<FakeDriver>,
}

impl FakeGuest {
    /// A guest whose driver has not touched the device.
    ///
    /// # Panics
    /// When the host has no eventfd.
    #[must_use]
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        Self::with_memory(device, shared_memory(MEMORY))
    }

    /// The same, in memory that may already hold something.
    ///
    /// # Panics
    /// When the host has no eventfd.
    #[must_use]
    pub fn with_memory(device: Box<dyn VirtioDevice>, memory: Arc<GuestMemory>) -> Self {
        let (irq, workers) = (FakeIrq::default(), Arc::new(InlineLoop::default()));
        let transport = MmioTransport::new(
            WorkerId(7),
            device,
            Arc::clone(&memory),
            Box::new(irq.clone()),
            EventFd::new(EFD_NONBLOCK).expect("the host has an eventfd"),
            Arc::clone(&workers) as Arc<dyn WorkerLoop>,
        );
        Self {
            transport: Arc::new(transport),
            irq,
            workers,
            memory,
            queues: Vec::new(),
        }
    }

    /// A guest whose driver runs the device with `features` and `VERSION_1`.
    #[must_use]
    pub fn running(device: Box<dyn VirtioDevice>, features: u64) -> Self {
        let mut guest = Self::new(device);
        guest.start(features);
        guest
    }

    /// Does all that a driver does to start the device (virtio 1.2 §3.1.1).
    pub fn start(&mut self, features: u64) {
        Guest::start(self, features);
    }

    /// Status up to FEATURES_OK.
    pub fn negotiate(&self, features: u64) {
        Guest::negotiate(self, features);
    }

    /// Lays out every queue the device has, at its greatest size.
    pub fn set_up_queues(&mut self) {
        self.set_up_queues_of(u16::MAX);
    }

    /// Writes a register.
    pub fn write(&self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    /// Reads a register.
    #[must_use]
    pub fn read(&self, register: u64) -> u32 {
        let mut word = [0; 4];
        self.transport.read(register, &mut word);
        u32::from_le_bytes(word)
    }

    /// Kicks the device and turns the loop once.
    ///
    /// # Errors
    /// When the device gave up.
    pub fn kick(&self) -> Result<(), QueueError> {
        self.write(0x50, 0);
        self.workers.turn()
    }

    /// Writes guest memory.
    ///
    /// # Panics
    /// When it is not memory.
    pub fn poke(&self, at: u64, bytes: &[u8]) {
        let written = self.memory.write_slice(bytes, GuestAddress(at));
        written.expect("inside guest memory");
    }

    /// Reads guest memory.
    ///
    /// # Panics
    /// When it is not memory.
    #[must_use]
    pub fn peek(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let read = self.memory.read_slice(&mut bytes, GuestAddress(at));
        read.expect("inside guest memory");
        bytes
    }
}

impl Guest for FakeGuest {
    type State = MmioState;

    fn with_memory(device: Box<dyn VirtioDevice>, memory: Arc<GuestMemory>) -> Self {
        Self::with_memory(device, memory)
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

    fn places(&self) -> Vec<Place> {
        let all = (0..0x140).chain([0xffc, 0xffd, 0xfff, 0x1000, u64::MAX]);
        all.map(Place::Window).collect()
    }

    fn read_at(&self, place: Place, data: &mut [u8]) {
        if let Place::Window(offset) = place {
            self.transport.read(offset, data);
        }
    }

    fn write_at(&self, place: Place, data: &[u8]) {
        if let Place::Window(offset) = place {
            self.transport.write(offset, data);
        }
    }

    /// Nothing: the window is always there.
    fn prepare(&self) {}

    fn status(&self) -> u32 {
        self.read(STATUS)
    }

    fn set_status(&self, status: u32) {
        self.write(STATUS, status);
    }

    fn accept(&self, features: u64) {
        for (word, bits) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.write(0x24, word);
            self.write(0x20, u32::try_from(bits).expect("half a word"));
        }
    }

    fn max_size(&self, queue: u16) -> u16 {
        self.write(0x30, queue.into());
        u16::try_from(self.read(0x34)).expect("a queue size")
    }

    fn enable(&self, queue: u16, state: &QueueState) {
        self.write(0x30, queue.into());
        self.write(0x38, state.size.into());
        for (register, address) in [
            (0x80, state.descriptor_table),
            (0x90, state.available_ring),
            (0xa0, state.used_ring),
        ] {
            for (register, half) in [
                (register, address & 0xffff_ffff),
                (register + 4, address >> 32),
            ] {
                self.write(register, u32::try_from(half).expect("half a word"));
            }
        }
        self.write(0x44, 1);
    }

    fn notify(&self, queue: u16) {
        self.write(0x50, queue.into());
    }

    fn state(&self) -> Option<MmioState> {
        self.transport.state()
    }

    fn restore(&self, state: MmioState) -> Result<(), RestoreError> {
        self.transport.restore(state)
    }
}
