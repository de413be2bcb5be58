//! The interrupt side of a transport with one wired line and an interrupt status register.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};

use crate::irq::IrqLine;
use crate::virtio::Interrupt;

/// Written by workers on the event loop, read and acknowledged by vCPUs; no lock.
pub(super) struct WiredInterrupt {
    line: Box<dyn IrqLine>,
    /// InterruptStatus (virtio 1.2 §4.2.2).
    status: AtomicU32,
    /// ConfigGeneration: changes when the configuration space did (virtio 1.2 §2.5.1).
    generation: AtomicU32,
    needs_reset: AtomicBool,
}

impl WiredInterrupt {
    pub(super) fn new(line: Box<dyn IrqLine>) -> Self {
        Self {
            line,
            status: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
        }
    }

    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    /// The driver handled the causes in `bits`. A cause that arrived since stays and has its own pulse.
    pub(super) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::AcqRel);
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn is_reset_needed(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    pub(super) fn reset(&self) {
        self.status.store(0, Ordering::Release);
        self.needs_reset.store(false, Ordering::Release);
    }

    pub(super) fn restore(&self, status: u32, generation: u32, needs_reset: bool) {
        self.status.store(status, Ordering::Release);
        self.generation.store(generation, Ordering::Release);
        self.needs_reset.store(needs_reset, Ordering::Release);
    }

    /// Pulses the line again when a cause is not acknowledged: the pulse may have been lost with a saved machine.
    pub(super) fn repeat(&self) {
        if self.status() != 0 {
            self.line.raise();
        }
    }

    /// The cause is in the register before the line moves, so the driver finds it.
    fn raise(&self, cause: u32) {
        self.status.fetch_or(cause, Ordering::AcqRel);
        self.line.raise();
    }
}

impl Interrupt for WiredInterrupt {
    fn queue(&self, _queue: u16) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    fn config(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    fn needs_reset(&self) {
        self.needs_reset.store(true, Ordering::Release);
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }
}
