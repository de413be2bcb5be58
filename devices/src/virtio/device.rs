//! What a virtio device is: the contract between a device, its transport and the event loop.
//!
//! ```text
//!  VirtioDevice --activate(Activation: queues, memory)--> Worker  on an event loop
//!       ^                                                   |
//!       +------------- stop() gives the queues back --------+
//! ```
//!
//! A device that is not running is configuration; a device that is running is a worker that owns its
//! queues. Moving the queues in and out is the only way to start, pause, reset or save.

use std::any::Any;
use std::os::fd::RawFd;
use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::queue::Queue;
use crate::GuestMemory;
use crate::metrics::Group;

/// What does not change during a device's life.
#[derive(Clone, Debug)]
pub struct Traits {
    /// Virtio device type (virtio 1.2 §5).
    pub device_type: u32,
    /// Feature bits offered, `VIRTIO_F_VERSION_1` included.
    pub features: u64,
    /// Maximum size of each queue, entries, a power of two (virtio 1.2 §2.7).
    pub queue_sizes: Vec<u16>,
}

/// Everything a device gets when the driver sets DRIVER_OK.
pub struct Activation {
    /// Guest memory.
    pub memory: Arc<GuestMemory>,
    /// Features that both sides accepted.
    pub features: u64,
    /// The queues, in order; one that the driver did not enable is not ready.
    pub queues: Vec<Queue>,
    /// Readable after the driver kicked any queue of this device.
    pub kick: EventFd,
    /// Tells the driver of used buffers and of configuration changes.
    pub interrupt: Arc<dyn Interrupt>,
}

/// The way from a device to its driver; each transport has its own.
pub trait Interrupt: Send + Sync {
    /// Buffers of `queue` were used (virtio 1.2 §2.7.7). The caller has already asked the queue whether
    /// the driver wants to know.
    fn queue(&self, queue: u16);
    /// The configuration space changed.
    fn config(&self);
    /// The device gave up: sets DEVICE_NEEDS_RESET (virtio 1.2 §2.1.1).
    fn needs_reset(&self);
}

/// A virtio device with no queue running: what it is, and how to start it.
pub trait VirtioDevice: Any + Send {
    /// Device type, offered features, queue sizes. Constant for the device's life.
    fn traits(&self) -> Traits;
    /// What it counts; the same group all its life.
    fn counters(&self) -> Arc<dyn Group>;
    /// Device-specific configuration space, little-endian (virtio 1.2 §2.5).
    fn config_space(&self) -> &[u8];
    /// The configuration space is about to be read: takes over what the worker changed in it. Most workers change
    /// nothing.
    fn refresh_config(&mut self) {}
    /// The driver set DRIVER_OK: moves memory, interrupts and queues into a worker.
    ///
    /// # Errors
    /// When the host refuses what the device needs; the transport then sets DEVICE_NEEDS_RESET.
    fn activate(&mut self, with: Activation) -> Result<Box<dyn Worker>, ActivateError>;
    /// The driver reset the device: what a worker left behind for the next one belongs to nobody now. Called with
    /// no worker running; most leave nothing.
    fn reset(&mut self) {}
    /// Most devices have no writable field.
    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}
}

/// What a change to a device that stands still did, as far as its driver can see.
#[derive(Debug)]
pub enum Changed<R> {
    /// Nothing of it.
    Inside(R),
    /// The configuration space is another, and the driver is to be told (virtio 1.2 §2.5).
    Configuration(R),
}

/// Which of a worker's sources is ready; the worker chose the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub u32);

/// A file descriptor that wakes a worker. Watched edge-triggered: the worker drains it.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Owned by the worker, open as long as the worker lives.
    pub fd: RawFd,
    /// Handed back in [`Worker::on_event`].
    pub token: Token,
    /// Readable, writable, or both.
    pub events: EventSet,
}

/// The running half. Owns its queues, lives on one event loop thread, takes no lock.
pub trait Worker: Send {
    /// What wakes this worker; asked once, when it starts.
    fn sources(&self) -> Vec<Source>;
    /// Handles one kick or one ready file descriptor. Bounded: a worker with more to do writes its own
    /// kick and returns, so that its neighbours on the loop get their turn.
    ///
    /// # Errors
    /// When the driver broke the rings; the loop stops the worker and the device needs a reset.
    fn on_event(&mut self, token: Token) -> Result<(), QueueError>;
    /// Drains what is in flight, returns the queues: for pause, reset and snapshot.
    fn stop(self: Box<Self>) -> Vec<Queue>;
    /// Whether stopping waits for another process, which may be silent. Then a vCPU that resets the device does the
    /// waiting, and the loop goes on.
    fn waits_for_others(&self) -> bool {
        false
    }
}

/// A worker's place on the loop; each transport gets one for life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u16);

/// The event loop, as transports see it. Called from vCPU threads with no lock held.
pub trait WorkerLoop: Send + Sync {
    /// Hands a worker to the loop; it starts with a look at every source.
    fn start(&self, id: WorkerId, worker: Box<dyn Worker>);
    /// Takes a worker off the loop and waits for its queues. Empty when none runs under `id`.
    fn stop(&self, id: WorkerId) -> Vec<Queue>;
}

/// The host refused what a device needs to run.
#[derive(Debug, thiserror::Error)]
#[error("cannot start virtio device: {what}")]
pub struct ActivateError {
    /// What was refused.
    pub what: &'static str,
    /// The host's answer.
    pub source: std::io::Error,
}

/// The driver's rings make no sense; nothing in them can be trusted until a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The available index moved more than the queue's size (virtio 1.2 §2.7.6).
    #[error("available ring index ran away")]
    AvailableIndex,
    /// The available ring names a descriptor beyond the table.
    #[error("available ring names a descriptor that does not exist")]
    Head,
    /// A size that is no power of two in 1..=32768 (virtio 1.2 §2.7).
    #[error("impossible queue size")]
    Size,
    /// A ring that is not aligned (virtio 1.2 §2.7).
    #[error("ring not aligned")]
    Alignment,
    /// A ring lies outside guest memory.
    #[error("ring outside guest memory")]
    OutsideMemory,
    /// The host's kernel serves the ring, and says that it makes no sense.
    #[error("ring that the host's kernel cannot follow")]
    Host,
}
