//! The PCI transport, modern only (virtio 1.2 §4.1).
//!
//! [`PciTransport`] is a PCI function: configuration space with the capabilities of `caps.rs`, and one window with
//! the structures they point at. It has no interrupt pin, only MSI-X.

mod caps;
mod interrupt;
mod registers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use vmm_sys_util::eventfd::EventFd;

use self::caps::{
    COMMON, Capabilities, DEVICE, ISR, MSIX_PENDING, MSIX_TABLE, NOTIFY, NOTIFY_MULTIPLIER,
};
use self::interrupt::MessageInterrupt;
use self::registers as reg;
use super::halves::{low, set_high, set_low};
use super::negotiation::Negotiation;
use super::slot::Slot;
use super::{CausesState, RestoreError, Transport};
use crate::GuestMemory;
use crate::pci::config::Written;
use crate::pci::msix::MESSAGE_CONTROL;
use crate::pci::{Bar, ConfigurationSpace, Doorbells, Function, MessageLines, Msix, MsixState};
use crate::virtio::queue::QueueState;
use crate::virtio::{Traits, VirtioDevice, WorkerId, WorkerLoop};

/// Bytes of the window.
pub const BAR_LEN: u64 = crate::pci::bus::BAR_LEN;

/// How many vectors a device has: one for the configuration and one a queue.
#[must_use]
pub fn vectors(traits: &Traits) -> u16 {
    u16::try_from(traits.queue_sizes.len() + 1).expect("a device has few queues")
}

/// Where in the window a write kicks `queue`; an ioeventfd there spares the exit.
#[must_use]
pub fn notify_offset(queue: u16) -> u64 {
    NOTIFY.start + u64::from(NOTIFY_MULTIPLIER) * u64::from(queue)
}

/// All a driver can observe of the transport. Format `virtio-pci` v1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PciState {
    configuration: Written,
    msix: MsixState,
    negotiation: Negotiation,
    queues: Vec<QueueState>,
    selected_queue: u32,
    /// Of the configuration, then of each queue.
    vectors: Vec<u16>,
    causes: CausesState,
}

/// Where a device is, and the host's side of its events.
pub struct PciPlacement {
    /// The worker's place on the loop.
    pub id: WorkerId,
    /// The window: of [`BAR_LEN`] bytes.
    pub bar: Bar,
    /// The interrupts: [`vectors`] of them.
    pub lines: Box<dyn MessageLines>,
    /// Does not block (`EFD_NONBLOCK`).
    pub kick: EventFd,
    /// Has an ioeventfd at each [`notify_offset`] write `kick`.
    pub doorbells: Box<dyn Doorbells>,
}

/// One virtio device as a PCI function.
pub struct PciTransport {
    slot: Slot,
    interrupt: Arc<MessageInterrupt>,
    msix: Arc<Msix>,
    doorbells: Box<dyn Doorbells>,
    capabilities: Capabilities,
    configuration: Mutex<ConfigurationSpace>,
}

impl PciTransport {
    /// Makes `device` a function.
    #[must_use]
    pub fn new(
        place: PciPlacement,
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        workers: Arc<dyn WorkerLoop>,
    ) -> Self {
        let traits = device.traits();
        let msix = Arc::new(Msix::new(vectors(&traits), place.lines));
        let queues = traits.queue_sizes.len();
        let interrupt = Arc::new(MessageInterrupt::new(Arc::clone(&msix), queues));
        let (space, capabilities) = caps::lay_out(traits.device_type, place.bar, &msix);
        let (id, kick) = (place.id, place.kick);
        Self {
            slot: Slot::new(id, device, memory, interrupt.clone(), kick, workers),
            interrupt,
            msix,
            doorbells: place.doorbells,
            capabilities,
            configuration: Mutex::new(space),
        }
    }

    /// The state to save; `None` while the device runs.
    #[must_use]
    pub fn state(&self) -> Option<PciState> {
        let registers = self.slot.saved()?;
        Some(PciState {
            configuration: self.configuration().written(),
            msix: self.msix.state(),
            negotiation: registers.negotiation,
            queues: registers.queues.clone(),
            selected_queue: registers.selected_queue,
            vectors: self.interrupt.vectors(),
            causes: self.interrupt.causes.save(),
        })
    }

    /// Adopts a saved state, before the first access. A device that was running is then parked.
    ///
    /// # Errors
    /// When the state cannot be this device's; nothing the driver set up counts then.
    pub fn restore(&self, state: PciState) -> Result<(), RestoreError> {
        let is_ours = state.vectors.len() == self.slot.traits().queue_sizes.len() + 1
            && self.msix.fits(&state.msix)
            && self
                .slot
                .restore(state.negotiation, state.queues, state.selected_queue);
        if !is_ours {
            return Err(RestoreError);
        }
        self.interrupt.restore(&state.vectors);
        self.interrupt.causes.restore(&state.causes);
        self.configuration().restore(&state.configuration);
        self.msix.restore(&state.msix);
        Ok(())
    }

    fn configuration(&self) -> MutexGuard<'_, ConfigurationSpace> {
        self.configuration
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A field of the common configuration (§4.1.4.3), as wide as it is.
    fn read_common(&self, offset: u64, data: &mut [u8]) {
        let Ok(offset) = u32::try_from(offset) else {
            return;
        };
        match data.len() {
            1 => data.copy_from_slice(&self.read_byte(offset).to_le_bytes()),
            2 => data.copy_from_slice(&self.read_half(offset).to_le_bytes()),
            4 => data.copy_from_slice(&self.read_word(offset).to_le_bytes()),
            8 => {
                data[..4].copy_from_slice(&self.read_address(offset).to_le_bytes());
                data[4..].copy_from_slice(&self.read_address(offset + 4).to_le_bytes());
            }
            _ => {}
        }
    }

    fn read_byte(&self, offset: u32) -> u8 {
        let value = match offset {
            reg::VIRTIO_PCI_COMMON_STATUS => self.slot.status(),
            reg::VIRTIO_PCI_COMMON_CFGGENERATION => self.interrupt.causes.generation(),
            _ => 0,
        };
        let [byte, ..] = value.to_le_bytes();
        byte
    }

    fn read_half(&self, offset: u32) -> u16 {
        let traits = self.slot.traits();
        let mut registers = self.slot.lock();
        let selected = registers.selected_queue;
        match offset {
            reg::VIRTIO_PCI_COMMON_MSIX => self.interrupt.config_vector(),
            reg::VIRTIO_PCI_COMMON_NUMQ => {
                u16::try_from(traits.queue_sizes.len()).unwrap_or(u16::MAX)
            }
            reg::VIRTIO_PCI_COMMON_Q_SELECT => u16::try_from(selected).unwrap_or(u16::MAX),
            reg::VIRTIO_PCI_COMMON_Q_MSIX => self.interrupt.queue_vector(selected),
            reg::VIRTIO_PCI_COMMON_Q_SIZE => {
                registers.queue(traits).map_or(0, |(queue, _)| queue.size)
            }
            reg::VIRTIO_PCI_COMMON_Q_ENABLE => registers
                .queue(traits)
                .map_or(0, |(queue, _)| queue.is_ready.into()),
            reg::VIRTIO_PCI_COMMON_Q_NOFF if registers.queue(traits).is_some() => {
                u16::try_from(selected).unwrap_or(u16::MAX)
            }
            _ => 0,
        }
    }

    fn read_word(&self, offset: u32) -> u32 {
        match offset {
            reg::VIRTIO_PCI_COMMON_DFSELECT => self.slot.lock().negotiation.device_word(),
            reg::VIRTIO_PCI_COMMON_DF => {
                let offered = self.slot.traits().features;
                self.slot.lock().negotiation.device_features(offered)
            }
            reg::VIRTIO_PCI_COMMON_GFSELECT => self.slot.lock().negotiation.driver_word(),
            reg::VIRTIO_PCI_COMMON_GF => self.slot.lock().negotiation.driver_features(),
            _ => self.read_address(offset),
        }
    }

    /// Half of a ring's address.
    fn read_address(&self, offset: u32) -> u32 {
        let mut registers = self.slot.lock();
        let Some((queue, _)) = registers.queue(self.slot.traits()) else {
            return 0;
        };
        match offset {
            reg::VIRTIO_PCI_COMMON_Q_DESCLO => low(queue.descriptor_table),
            reg::VIRTIO_PCI_COMMON_Q_DESCHI => low(queue.descriptor_table >> 32),
            reg::VIRTIO_PCI_COMMON_Q_AVAILLO => low(queue.available_ring),
            reg::VIRTIO_PCI_COMMON_Q_AVAILHI => low(queue.available_ring >> 32),
            reg::VIRTIO_PCI_COMMON_Q_USEDLO => low(queue.used_ring),
            reg::VIRTIO_PCI_COMMON_Q_USEDHI => low(queue.used_ring >> 32),
            _ => 0,
        }
    }

    fn write_common(&self, offset: u64, data: &[u8]) {
        let Ok(offset) = u32::try_from(offset) else {
            return;
        };
        match *data {
            [byte] if offset == reg::VIRTIO_PCI_COMMON_STATUS => self.slot.set_status(byte.into()),
            [a, b] => self.write_half(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_word(offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] if offset >= reg::VIRTIO_PCI_COMMON_Q_DESCLO => {
                self.write_word(offset, u32::from_le_bytes([a, b, c, d]));
                self.write_word(offset + 4, u32::from_le_bytes([e, f, g, h]));
            }
            _ => {}
        }
    }

    fn write_half(&self, offset: u32, value: u16) {
        let mut registers = self.slot.lock();
        let selected = registers.selected_queue;
        match offset {
            reg::VIRTIO_PCI_COMMON_MSIX => return self.interrupt.set_config_vector(value),
            reg::VIRTIO_PCI_COMMON_Q_SELECT => registers.selected_queue = value.into(),
            reg::VIRTIO_PCI_COMMON_Q_MSIX => {
                return self.interrupt.set_queue_vector(selected, value);
            }
            _ => {}
        }
        if !registers.negotiation.may_set_queues() {
            return;
        }
        let Some((queue, max)) = registers.queue(self.slot.traits()) else {
            return;
        };
        match offset {
            // A size that is no power of two is found when the device starts.
            reg::VIRTIO_PCI_COMMON_Q_SIZE if !queue.is_ready && value <= max => queue.size = value,
            // Only a reset takes it back (§4.1.4.3.2).
            reg::VIRTIO_PCI_COMMON_Q_ENABLE if value == 1 => queue.is_ready = true,
            _ => {}
        }
    }

    fn write_word(&self, offset: u32, value: u32) {
        let mut registers = self.slot.lock();
        match offset {
            reg::VIRTIO_PCI_COMMON_DFSELECT => {
                return registers.negotiation.select_device_word(value);
            }
            reg::VIRTIO_PCI_COMMON_GFSELECT => {
                return registers.negotiation.select_driver_word(value);
            }
            reg::VIRTIO_PCI_COMMON_GF => return registers.negotiation.set_driver_features(value),
            _ => {}
        }
        if !registers.negotiation.may_set_queues() {
            return;
        }
        let Some((queue, _)) = registers.queue(self.slot.traits()) else {
            return;
        };
        if queue.is_ready {
            return;
        }
        match offset {
            reg::VIRTIO_PCI_COMMON_Q_DESCLO => set_low(&mut queue.descriptor_table, value),
            reg::VIRTIO_PCI_COMMON_Q_DESCHI => set_high(&mut queue.descriptor_table, value),
            reg::VIRTIO_PCI_COMMON_Q_AVAILLO => set_low(&mut queue.available_ring, value),
            reg::VIRTIO_PCI_COMMON_Q_AVAILHI => set_high(&mut queue.available_ring, value),
            reg::VIRTIO_PCI_COMMON_Q_USEDLO => set_low(&mut queue.used_ring, value),
            reg::VIRTIO_PCI_COMMON_Q_USEDHI => set_high(&mut queue.used_ring, value),
            _ => {}
        }
    }

    /// The window, whether or not it is decoded. What no structure holds reads as 0.
    fn read_window(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(within) = inside(&COMMON, offset, data.len()) {
            self.read_common(within, data);
        } else if let (Some(_), [byte]) = (inside(&ISR, offset, 1), &mut *data) {
            *byte = self.interrupt.take_status();
        } else if let Some(within) = inside(&DEVICE, offset, data.len()) {
            let within = usize::try_from(within).unwrap_or(usize::MAX);
            self.slot.lock().read_config(within, data);
        } else if let Some(within) = inside(&MSIX_TABLE, offset, data.len()) {
            self.msix.read_table(within, data);
        } else if let Some(within) = inside(&MSIX_PENDING, offset, data.len()) {
            self.msix.read_pending(within, data);
        }
    }

    fn write_window(&self, offset: u64, data: &[u8]) {
        if let Some(within) = inside(&COMMON, offset, data.len()) {
            self.write_common(within, data);
        } else if let Some(within) = inside(&DEVICE, offset, data.len()) {
            let within = usize::try_from(within).unwrap_or(usize::MAX);
            self.slot.lock().write_config(within, data);
        } else if inside(&NOTIFY, offset, data.len()).is_some() {
            self.slot.notify();
        } else if let Some(within) = inside(&MSIX_TABLE, offset, data.len()) {
            self.msix.write_table(within, data);
        }
    }
}

impl Function for PciTransport {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let space = self.configuration();
        let access = self.capabilities.window_access(&space, offset);
        space.read(offset, data);
        drop(space);
        if let Some((at, len)) = access
            && let Some(data) = data.get_mut(..len)
        {
            self.read_window(at, data);
        }
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        let mut space = self.configuration();
        let before = Bar::decoded(&space);
        space.write(offset, data);
        // While the space is locked, as below.
        if let Some(address) = Bar::decoded(&space).filter(|after| Some(*after) != before) {
            self.doorbells.move_to(address);
        }
        let access = self.capabilities.window_access(&space, offset);
        let [low, high, ..] = space
            .word(self.capabilities.msix + MESSAGE_CONTROL)
            .to_le_bytes();
        // While the space is locked, so that no later write is overtaken.
        self.msix.set_control(u16::from_le_bytes([low, high]));
        drop(space);
        if let Some((at, len)) = access
            && let Some(data) = data.get(..len)
        {
            self.write_window(at, data);
        }
    }

    fn window(&self) -> Option<u64> {
        Bar::decoded(&self.configuration())
    }

    fn read_bar(&self, offset: u64, data: &mut [u8]) {
        self.read_window(offset, data);
    }

    fn write_bar(&self, offset: u64, data: &[u8]) {
        self.write_window(offset, data);
    }
}

impl Transport for PciTransport {
    fn slot(&self) -> &Slot {
        &self.slot
    }
}

/// The offset into `place` of an access that lies in it.
fn inside(place: &std::ops::Range<u64>, offset: u64, len: usize) -> Option<u64> {
    let end = offset.checked_add(u64::try_from(len).ok()?)?;
    (end <= place.end).then_some(offset.checked_sub(place.start)?)
}

#[cfg(test)]
mod tests;
