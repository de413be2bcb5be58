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
mod tests {
    use super::*;

    const START: u64 = 0x40_0000_0000;

    /// Answers with the low byte of each offset; records writes.
    #[derive(Default)]
    struct Echo {
        writes: Mutex<Vec<(u64, Vec<u8>)>>,
        window: Mutex<Option<u64>>,
    }

    impl Echo {
        fn move_to(&self, place: u64) {
            *self.window.lock().unwrap() = Some(START + place * BAR_LEN);
        }
    }

    impl Function for Echo {
        fn read_config(&self, offset: u16, data: &mut [u8]) {
            self.read_bar(offset.into(), data);
        }
        fn write_config(&self, offset: u16, data: &[u8]) {
            self.write_bar(offset.into(), data);
        }
        fn window(&self) -> Option<u64> {
            *self.window.lock().unwrap()
        }
        fn read_bar(&self, offset: u64, data: &mut [u8]) {
            for (byte, at) in data.iter_mut().zip(offset..) {
                *byte = at.to_le_bytes()[0];
            }
        }
        fn write_bar(&self, offset: u64, data: &[u8]) {
            self.writes.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    fn bus() -> (Arc<PciBus>, Arc<Echo>) {
        let (bus, echo) = (Arc::new(PciBus::default()), Arc::new(Echo::default()));
        bus.insert(3, echo.clone()).unwrap();
        echo.move_to(3);
        (bus, echo)
    }

    fn read<const N: usize>(registers: &dyn Registers, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        registers.read(offset, &mut data);
        data
    }

    #[test]
    fn the_host_bridge_is_the_first() {
        let memory = ConfigMemory(bus().0);
        assert_eq!(read(&memory, 0), [0x86, 0x80, 0x57, 0x0d]);
        assert_eq!(read(&memory, 0xb), [6]);
    }

    #[test]
    fn both_ways_lead_to_the_same_function_in_every_width() {
        let (bus, echo) = bus();
        let (memory, ports) = (ConfigMemory(bus.clone()), ConfigPorts::new(bus));
        ports.write(0, &0x8000_1844_u32.to_le_bytes());
        assert_eq!(read(&ports, 0), 0x8000_1844_u32.to_le_bytes());
        assert_eq!(read(&ports, 4), [0x44, 0x45, 0x46, 0x47]);
        assert_eq!(read(&ports, 6), [0x46, 0x47]);
        assert_eq!(read(&ports, 7), [0x47]);
        assert_eq!(read(&memory, 0x1_8044), [0x44, 0x45, 0x46, 0x47]);
        assert_eq!(read(&memory, 0x1_8046), [0x46]);
        ports.write(5, &[1, 2]);
        memory.write(0x1_8044, &[3]);
        assert_eq!(
            *echo.writes.lock().unwrap(),
            [(0x45, vec![1, 2]), (0x44, vec![3])]
        );
    }

    #[test]
    fn nobody_home_reads_as_all_ones() {
        let (bus, echo) = bus();
        let (memory, ports) = (ConfigMemory(bus.clone()), ConfigPorts::new(bus.clone()));
        // No device, another function, across the end of one, beyond the bus.
        for offset in [0x2_0000, 0x1_9000, 0x1_8ffe, ECAM_LEN, u64::MAX] {
            assert_eq!(read(&memory, offset), [0xff; 4], "{offset:#x}");
            memory.write(offset, &[0; 4]);
        }
        // Closed, another bus, another function, no device.
        for address in [0x0000_1800_u32, 0x8001_1800, 0x8000_1900, 0x8000_2000] {
            ports.write(0, &address.to_le_bytes());
            assert_eq!(read(&ports, 4), [0xff; 4], "{address:#x}");
            ports.write(4, &[0; 4]);
        }
        ports.write(0, &0x8000_1800_u32.to_le_bytes());
        assert_eq!(read(&ports, 6), [0xff; 4], "across the end");
        let windows = BarWindows::new(bus, START);
        for offset in [0, BAR_LEN, 3 * BAR_LEN - 1, 4 * BAR_LEN - 1, u64::MAX] {
            assert_eq!(read(&windows, offset), [0xff; 2], "{offset:#x}");
            windows.write(offset, &[0; 2]);
        }
        assert!(echo.writes.lock().unwrap().is_empty());
    }

    #[test]
    fn the_address_port_takes_words_only() {
        let ports = ConfigPorts::new(bus().0);
        ports.write(0, &u32::MAX.to_le_bytes());
        assert_eq!(read(&ports, 0), 0x80ff_fffc_u32.to_le_bytes());
        // How Linux probes for mechanism #1 (arch/x86/pci/direct.c).
        ports.write(3, &[1]);
        ports.write(0, &0x8000_0000_u32.to_le_bytes());
        ports.write(0, &[1, 2]);
        assert_eq!(read(&ports, 0), 0x8000_0000_u32.to_le_bytes());
        assert_eq!(read(&ports, 0), [0xff]);
    }

    #[test]
    fn windows_belong_to_slots() {
        let (bus, echo) = bus();
        let windows = BarWindows::new(bus, START);
        assert_eq!(read(&windows, 3 * BAR_LEN + 5), [5, 6]);
        windows.write(3 * BAR_LEN + 0x6000, &[1]);
        assert_eq!(*echo.writes.lock().unwrap(), [(0x6000, vec![1])]);
    }

    #[test]
    fn a_window_is_found_where_it_was_moved_and_the_assigned_one_goes_first() {
        let (bus, echo) = bus();
        let other = Arc::new(Echo::default());
        bus.insert(5, other.clone()).unwrap();
        let windows = BarWindows::new(bus, START);
        assert_eq!(read(&windows, 5 * BAR_LEN), [0xff], "decoding is off");
        other.move_to(0);
        windows.write(0x10, &[1]);
        assert_eq!(*other.writes.lock().unwrap(), [(0x10, vec![1])]);
        other.move_to(3);
        windows.write(3 * BAR_LEN, &[2]);
        assert_eq!(*echo.writes.lock().unwrap(), [(0, vec![2])]);
        echo.move_to(1000);
        windows.write(3 * BAR_LEN + 1, &[3]);
        assert_eq!(other.writes.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_removed_function_is_gone_and_its_slot_free() {
        let (bus, echo) = bus();
        let memory = ConfigMemory(bus.clone());
        assert!(bus.remove(3).is_some());
        assert!(bus.remove(3).is_none() && bus.remove(32).is_none());
        assert_eq!(read(&memory, 0x1_8000), [0xff; 4]);
        assert_eq!(Arc::strong_count(&echo), 1);
        assert_eq!(bus.insert(3, echo), Ok(()));
    }

    #[test]
    fn the_window_of_a_function_that_was_pulled_out_reads_as_zeros_until_its_slot_is_taken() {
        let (bus, echo) = bus();
        echo.move_to(9);
        bus.pull_out(3);
        let windows = BarWindows::new(bus.clone(), START);
        assert_eq!(read(&windows, 9 * BAR_LEN + 20), [0]);
        assert_eq!(read(&windows, 3 * BAR_LEN + 20), [0xff]);
        assert_eq!(read(&ConfigMemory(bus.clone()), 0x1_8000), [0xff; 4]);
        let other = Arc::new(Echo::default());
        bus.insert(3, other).unwrap();
        assert_eq!(read(&windows, 9 * BAR_LEN + 20), [0xff]);
    }

    #[test]
    fn a_slot_takes_one_function() {
        let (bus, echo) = bus();
        for device in [0, 3, 32, 255] {
            assert_eq!(bus.insert(device, echo.clone()), Err(SlotError(device)));
        }
        assert_eq!(bus.insert(31, echo), Ok(()));
    }
}
