//! The memory-mapped transport, version 2 (virtio 1.2 §4.2).
//!
//! [`MmioTransport`] is the 4 KiB window that vCPUs access.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_mmio as reg;
use vmm_sys_util::eventfd::EventFd;

use super::halves::{set_high, set_low};
use super::interrupt::{Causes, CausesState, WiredInterrupt};
pub use super::negotiation::Negotiation;
use super::slot::Slot;
use super::{RestoreError, Transport};
use crate::irq::IrqLine;
use crate::virtio::queue::QueueState;
use crate::virtio::{VirtioDevice, WorkerId, WorkerLoop};
use crate::{GuestMemory, Registers};

/// Size of the window.
pub const WINDOW_LEN: u64 = 0x1000;

/// Where a write is a kick; an ioeventfd here spares the exit.
pub const QUEUE_NOTIFY: u64 = reg::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// `virt`, little-endian.
const MAGIC: u32 = 0x7472_6976;
/// Not the legacy interface.
const VERSION: u32 = 2;
/// Names no vendor.
const VENDOR: u32 = 0;
/// Length and base of a shared memory region that does not exist (virtio 1.2 §4.2.2).
const NO_SHARED_MEMORY: u32 = u32::MAX;

/// All a driver can observe of the transport. Format `virtio-mmio` v1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MmioState {
    negotiation: Negotiation,
    queues: Vec<QueueState>,
    selected_queue: u32,
    causes: CausesState,
}

/// One virtio device in its window.
pub struct MmioTransport {
    slot: Slot,
    interrupt: Arc<WiredInterrupt>,
}

impl MmioTransport {
    /// Puts `device` behind a window.
    ///
    /// `kick` does not block (`EFD_NONBLOCK`); an ioeventfd at [`QUEUE_NOTIFY`] writes it for every queue.
    /// `irq` is edge-triggered.
    #[must_use]
    pub fn new(
        id: WorkerId,
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        irq: Box<dyn IrqLine>,
        kick: EventFd,
        workers: Arc<dyn WorkerLoop>,
    ) -> Self {
        let interrupt = Arc::new(WiredInterrupt::new(irq));
        let slot = Slot::new(id, device, memory, interrupt.clone(), kick, workers);
        Self { slot, interrupt }
    }

    fn causes(&self) -> &Causes {
        &self.interrupt.causes
    }

    /// The state to save; `None` while the device runs.
    #[must_use]
    pub fn state(&self) -> Option<MmioState> {
        let registers = self.slot.saved()?;
        Some(MmioState {
            negotiation: registers.negotiation,
            queues: registers.queues.clone(),
            selected_queue: registers.selected_queue,
            causes: self.causes().save(),
        })
    }

    /// Adopts a saved state, before the first access. A device that was running is then parked.
    ///
    /// # Errors
    /// When the state cannot be this device's; nothing has changed then.
    pub fn restore(&self, state: MmioState) -> Result<(), RestoreError> {
        if !self
            .slot
            .restore(state.negotiation, state.queues, state.selected_queue)
        {
            return Err(RestoreError);
        }
        self.causes().restore(&state.causes);
        Ok(())
    }

    fn read_register(&self, offset: u32) -> u32 {
        let traits = self.slot.traits();
        match offset {
            reg::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            reg::VIRTIO_MMIO_VERSION => VERSION,
            reg::VIRTIO_MMIO_DEVICE_ID => traits.device_type,
            reg::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            reg::VIRTIO_MMIO_DEVICE_FEATURES => {
                let registers = self.slot.lock();
                registers.negotiation.device_features(traits.features)
            }
            reg::VIRTIO_MMIO_QUEUE_NUM_MAX => {
                let mut registers = self.slot.lock();
                registers.queue(traits).map_or(0, |(_, max)| max.into())
            }
            reg::VIRTIO_MMIO_QUEUE_READY => {
                let mut registers = self.slot.lock();
                let queue = registers.queue(traits);
                queue.map_or(0, |(queue, _)| queue.is_ready.into())
            }
            reg::VIRTIO_MMIO_INTERRUPT_STATUS => self.causes().status(),
            reg::VIRTIO_MMIO_STATUS => self.slot.status(),
            reg::VIRTIO_MMIO_SHM_LEN_LOW
            | reg::VIRTIO_MMIO_SHM_LEN_HIGH
            | reg::VIRTIO_MMIO_SHM_BASE_LOW
            | reg::VIRTIO_MMIO_SHM_BASE_HIGH => NO_SHARED_MEMORY,
            reg::VIRTIO_MMIO_CONFIG_GENERATION => self.causes().generation(),
            _ => 0,
        }
    }

    fn write_register(&self, offset: u32, value: u32) {
        match offset {
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => {
                self.slot.lock().negotiation.select_device_word(value);
            }
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => {
                self.slot.lock().negotiation.select_driver_word(value);
            }
            reg::VIRTIO_MMIO_DRIVER_FEATURES => {
                self.slot.lock().negotiation.set_driver_features(value);
            }
            reg::VIRTIO_MMIO_QUEUE_SEL => self.slot.lock().selected_queue = value,
            reg::VIRTIO_MMIO_QUEUE_NOTIFY => self.slot.notify(),
            reg::VIRTIO_MMIO_INTERRUPT_ACK => self.causes().acknowledge(value),
            reg::VIRTIO_MMIO_STATUS => self.slot.set_status(value),
            _ => self.write_queue_register(offset, value),
        }
    }

    /// Registers of the selected queue: while queues are set up, and while this one is not ready.
    fn write_queue_register(&self, offset: u32, value: u32) {
        let mut registers = self.slot.lock();
        if !registers.negotiation.may_set_queues() {
            return;
        }
        let Some((queue, max)) = registers.queue(self.slot.traits()) else {
            return;
        };
        if offset == reg::VIRTIO_MMIO_QUEUE_READY {
            queue.is_ready = value == 1;
            return;
        }
        if queue.is_ready {
            return;
        }
        match offset {
            // A size that is no power of two is found when the device starts.
            reg::VIRTIO_MMIO_QUEUE_NUM => {
                let size = u16::try_from(value).ok().filter(|size| *size <= max);
                queue.size = size.unwrap_or(queue.size);
            }
            reg::VIRTIO_MMIO_QUEUE_DESC_LOW => set_low(&mut queue.descriptor_table, value),
            reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => set_high(&mut queue.descriptor_table, value),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_low(&mut queue.available_ring, value),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_high(&mut queue.available_ring, value),
            reg::VIRTIO_MMIO_QUEUE_USED_LOW => set_low(&mut queue.used_ring, value),
            reg::VIRTIO_MMIO_QUEUE_USED_HIGH => set_high(&mut queue.used_ring, value),
            _ => {}
        }
    }
}

impl Transport for MmioTransport {
    fn slot(&self) -> &Slot {
        &self.slot
    }
}

/// Control registers are accessed in aligned words (virtio 1.2 §4.2.2.2); any other access reads as 0 and
/// writes nothing. The configuration space, behind them, takes every width.
impl Registers for MmioTransport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Ok(offset) = u32::try_from(offset) else {
            return;
        };
        if let Some(offset) = offset.checked_sub(reg::VIRTIO_MMIO_CONFIG) {
            self.slot.lock().read_config(offset as usize, data);
        } else if let Ok(word) = <&mut [u8; 4]>::try_from(data) {
            *word = self.read_register(offset).to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Ok(offset) = u32::try_from(offset) else {
            return;
        };
        if let Some(offset) = offset.checked_sub(reg::VIRTIO_MMIO_CONFIG) {
            self.slot.lock().write_config(offset as usize, data);
        } else if let Ok(word) = <[u8; 4]>::try_from(data) {
            self.write_register(offset, u32::from_le_bytes(word));
        }
    }
}

#[cfg(test)]
mod tests;
