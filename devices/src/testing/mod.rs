//! The other side of every seam, for tests: a driver, an interrupt line, an event loop, guest memory. None of
//! it needs KVM or root.

mod driver;
pub mod guest;
mod host;
mod limits;
mod mmio;
mod pci;
pub mod suite;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use driver::{Buffer, FakeDriver};
pub use guest::{Guest, MEMORY};
pub use host::{engines, unless_forbidden};
pub use limits::FakeLimits;
pub use mmio::FakeGuest;
pub use pci::PciGuest;
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap};

use crate::GuestMemory;
use crate::irq::IrqLine;
use crate::virtio::queue::Queue;
use crate::virtio::{Interrupt, QueueError, Worker, WorkerId, WorkerLoop};

/// Guest memory of `len` bytes from address 0 on.
///
/// # Panics
/// When the host has no memory.
#[must_use]
pub fn guest_memory(len: usize) -> Arc<GuestMemory> {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), len)]);
    Arc::new(memory.expect("the host has memory"))
}

/// The same, of which other processes can have a part.
///
/// # Panics
/// When the host has no memory.
#[must_use]
pub fn shared_memory(len: usize) -> Arc<GuestMemory> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let file = rustix::fs::memfd_create(c"guest-memory", flags).expect("the host has memory");
    let file = std::fs::File::from(file);
    file.set_len(len as u64).expect("the host has memory");
    let file = Some(FileOffset::new(file, 0));
    let region = GuestRegionMmap::from_range(GuestAddress(0), len, file);
    let region = region.expect("the host has memory").into();
    let memory = GuestMemory::from_regions(vec![region]);
    Arc::new(memory.expect("the host has memory"))
}

/// Counts pulses.
#[derive(Clone, Debug, Default)]
pub struct FakeIrq(Arc<AtomicUsize>);

impl FakeIrq {
    /// Pulses since this was last asked.
    #[must_use]
    pub fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl IrqLine for FakeIrq {
    fn raise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts what a device tells its driver.
#[derive(Debug, Default)]
pub struct FakeInterrupt {
    /// Queue interrupts.
    pub queue: AtomicUsize,
    /// Configuration changes.
    pub config: AtomicUsize,
    /// Times the device gave up.
    pub needs_reset: AtomicUsize,
}

impl Interrupt for FakeInterrupt {
    fn queue(&self, _queue: u16) {
        self.queue.fetch_add(1, Ordering::Relaxed);
    }

    fn config(&self) {
        self.config.fetch_add(1, Ordering::Relaxed);
    }

    fn needs_reset(&self) {
        self.needs_reset.fetch_add(1, Ordering::Relaxed);
    }
}

/// An event loop that turns when the test says so.
#[derive(Default)]
pub struct InlineLoop(Mutex<BTreeMap<WorkerId, Box<dyn Worker>>>);

impl InlineLoop {
    /// Shows every worker each of its sources once. A worker that fails is taken off.
    ///
    /// # Errors
    /// The first worker's that failed.
    pub fn turn(&self) -> Result<(), QueueError> {
        let mut workers = self.lock();
        let mut outcome = Ok(());
        workers.retain(|_, worker| {
            let sources = worker.sources();
            let turned = sources
                .iter()
                .try_for_each(|source| worker.on_event(source.token));
            outcome = outcome.and(turned);
            turned.is_ok()
        });
        outcome
    }

    /// How many workers are on the loop.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// No worker is on the loop.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Box<dyn Worker>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WorkerLoop for InlineLoop {
    fn start(&self, id: WorkerId, worker: Box<dyn Worker>) {
        self.lock().insert(id, worker);
    }

    fn stop(&self, id: WorkerId) -> Vec<Queue> {
        let worker = self.lock().remove(&id);
        worker.map(|worker| worker.stop()).unwrap_or_default()
    }
}

/// Keeps what is written to it.
#[derive(Clone, Debug, Default)]
pub struct FakeSink {
    bytes: Arc<Mutex<Vec<u8>>>,
    is_refusing: Arc<AtomicBool>,
}

impl FakeSink {
    /// What was written since this was last asked.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Refuses what is written from now on.
    pub fn refuse(&self) {
        self.is_refusing.store(true, Ordering::Relaxed);
    }
}

impl Write for FakeSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_refusing.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut kept = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        kept.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) use bench::Bench;

/// A worker alone with its driver's queues, for tests that count what it costs.
#[cfg(test)]
mod bench {
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::{Arc, FakeDriver, FakeInterrupt, GuestMemory, Queue, Worker, guest_memory};
    use crate::sys::alloc::allocations;
    use crate::virtio::{Activation, Token, VirtioDevice};

    pub(crate) struct Bench {
        pub(crate) memory: Arc<GuestMemory>,
        pub(crate) drivers: Vec<FakeDriver>,
        worker: Box<dyn Worker>,
    }

    impl Bench {
        /// Starts `device` with `features`, and all its queues at their greatest size.
        pub(crate) fn new(device: &mut dyn VirtioDevice, features: u64) -> Self {
            Self::in_memory(guest_memory(4 << 20), device, features)
        }

        /// The same in 4 MiB of other memory.
        pub(crate) fn in_memory(
            memory: Arc<GuestMemory>,
            device: &mut dyn VirtioDevice,
            features: u64,
        ) -> Self {
            let mut base = 2 << 20;
            let mut drivers = Vec::new();
            for size in device.traits().queue_sizes {
                drivers.push(FakeDriver::new(&memory, base, size));
                base += FakeDriver::footprint(size);
            }
            let queue = |driver: &FakeDriver| {
                Queue::new(Arc::clone(&memory), driver.state(), features).unwrap()
            };
            let activation = Activation {
                memory: Arc::clone(&memory),
                features,
                queues: drivers.iter().map(queue).collect(),
                kick: EventFd::new(EFD_NONBLOCK).unwrap(),
                interrupt: Arc::new(FakeInterrupt::default()),
            };
            let worker = device.activate(activation).unwrap();
            Self {
                memory,
                drivers,
                worker,
            }
        }

        /// Shows the worker an event.
        pub(crate) fn show(&mut self, token: Token) {
            self.worker.on_event(token).unwrap();
        }

        /// Shows the worker an event, and says how often it allocated.
        pub(crate) fn allocations_of(&mut self, token: u32) -> u64 {
            let before = allocations();
            self.show(Token(token));
            allocations() - before
        }
    }
}
