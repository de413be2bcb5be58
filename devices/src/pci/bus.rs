//! One bus, and the three ways to it: configuration by port, configuration by memory, and the windows.
//!
//! What no function answers reads as all ones (PCI 3.0 §6.1), and nobody waits for it.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::HostBridge;
use crate::Registers;

/// Device numbers on the bus; 0 is the host bridge.
pub const DEVICES: u8 = 32;

/// Bytes of configuration space by memory: 32 devices of 8 functions of 4 KiB (PCI Express 4.0 §7.2.2).
pub const ECAM_LEN: u64 = 1 << 20;

/// Bytes of each device's memory window; device `n` is assigned the `n`th place.
pub const BAR_LEN: u64 = 512 << 10;

/// Ports 0xcf8 to 0xcff (PCI 3.0 §3.2.2.3.2).
pub const CONFIG_PORTS_LEN: u64 = 8;

/// A PCI function. Called from every vCPU, so it holds its own locks, for one access at a time.
pub trait Function: Send + Sync {
    /// Fills `data` with configuration space from `offset`, 0 to 4095, on.
    fn read_config(&self, offset: u16, data: &mut [u8]);
    /// Stores `data` into configuration space.
    fn write_config(&self, offset: u16, data: &[u8]);
    /// Address of the memory window, while the function answers in it.
    fn window(&self) -> Option<u64>;
    /// Fills `data` from the memory window, which the function answers in.
    fn read_bar(&self, offset: u64, data: &mut [u8]);
    /// Stores `data` into the memory window, which the function answers in.
    fn write_bar(&self, offset: u64, data: &[u8]);
}

/// A function cannot be put into its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PCI device {0} is taken or does not exist")]
pub struct SlotError(u8);

type Functions = [Option<Arc<dyn Function>>; DEVICES as usize];

/// The bus. Devices may come and go while vCPUs look at it.
pub struct PciBus {
    functions: RwLock<Functions>,
    /// Where the windows were of functions that were pulled out, until their slots are taken again.
    pulled_out: RwLock<[Option<u64>; DEVICES as usize]>,
}

impl Default for PciBus {
    /// A bus with its host bridge.
    fn default() -> Self {
        let mut functions = Functions::default();
        functions[0] = Some(Arc::new(HostBridge::default()));
        Self {
            functions: RwLock::new(functions),
            pulled_out: RwLock::default(),
        }
    }
}

impl PciBus {
    /// Puts `function` into slot `device`.
    ///
    /// # Errors
    /// When the slot is taken or beyond the last.
    pub fn insert(&self, device: u8, function: Arc<dyn Function>) -> Result<(), SlotError> {
        let mut functions = self
            .functions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match functions.get_mut(usize::from(device)) {
            Some(slot @ None) => *slot = Some(function),
            _ => return Err(SlotError(device)),
        }
        drop(functions);
        self.note_pulled_out(device, None);
        Ok(())
    }

    /// Takes the function out of slot `device`, if there is one. A vCPU that found it just before may still be at it.
    pub fn remove(&self, device: u8) -> Option<Arc<dyn Function>> {
        let mut functions = self
            .functions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        functions.get_mut(usize::from(device))?.take()
    }

    /// The same when the guest did not let go of it, whether a driver there has the function, had it or never took it. Its
    /// window reads as zeros until the slot is taken again: a driver that has it resets it though it is gone, and Linux
    /// waits without end for a status of 0 (`drivers/virtio/virtio_pci_modern.c`, `vp_reset`).
    pub fn pull_out(&self, device: u8) -> Option<Arc<dyn Function>> {
        let function = self.remove(device)?;
        self.note_pulled_out(device, function.window());
        Some(function)
    }

    fn note_pulled_out(&self, device: u8, window: Option<u64>) {
        let mut pulled_out = self
            .pulled_out
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = pulled_out.get_mut(usize::from(device)) {
            *place = window;
        }
    }

    /// What reads where nobody answers: the window at `address` of a function that was pulled out, or nothing.
    fn silence(&self, address: u64) -> u8 {
        let pulled_out = self
            .pulled_out
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if pulled_out.contains(&Some(address)) {
            0
        } else {
            0xff
        }
    }

    /// The function whose window is at `address`. That of slot `device`, to which the place was assigned, goes before
    /// others that a guest moved there.
    fn answering_at(&self, address: u64, device: u64) -> Option<Arc<dyn Function>> {
        let answers = |function: &Arc<dyn Function>| function.window() == Some(address);
        let assigned = self.function(device).filter(answers);
        assigned.or_else(|| (0..DEVICES).find_map(|n| self.function(n.into()).filter(answers)))
    }

    /// Function 0 of `device`. The lock is released before it is used.
    fn function(&self, device: u64) -> Option<Arc<dyn Function>> {
        let index = usize::try_from(device).ok()?;
        let functions = self
            .functions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        functions.get(index)?.clone()
    }

    /// The function at an ECAM offset, and the offset into its space; `None` also for an access that leaves it.
    fn at(&self, offset: u64, len: usize) -> Option<(Arc<dyn Function>, u16)> {
        let (device, function) = (offset >> 15, offset >> 12 & 7);
        let register = u16::try_from(offset & 0xfff).ok()?;
        if function != 0 || usize::from(register).checked_add(len)? > 0x1000 {
            return None;
        }
        Some((self.function(device)?, register))
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        match self.at(offset, data.len()) {
            Some((function, register)) => function.read_config(register, data),
            None => data.fill(0xff),
        }
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        if let Some((function, register)) = self.at(offset, data.len()) {
            function.write_config(register, data);
        }
    }
}

/// Configuration space by memory: a window of [`ECAM_LEN`] bytes, for bus 0.
pub struct ConfigMemory(pub Arc<PciBus>);

impl Registers for ConfigMemory {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.read_config(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.write_config(offset, data);
    }
}

/// Configuration space by ports, mechanism #1: an address, and a window of four bytes onto it.
pub struct ConfigPorts {
    bus: Arc<PciBus>,
    // Guest-visible state: all of it, and nothing else.
    address: Mutex<u32>,
}

/// Where the address is, and where the data.
const CONFIG_ADDRESS: u64 = 0;
const CONFIG_DATA: u64 = 4;
/// The data port is open.
const ENABLED: u32 = 1 << 31;
/// What the address register keeps: the enable bit, bus, device, function, word.
const ADDRESS_BITS: u32 = 0x80ff_fffc;

impl ConfigPorts {
    /// The ports of `bus`.
    #[must_use]
    pub fn new(bus: Arc<PciBus>) -> Self {
        Self {
            bus,
            address: Mutex::new(0),
        }
    }

    fn address(&self) -> u32 {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ECAM offset of `len` bytes at a data port; `None` while closed, on another bus, or across its end.
    fn target(&self, offset: u64, len: usize) -> Option<u64> {
        let within = offset.checked_sub(CONFIG_DATA)?;
        let end = within.checked_add(u64::try_from(len).ok()?)?;
        let address = self.address();
        if end > 4 || address & ENABLED == 0 || address >> 16 & 0xff != 0 {
            return None;
        }
        let (function, register) = (u64::from(address >> 8 & 0xff), u64::from(address & 0xfc));
        Some(function << 12 | register | within)
    }
}

impl Registers for ConfigPorts {
    /// The address register is 32 bits and answers to nothing less (PCI 3.0 §3.2.2.3.2).
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let (CONFIG_ADDRESS, Ok(word)) = (offset, <&mut [u8; 4]>::try_from(&mut *data)) {
            *word = self.address().to_le_bytes();
            return;
        }
        match self.target(offset, data.len()) {
            Some(target) => self.bus.read_config(target, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (CONFIG_ADDRESS, Ok(word)) = (offset, <[u8; 4]>::try_from(data)) {
            let address = u32::from_le_bytes(word) & ADDRESS_BITS;
            *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
        } else if let Some(target) = self.target(offset, data.len()) {
            self.bus.write_config(target, data);
        }
    }
}

/// The places for memory windows, one after the other: [`DEVICES`] times [`BAR_LEN`] bytes.
pub struct BarWindows {
    bus: Arc<PciBus>,
    start: u64,
}

impl BarWindows {
    /// The places from the address `start` on.
    #[must_use]
    pub fn new(bus: Arc<PciBus>, start: u64) -> Self {
        Self { bus, start }
    }

    fn at(&self, offset: u64, len: usize) -> Option<(Arc<dyn Function>, u64)> {
        let (place, within) = (offset / BAR_LEN, offset % BAR_LEN);
        let end = within.checked_add(u64::try_from(len).ok()?)?;
        if end > BAR_LEN {
            return None;
        }
        let address = self.start.checked_add(offset.checked_sub(within)?)?;
        Some((self.bus.answering_at(address, place)?, within))
    }
}

impl Registers for BarWindows {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self.at(offset, data.len()) {
            Some((function, within)) => function.read_bar(within, data),
            None => {
                let window = self.start.saturating_add(offset - offset % BAR_LEN);
                data.fill(self.bus.silence(window));
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((function, within)) = self.at(offset, data.len()) {
            function.write_bar(within, data);
        }
    }
}

#[cfg(test)]
mod tests;
