//! The way from a device to its driver: the causes that every transport shows, and the wired line of one.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};

use crate::irq::IrqLine;
use crate::virtio::Interrupt;

/// What a slot asks of the way to its driver, besides what the device asks. Written by workers on the event
/// loop, read and acknowledged by vCPUs; no lock on the way of a queue's interrupt.
pub(super) trait SlotInterrupt: Interrupt {
    /// The device gave up and waits for a reset.
    fn is_reset_needed(&self) -> bool;
    /// What the driver read of the configuration space may be old. It is not interrupted.
    fn next_generation(&self);
    /// Back to the state at power-on.
    fn reset(&self);
    /// Sends again what a saved machine may have lost.
    fn repeat(&self);
    /// Has `tell` called whenever the device gives up. Only the first that asks is told.
    fn on_needs_reset(&self, tell: Box<dyn Fn() + Send + Sync>);
}

/// Why the driver is interrupted, where it can look it up.
#[derive(Default)]
pub(super) struct Causes {
    /// Interrupt status (virtio 1.2 §4.1.4.5, §4.2.2).
    status: AtomicU32,
    /// Configuration generation: changes when the configuration space did (virtio 1.2 §2.5.1).
    generation: AtomicU32,
    needs_reset: AtomicBool,
    /// Who else hears that the device gave up.
    listener: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Causes {
    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    /// The status, which is 0 from now on.
    pub(super) fn take_status(&self) -> u32 {
        self.status.swap(0, Ordering::AcqRel)
    }

    /// The driver handled the causes in `bits`. A cause that arrived since stays and has its own interrupt.
    pub(super) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::AcqRel);
    }

    /// A cause is noted before the interrupt is sent, so the driver finds it.
    pub(super) fn note(&self, cause: u32) {
        self.status.fetch_or(cause, Ordering::AcqRel);
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn note_config_change(&self) {
        self.next_generation();
        self.note(VIRTIO_MMIO_INT_CONFIG);
    }

    /// What the driver read of the configuration space may be old.
    pub(super) fn next_generation(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn is_reset_needed(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    pub(super) fn note_needs_reset(&self) {
        let was_told = self.needs_reset.swap(true, Ordering::AcqRel);
        self.note(VIRTIO_MMIO_INT_CONFIG);
        if let (false, Some(tell)) = (was_told, self.listener.get()) {
            tell();
        }
    }

    pub(super) fn listen(&self, tell: Box<dyn Fn() + Send + Sync>) {
        // One that hears already goes on to.
        let _ = self.listener.set(tell);
    }

    pub(super) fn reset(&self) {
        self.status.store(0, Ordering::Release);
        self.needs_reset.store(false, Ordering::Release);
    }

    pub(super) fn save(&self) -> CausesState {
        CausesState {
            interrupt_status: self.status(),
            config_generation: self.generation(),
            needs_reset: self.is_reset_needed(),
        }
    }

    pub(super) fn restore(&self, state: &CausesState) {
        self.status.store(state.interrupt_status, Ordering::Release);
        self.generation
            .store(state.config_generation, Ordering::Release);
        self.needs_reset.store(state.needs_reset, Ordering::Release);
    }
}

/// Why the driver was interrupted and what it has not heard of yet. Part of each transport's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CausesState {
    interrupt_status: u32,
    config_generation: u32,
    needs_reset: bool,
}

/// One wired line for all causes.
pub(super) struct WiredInterrupt {
    line: Box<dyn IrqLine>,
    pub(super) causes: Causes,
}

impl WiredInterrupt {
    pub(super) fn new(line: Box<dyn IrqLine>) -> Self {
        Self {
            line,
            causes: Causes::default(),
        }
    }
}

impl Interrupt for WiredInterrupt {
    fn queue(&self, _queue: u16) {
        self.causes.note(VIRTIO_MMIO_INT_VRING);
        self.line.raise();
    }

    fn config(&self) {
        self.causes.note_config_change();
        self.line.raise();
    }

    fn needs_reset(&self) {
        self.causes.note_needs_reset();
        self.line.raise();
    }
}

impl SlotInterrupt for WiredInterrupt {
    fn is_reset_needed(&self) -> bool {
        self.causes.is_reset_needed()
    }

    fn next_generation(&self) {
        self.causes.next_generation();
    }

    fn on_needs_reset(&self, tell: Box<dyn Fn() + Send + Sync>) {
        self.causes.listen(tell);
    }

    fn reset(&self) {
        self.causes.reset();
    }

    /// Pulses the line again when a cause is not acknowledged: the pulse may have been lost.
    fn repeat(&self) {
        if self.causes.status() != 0 {
            self.line.raise();
        }
    }
}
