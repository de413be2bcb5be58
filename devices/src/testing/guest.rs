//! A guest with one device in it, whatever transport the device is on.

use std::fmt::Debug;
use std::sync::Arc;

use super::{FakeDriver, InlineLoop, shared_memory};
use crate::GuestMemory;
use crate::virtio::queue::QueueState;
use crate::virtio::transport::{RestoreError, Slot};
use crate::virtio::{QueueError, VirtioDevice};

/// Guest memory in bytes; queues lie in its upper half.
pub const MEMORY: usize = 4 << 20;
/// Where queues begin.
pub const QUEUES_AT: u64 = 2 << 20;

/// Features a driver must accept.
const VERSION_1: u64 = 1 << 32;

// Device status (virtio 1.2 §2.1).
const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 3;
const FEATURES_OK: u32 = 11;
/// The device runs.
pub const RUNNING: u32 = 15;
/// The device gave up.
pub const NEEDS_RESET: u32 = 0x40;

/// Where a driver's access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into the transport's window.
    Window(u64),
    /// Into PCI configuration space; nowhere on a transport without one.
    Configuration(u16),
}

/// A driver's view of a transport, and the test's of what is behind it.
pub trait Guest: Sized {
    /// What the transport saves.
    type State: Clone + Debug + PartialEq;

    /// A guest whose driver has not touched the device, in memory that may already hold something.
    fn with_memory(device: Box<dyn VirtioDevice>, memory: Arc<GuestMemory>) -> Self;
    /// The device behind the transport.
    fn slot(&self) -> &Slot;
    /// The loop on which the device runs.
    fn workers(&self) -> &InlineLoop;
    /// Guest memory: the lower 2 MiB are the test's.
    fn memory(&self) -> &Arc<GuestMemory>;
    /// The queues, once the driver set them up.
    fn queues(&mut self) -> &mut Vec<FakeDriver>;

    /// Places at which something is, and some beside.
    fn places(&self) -> Vec<Place>;
    /// Reads 1 to 8 bytes.
    fn read_at(&self, place: Place, data: &mut [u8]);
    /// Writes 1 to 8 bytes.
    fn write_at(&self, place: Place, data: &[u8]);

    /// Puts right what a driver finds set up when it first looks.
    fn prepare(&self);
    /// The device status.
    fn status(&self) -> u32;
    /// Writes the device status.
    fn set_status(&self, status: u32);
    /// Writes the features that the driver accepts.
    fn accept(&self, features: u64);
    /// The greatest size of a queue; 0 for one that does not exist.
    fn max_size(&self, queue: u16) -> u16;
    /// Tells the device of a queue and enables it.
    fn enable(&self, queue: u16, state: &QueueState);
    /// Kicks the device.
    fn notify(&self, queue: u16);

    /// What the transport would save.
    fn state(&self) -> Option<Self::State>;
    /// Adopts what another transport saved.
    ///
    /// # Errors
    /// When it does not fit.
    fn restore(&self, state: Self::State) -> Result<(), RestoreError>;

    /// A guest whose driver has not touched the device.
    #[must_use]
    fn new(device: Box<dyn VirtioDevice>) -> Self {
        Self::with_memory(device, shared_memory(MEMORY))
    }

    /// A guest whose driver runs the device with `features` and `VERSION_1`.
    #[must_use]
    fn running(device: Box<dyn VirtioDevice>, features: u64) -> Self {
        let mut guest = Self::new(device);
        guest.start(features);
        guest
    }

    /// Does all that a driver does to start the device (virtio 1.2 §3.1.1).
    fn start(&mut self, features: u64) {
        self.prepare();
        self.negotiate(features);
        self.set_up_queues_of(u16::MAX);
        self.set_status(RUNNING);
    }

    /// Status up to FEATURES_OK.
    fn negotiate(&self, features: u64) {
        self.set_status(ACKNOWLEDGE);
        self.set_status(DRIVER);
        self.accept(features | VERSION_1);
        self.set_status(FEATURES_OK);
    }

    /// Lays out every queue the device has, at `size` if it takes that many.
    fn set_up_queues_of(&mut self, size: u16) {
        self.queues().clear();
        let mut base = QUEUES_AT;
        for queue in 0.. {
            let max = self.max_size(queue);
            if max == 0 {
                return;
            }
            let size = max.min(size);
            let mut driver = FakeDriver::new(self.memory(), base, size);
            driver.reset();
            self.enable(queue, &driver.state());
            base += FakeDriver::footprint(size);
            self.queues().push(driver);
        }
    }

    /// Kicks the device and turns the loop once.
    ///
    /// # Errors
    /// When the device gave up.
    fn kick(&self) -> Result<(), QueueError> {
        self.notify(0);
        self.workers().turn()
    }
}
