//! Interrupts by MSI-X: a vector a queue, as the driver maps them, and one for the configuration
//! (virtio 1.2 §4.1.5.1.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use virtio_bindings::virtio_mmio::VIRTIO_MMIO_INT_VRING;

use crate::pci::Msix;
use crate::virtio::Interrupt;
use crate::virtio::transport::interrupt::{Causes, SlotInterrupt};

/// Maps no vector (§4.1.4.3).
const VIRTIO_MSI_NO_VECTOR: u16 = 0xffff;

/// The vectors as the driver mapped them, and the table behind.
pub(super) struct MessageInterrupt {
    msix: Arc<Msix>,
    pub(super) causes: Causes,
    config: AtomicU16,
    queues: Box<[AtomicU16]>,
    /// A message may have been lost with the machine that was saved.
    is_restored: AtomicBool,
}

impl MessageInterrupt {
    pub(super) fn new(msix: Arc<Msix>, queues: usize) -> Self {
        let unmapped = || AtomicU16::new(VIRTIO_MSI_NO_VECTOR);
        Self {
            msix,
            causes: Causes::default(),
            config: unmapped(),
            queues: (0..queues).map(|_| unmapped()).collect(),
            is_restored: AtomicBool::new(false),
        }
    }

    /// The ISR status, which reading clears (§4.1.4.5).
    pub(super) fn take_status(&self) -> u8 {
        let [status, ..] = self.causes.take_status().to_le_bytes();
        status
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.config.load(Ordering::Acquire)
    }

    pub(super) fn set_config_vector(&self, vector: u16) {
        self.config.store(self.existing(vector), Ordering::Release);
    }

    /// Of a queue that does not exist: none.
    pub(super) fn queue_vector(&self, queue: u32) -> u16 {
        let mapped = self.mapped(queue);
        mapped.map_or(VIRTIO_MSI_NO_VECTOR, |vector| {
            vector.load(Ordering::Acquire)
        })
    }

    pub(super) fn set_queue_vector(&self, queue: u32, vector: u16) {
        if let Some(mapped) = self.mapped(queue) {
            mapped.store(self.existing(vector), Ordering::Release);
        }
    }

    /// Vectors of the configuration and of all queues, to be saved.
    pub(super) fn vectors(&self) -> Vec<u16> {
        let all = std::iter::once(&self.config).chain(&self.queues);
        all.map(|vector| vector.load(Ordering::Acquire)).collect()
    }

    /// Adopts what [`MessageInterrupt::vectors`] gave.
    pub(super) fn restore(&self, vectors: &[u16]) {
        let all = std::iter::once(&self.config).chain(&self.queues);
        for (mapped, vector) in all.zip(vectors) {
            mapped.store(self.existing(*vector), Ordering::Release);
        }
        self.is_restored.store(true, Ordering::Release);
    }

    fn mapped(&self, queue: u32) -> Option<&AtomicU16> {
        self.queues.get(usize::try_from(queue).ok()?)
    }

    /// A vector that does not exist cannot be mapped; the driver reads that back (§4.1.5.1.2.1).
    fn existing(&self, vector: u16) -> u16 {
        if self.msix.has(vector) {
            vector
        } else {
            VIRTIO_MSI_NO_VECTOR
        }
    }
}

impl Interrupt for MessageInterrupt {
    fn queue(&self, queue: u16) {
        // The vector says enough; only a driver that polls without MSI-X looks at the status.
        if !self.msix.is_enabled() {
            self.causes.note(VIRTIO_MMIO_INT_VRING);
        }
        self.msix.trigger(self.queue_vector(queue.into()));
    }

    fn config(&self) {
        self.causes.note_config_change();
        self.msix.trigger(self.config_vector());
    }

    fn needs_reset(&self) {
        self.causes.note_needs_reset();
        self.msix.trigger(self.config_vector());
    }
}

impl SlotInterrupt for MessageInterrupt {
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
        self.set_config_vector(VIRTIO_MSI_NO_VECTOR);
        for queue in &self.queues {
            queue.store(VIRTIO_MSI_NO_VECTOR, Ordering::Release);
        }
    }

    fn repeat(&self) {
        if self.is_restored.swap(false, Ordering::AcqRel) {
            self.msix.repeat();
        }
    }
}
