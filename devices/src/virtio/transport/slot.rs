//! A device in its slot: what every transport has besides its own registers.
//!
//! ```text
//!            DRIVER_OK                    park
//!   Idle -----> (Moving) -----> Running -------> Parked
//!     ^                            |    <-------    |
//!     +------- (Moving) <----------+     unpark     |  reset
//!     +---------------------------------------------+
//! ```
//!
//! Starting and stopping call the device and the event loop, so they happen with the lock released and the
//! slot marked `Moving`. Meanwhile other vCPUs read the registers as they were before, and what they write is
//! ignored. A reset has happened when the write that asked for it returns.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use vmm_sys_util::eventfd::EventFd;

use super::interrupt::SlotInterrupt;
use super::negotiation::{Negotiation, Step};
use crate::GuestMemory;
use crate::virtio::queue::{Queue, QueueState};
use crate::virtio::{
    ActivateError, Activation, Interrupt, QueueError, Source, Token, Traits, VirtioDevice, Worker,
    WorkerId, WorkerLoop,
};

/// A device, its negotiation, its queues, and the way to the event loop: the handle by which the machine
/// pauses, resumes and changes a device, whatever transport it is on.
///
/// * **Pause**, with no vCPU running. The thread that owns the event loop takes the worker off its own table,
///   calls [`Worker::stop`] and hands the queues to [`Slot::park`]. Any other thread calls [`Slot::pause`],
///   which asks the loop and waits.
/// * **Save**, by the transport, while it is paused or not started.
/// * **Resume**, before the first vCPU runs. The loop's thread calls [`Slot::unpark`] and puts the worker in
///   its table; any other calls [`Slot::resume`].
pub struct Slot {
    // Fixed configuration.
    id: WorkerId,
    traits: Traits,
    // Runtime glue.
    memory: Arc<GuestMemory>,
    kick: EventFd,
    workers: Arc<dyn WorkerLoop>,
    /// The log has it that the host refused the device.
    has_warned: AtomicBool,
    interrupt: Arc<dyn SlotInterrupt>,
    registers: Mutex<Registers>,
}

/// What the lock guards, for one access at a time.
pub(super) struct Registers {
    phase: Phase,
    /// Absent while it is being started or reset.
    device: Option<Box<dyn VirtioDevice>>,
    /// The configuration space as it was when the device left to be started or reset.
    config: Vec<u8>,
    // Guest-visible state.
    pub(super) negotiation: Negotiation,
    pub(super) queues: Vec<QueueState>,
    pub(super) selected_queue: u32,
}

/// How far a driver came with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The status register as the driver reads it (virtio 1.2 §2.1).
    pub status: u32,
    /// Queues of the device.
    pub queues: usize,
    /// Those that the driver enabled.
    pub ready_queues: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Moving,
    Running,
    Parked,
}

impl Slot {
    pub(super) fn new(
        id: WorkerId,
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        interrupt: Arc<dyn SlotInterrupt>,
        kick: EventFd,
        workers: Arc<dyn WorkerLoop>,
    ) -> Self {
        let traits = device.traits();
        let registers = Registers {
            phase: Phase::Idle,
            device: Some(device),
            config: Vec::new(),
            negotiation: Negotiation::default(),
            queues: fresh_queues(&traits),
            selected_queue: 0,
        };
        Self {
            id,
            traits,
            memory,
            kick,
            workers,
            has_warned: AtomicBool::new(false),
            interrupt,
            registers: Mutex::new(registers),
        }
    }

    /// The worker's place on the loop.
    #[must_use]
    pub fn id(&self) -> WorkerId {
        self.id
    }

    /// Has `tell` called, on any thread, whenever the device gives up and waits for a reset. It must not wait.
    pub fn on_needs_reset(&self, tell: Box<dyn Fn() + Send + Sync>) {
        self.interrupt.on_needs_reset(tell);
    }

    /// Takes the queues of a worker that the caller took off the loop and stopped. Nothing changes when the
    /// driver has not started the device.
    pub fn park(&self, queues: &[Queue]) {
        let mut registers = self.lock();
        if registers.phase != Phase::Running {
            return;
        }
        for (kept, queue) in registers.queues.iter_mut().zip(queues) {
            *kept = queue.state();
        }
        registers.phase = Phase::Parked;
    }

    /// The worker that goes on where [`Slot::park`] left off; the caller puts it on the loop. `None` when
    /// none was running, or when the device cannot start any more; the driver is then told to reset it.
    pub fn unpark(&self) -> Option<Box<dyn Worker>> {
        let worker = self.reactivate();
        self.interrupt.repeat();
        worker
    }

    /// Stops the worker and keeps its queues. Waits for the event loop, so its own thread uses
    /// [`Slot::park`].
    pub fn pause(&self) {
        self.park(&self.workers.stop(self.id));
    }

    /// Goes on after [`Slot::pause`].
    pub fn resume(&self) {
        if let Some(worker) = self.unpark() {
            self.workers.start(self.id, worker);
        }
    }

    /// Lets `change` have the device, while it is paused or not started; a worker made later has the change.
    /// Says what `change` said, or `None` while the device runs.
    pub fn change<R>(&self, change: impl FnOnce(&mut dyn VirtioDevice) -> R) -> Option<R> {
        let mut registers = self.saved()?;
        let device = registers.device.as_mut()?;
        Some(change(device.as_mut()))
    }

    /// Lets `look` see the device, whether a worker runs it or not. `None` while it is being started or reset.
    pub fn look<R>(&self, look: impl FnOnce(&dyn VirtioDevice) -> R) -> Option<R> {
        self.lock().device.as_deref().map(look)
    }

    /// A driver runs the device, or will when the machine goes on.
    #[must_use]
    pub fn has_driver(&self) -> bool {
        self.lock().negotiation.is_driver_ok()
    }

    /// A driver has found the device and not given it back by a reset (virtio 1.2 §2.1).
    #[must_use]
    pub fn is_claimed(&self) -> bool {
        self.lock().negotiation.has_driver()
    }

    /// How far a driver came.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let status = self.status();
        let registers = self.lock();
        Progress {
            status,
            queues: registers.queues.len(),
            ready_queues: registers
                .queues
                .iter()
                .filter(|queue| queue.is_ready)
                .count(),
        }
    }

    /// The virtio device type (virtio 1.2 §5).
    #[must_use]
    pub fn device_type(&self) -> u32 {
        self.traits.device_type
    }

    /// Tells the driver that the configuration space changed (virtio 1.2 §2.5): with an interrupt if it has
    /// started the device (§2.1.2), else by the generation alone.
    pub fn notify_config_change(&self) {
        if self.lock().negotiation.is_driver_ok() {
            self.interrupt.config();
        } else {
            self.interrupt.next_generation();
        }
    }

    pub(super) fn traits(&self) -> &Traits {
        &self.traits
    }

    /// The registers, for one access. A panic elsewhere does not make plain values wrong.
    pub(super) fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The status register as the driver reads it.
    pub(super) fn status(&self) -> u32 {
        let status = self.lock().negotiation.status();
        if self.interrupt.is_reset_needed() {
            status | VIRTIO_CONFIG_S_NEEDS_RESET
        } else {
            status
        }
    }

    /// A write to the status register, with all that follows from it.
    pub(super) fn set_status(&self, status: u32) {
        let mut registers = self.lock();
        if registers.phase == Phase::Moving {
            return;
        }
        // The driver writes back what it read; this bit is ours.
        let status = status & !VIRTIO_CONFIG_S_NEEDS_RESET;
        let step = registers
            .negotiation
            .set_status(status, self.traits.features);
        match step {
            Step::Stay => {}
            Step::Start => {
                self.start(registers);
            }
            Step::Reset => self.reset(registers),
        }
    }

    /// A notification that no ioeventfd caught.
    pub(super) fn notify(&self) {
        if self.lock().negotiation.is_driver_ok() {
            // Fails only when the counter is full, that is, when a kick is pending.
            let _ = self.kick.write(1);
        }
    }

    /// The worker of a parked device, started again.
    fn reactivate(&self) -> Option<Box<dyn Worker>> {
        let mut registers = self.lock();
        if registers.phase != Phase::Parked {
            return None;
        }
        if self.interrupt.is_reset_needed() {
            registers.phase = Phase::Running;
            return None;
        }
        let worker = self.activate(registers);
        self.lock().phase = Phase::Running;
        worker
    }

    /// The registers for a snapshot; `None` while a worker holds the queues.
    pub(super) fn saved(&self) -> Option<MutexGuard<'_, Registers>> {
        let registers = self.lock();
        matches!(registers.phase, Phase::Idle | Phase::Parked).then_some(registers)
    }

    /// Adopts saved registers. False, and nothing changed, when they cannot be this device's.
    pub(super) fn restore(
        &self,
        negotiation: Negotiation,
        queues: Vec<QueueState>,
        selected_queue: u32,
    ) -> bool {
        let mut registers = self.lock();
        let is_ours = negotiation.is_possible(self.traits.features)
            && queues.len() == self.traits.queue_sizes.len()
            && queues
                .iter()
                .zip(&self.traits.queue_sizes)
                .all(|(queue, max)| queue.size <= *max);
        if !is_ours || registers.phase != Phase::Idle {
            return false;
        }
        if negotiation.is_driver_ok() {
            registers.phase = Phase::Parked;
        }
        registers.negotiation = negotiation;
        registers.queues = queues;
        registers.selected_queue = selected_queue;
        true
    }

    fn start(&self, registers: MutexGuard<'_, Registers>) {
        if let Some(worker) = self.activate(registers) {
            self.workers.start(self.id, worker);
        }
        // Only now may another vCPU reset it: the loop knows the worker.
        self.lock().phase = Phase::Running;
    }

    /// Starts the device with the lock released. The slot is left `Moving`.
    fn activate(&self, mut registers: MutexGuard<'_, Registers>) -> Option<Box<dyn Worker>> {
        registers.phase = Phase::Moving;
        let mut device = registers.device.take()?;
        device.refresh_config();
        registers.config = device.config_space().to_vec();
        let features = registers.negotiation.features();
        let queues = registers.queues.clone();
        drop(registers);

        let started = self
            .activation(features, &queues)
            .and_then(|activation| device.activate(activation));
        self.lock().device = Some(device);
        match started {
            Ok(worker) => Some(Box::new(Watched {
                worker,
                interrupt: Arc::clone(&self.interrupt),
            })),
            Err(error) => {
                self.log(&error);
                self.interrupt.needs_reset();
                None
            }
        }
    }

    fn activation(
        &self,
        features: u64,
        queues: &[QueueState],
    ) -> Result<Activation, ActivateError> {
        let queues = queues
            .iter()
            .map(|state| Queue::new(Arc::clone(&self.memory), *state, features))
            .collect::<Result<_, _>>()
            .map_err(|error| ActivateError {
                what: "the driver's queues",
                source: std::io::Error::other(error),
            })?;
        let kick = self.kick.try_clone().map_err(|source| ActivateError {
            what: "a copy of the kick event",
            source,
        })?;
        Ok(Activation {
            memory: Arc::clone(&self.memory),
            features,
            queues,
            kick,
            interrupt: Arc::clone(&self.interrupt) as Arc<dyn Interrupt>,
        })
    }

    /// A host that refuses is news, once: the driver can start the device again and again. Rings that a driver got
    /// wrong are none.
    fn log(&self, error: &ActivateError) {
        let id = self.id.0;
        let source = error.source.get_ref();
        if source.is_some_and(|source| source.is::<QueueError>()) {
            tracing::trace!("device {id} needs a reset: {error}: {}", error.source);
        } else if !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!("device {id} needs a reset: {error}: {}", error.source);
        }
    }

    /// Back to the state at power-on (virtio 1.2 §2.4).
    fn reset<'a>(&'a self, mut registers: MutexGuard<'a, Registers>) {
        let is_running = registers.phase == Phase::Running;
        registers.phase = Phase::Moving;
        let mut device = registers.device.take();
        registers.config = match &mut device {
            Some(device) => {
                device.refresh_config();
                device.config_space().to_vec()
            }
            None => Vec::new(),
        };
        drop(registers);
        if is_running {
            drop(self.workers.stop(self.id));
        }
        let device = device.map(|mut device| {
            device.reset();
            device
        });
        registers = self.lock();
        registers.device = device;
        registers.phase = Phase::Idle;
        registers.negotiation = Negotiation::default();
        registers.queues = fresh_queues(&self.traits);
        registers.selected_queue = 0;
        self.interrupt.reset();
    }
}

impl Registers {
    /// The selected queue, and its greatest size.
    pub(super) fn queue<'a>(&'a mut self, traits: &Traits) -> Option<(&'a mut QueueState, u16)> {
        let index = usize::try_from(self.selected_queue).ok()?;
        let max = *traits.queue_sizes.get(index)?;
        Some((self.queues.get_mut(index)?, max))
    }

    /// The configuration space from `offset` on; bytes beyond its end read as 0.
    pub(super) fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        let space = match &mut self.device {
            Some(device) => {
                device.refresh_config();
                device.config_space()
            }
            None => &self.config,
        };
        for (byte, source) in data.iter_mut().zip(space.iter().skip(offset)) {
            *byte = *source;
        }
    }

    /// Passes on what lies inside the configuration space.
    pub(super) fn write_config(&mut self, offset: usize, data: &[u8]) {
        if !self.negotiation.has_driver() {
            return;
        }
        if let Some(device) = &mut self.device {
            let room = device.config_space().len().saturating_sub(offset);
            let inside = data.get(..room.min(data.len())).unwrap_or_default();
            if !inside.is_empty() {
                device.write_config(offset, inside);
            }
        }
    }
}

/// A worker whose broken rings reach the driver, whoever stops it.
struct Watched {
    worker: Box<dyn Worker>,
    interrupt: Arc<dyn SlotInterrupt>,
}

impl Worker for Watched {
    fn sources(&self) -> Vec<Source> {
        self.worker.sources()
    }

    fn on_event(&mut self, token: Token) -> Result<(), QueueError> {
        self.worker
            .on_event(token)
            .inspect_err(|_| self.interrupt.needs_reset())
    }

    fn stop(self: Box<Self>) -> Vec<Queue> {
        self.worker.stop()
    }

    fn waits_for_others(&self) -> bool {
        self.worker.waits_for_others()
    }
}

/// Queues as they are at reset: of the greatest size, and not ready.
fn fresh_queues(traits: &Traits) -> Vec<QueueState> {
    let fresh = |&size: &u16| QueueState {
        size,
        ..QueueState::default()
    };
    traits.queue_sizes.iter().map(fresh).collect()
}
