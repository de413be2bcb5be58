//! Tells the guest which slots changed, and hears which ones it lets go: four registers and one event.
//!
//! ```text
//! inserted, asked, changed --> bits, event --> _EVT of the event device --> reads the bits
//!                                              --> Notify(slot, 1 or 3), Notify(bridge, 0)
//! released <-- write of a slot's bit <-- _EJ0 of the slot <-- the guest let go
//! ```
//!
//! The registers are ours, and only the byte code in the DSDT knows them. Spec: ACPI 6.5 §5.6.6 (notifications),
//! §5.6.9 (event device, `acpi/events.rs`), §6.3.3 (`_EJ0`).

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::bus::DEVICES;
use crate::Registers;
use crate::irq::IrqLine;

/// Bytes of the window.
pub const WINDOW_LEN: u64 = 16;

/// Slots that got a device since this was last read; a bit a slot. Reading clears it.
pub const INSERTED: u64 = 0x0;
/// Slots whose device the guest is asked to let go, since this was last read. Reading clears it.
pub const ASKED: u64 = 0x4;
/// Not 0 when a device left unasked since this was last read. Reading clears it.
pub const CHANGED: u64 = 0x8;
/// Written: the slots whose devices the guest lets go.
pub const RELEASE: u64 = 0xc;

/// Hears that the guest let go of a device that it was asked for. Called on a vCPU's thread.
pub trait Released: Send + Sync {
    /// The device in slot `device` can be removed.
    fn released(&self, device: u8);
}

/// The registers.
pub struct Hotplug {
    line: Box<dyn IrqLine>,
    released: Box<dyn Released>,
    state: Mutex<State>,
}

/// What the guest has not read yet, and what it is expected to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    inserted: u32,
    asked: u32,
    changed: u32,
    /// Slots that the guest was asked to let go, and has not.
    awaited: u32,
}

impl Hotplug {
    /// Registers in which nothing happened yet; `line` raises the event.
    #[must_use]
    pub fn new(line: Box<dyn IrqLine>, released: Box<dyn Released>) -> Self {
        Self {
            line,
            released,
            state: Mutex::default(),
        }
    }

    /// Tells the guest that there is a device in slot `device`.
    pub fn insert(&self, device: u8) {
        self.state().inserted |= bit(device);
        self.line.raise();
    }

    /// Asks the guest to let go of the device in slot `device`.
    pub fn ask(&self, device: u8) {
        let mut state = self.state();
        state.asked |= bit(device);
        state.awaited |= bit(device);
        drop(state);
        self.line.raise();
    }

    /// The device in slot `device` stays, whatever the guest was asked.
    pub fn take_back(&self, device: u8) {
        let mut state = self.state();
        state.asked &= !bit(device);
        state.awaited &= !bit(device);
    }

    /// Slot `device` is empty; tells a guest that was not asked to look for itself.
    pub fn remove(&self, device: u8, how: Removal) {
        let mut state = self.state();
        state.inserted &= !bit(device);
        state.asked &= !bit(device);
        state.awaited &= !bit(device);
        if how == Removal::Unasked {
            state.changed = 1;
            drop(state);
            self.line.raise();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a device left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The guest let it go.
    Released,
    /// The guest does not know.
    Unasked,
}

/// All registers are 32 bits; any other access reads as 0 and writes nothing.
impl Registers for Hotplug {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Ok(word) = <&mut [u8; 4]>::try_from(data) else {
            return;
        };
        let mut state = self.state();
        let value = match offset {
            INSERTED => std::mem::take(&mut state.inserted),
            ASKED => std::mem::take(&mut state.asked),
            CHANGED => std::mem::take(&mut state.changed),
            _ => 0,
        };
        *word = value.to_le_bytes();
    }

    /// Slots that were not asked for are ignored: what a guest lets go by itself stays on its bus.
    fn write(&self, offset: u64, data: &[u8]) {
        let (RELEASE, Ok(word)) = (offset, <[u8; 4]>::try_from(data)) else {
            return;
        };
        let mut state = self.state();
        let released = u32::from_le_bytes(word) & state.awaited;
        state.awaited &= !released;
        drop(state);
        for device in (0..DEVICES).filter(|device| released & bit(*device) != 0) {
            self.released.released(device);
        }
    }
}

/// The slot's bit; none for a slot that does not exist.
fn bit(device: u8) -> u32 {
    1_u32.checked_shl(device.into()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::FakeIrq;

    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<u8>>>);

    impl Released for Heard {
        fn released(&self, device: u8) {
            self.0.lock().unwrap().push(device);
        }
    }

    fn hotplug() -> (Hotplug, FakeIrq, Heard) {
        let (line, heard) = (FakeIrq::default(), Heard::default());
        let hotplug = Hotplug::new(Box::new(line.clone()), Box::new(heard.clone()));
        (hotplug, line, heard)
    }

    fn read(hotplug: &Hotplug, offset: u64) -> u32 {
        let mut word = [0xee; 4];
        hotplug.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    fn release(hotplug: &Hotplug, slots: u32) {
        hotplug.write(RELEASE, &slots.to_le_bytes());
    }

    #[test]
    fn a_guest_hears_of_each_change_once() {
        let (hotplug, line, _) = hotplug();
        hotplug.insert(3);
        hotplug.insert(31);
        hotplug.ask(1);
        hotplug.remove(2, Removal::Unasked);
        assert_eq!(line.take(), 4);
        for (register, bits) in [(INSERTED, 1 << 3 | 1 << 31), (ASKED, 2), (CHANGED, 1)] {
            assert_eq!(read(&hotplug, register), bits);
            assert_eq!(read(&hotplug, register), 0);
        }
    }

    #[test]
    fn only_what_was_asked_for_can_be_let_go_and_once() {
        let (hotplug, _, heard) = hotplug();
        hotplug.insert(4);
        release(&hotplug, u32::MAX);
        assert!(heard.0.lock().unwrap().is_empty(), "nothing was asked for");
        hotplug.ask(4);
        hotplug.ask(9);
        hotplug.take_back(9);
        release(&hotplug, !(1 << 4));
        assert!(heard.0.lock().unwrap().is_empty());
        release(&hotplug, u32::MAX);
        release(&hotplug, u32::MAX);
        assert_eq!(*heard.0.lock().unwrap(), [4]);
    }

    #[test]
    fn what_is_gone_is_not_told() {
        let (hotplug, line, heard) = hotplug();
        hotplug.insert(4);
        hotplug.ask(4);
        hotplug.remove(4, Removal::Released);
        release(&hotplug, 1 << 4);
        let unread = [INSERTED, ASKED, CHANGED].map(|register| read(&hotplug, register));
        assert_eq!(unread, [0; 3]);
        assert!(heard.0.lock().unwrap().is_empty());
        assert_eq!(line.take(), 2);
    }

    #[test]
    fn garbage_does_nothing() {
        let (hotplug, _, heard) = hotplug();
        hotplug.insert(200);
        hotplug.ask(7);
        for offset in (0..32).chain([u64::MAX]) {
            for len in [1, 2, 3, 8] {
                hotplug.write(offset, &[0xff; 8][..len]);
                let mut data = [0xee; 8];
                hotplug.read(offset, &mut data[..len]);
                assert_eq!(data[..len], [0; 8][..len]);
            }
            if offset != RELEASE {
                hotplug.write(offset, &[0xff; 4]);
            }
        }
        assert!(heard.0.lock().unwrap().is_empty());
        assert_eq!(read(&hotplug, INSERTED), 0);
        assert_eq!(read(&hotplug, ASKED), 1 << 7);
    }
}
