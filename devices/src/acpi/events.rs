//! What happened, for the generic event device (ACPI 6.5 §5.6.9): one interrupt and one register for all events.
//!
//! ```text
//!  raise(event) --> bit in the register, interrupt --> the guest's _EVT reads the register --> Notify(each device)
//! ```
//!
//! The register is ours, and only the byte code in the DSDT knows it. An event that the guest did not read stays and
//! comes along with the next.

use std::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};

use crate::Registers;
use crate::irq::IrqLine;

/// Bytes of the window.
pub const WINDOW_LEN: u64 = 1;

/// What can happen: a bit of the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// The generation id is another.
    Generation = 1 << 0,
    /// The VM clock's page changed.
    Clock = 1 << 1,
    /// Somebody pressed the power button.
    PowerButton = 1 << 2,
    /// Slots of the PCI bus changed (`pci/hotplug.rs`).
    PciSlots = 1 << 3,
}

const ALL: u8 =
    Event::Generation as u8 | Event::Clock as u8 | Event::PowerButton as u8 | Event::PciSlots as u8;

/// All a guest can observe of the register. Format `events` v1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsState {
    /// A bit for each event that the guest did not read.
    pending: u8,
}

/// A saved state that no register can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("saved events are not among those there are")]
pub struct RestoreError;

/// The register.
pub struct Events {
    line: Box<dyn IrqLine>,
    pending: AtomicU8,
}

impl Events {
    /// A register in which nothing happened; `line` is the event device's interrupt.
    #[must_use]
    pub fn new(line: Box<dyn IrqLine>) -> Self {
        Self {
            line,
            pending: AtomicU8::new(0),
        }
    }

    /// Tells the guest that `event` happened.
    pub fn raise(&self, event: Event) {
        self.pending.fetch_or(event as u8, Ordering::SeqCst);
        self.line.raise();
    }

    /// The guest can hear the interrupt from now on: an edge that came before was lost, so it comes again if there is
    /// something to read.
    pub fn repeat(&self) {
        if self.pending.load(Ordering::SeqCst) != 0 {
            self.line.raise();
        }
    }

    /// The state to save.
    #[must_use]
    pub fn state(&self) -> EventsState {
        EventsState {
            pending: self.pending.load(Ordering::SeqCst),
        }
    }

    /// Adopts a saved state, and raises the interrupt again if the guest has something to read.
    ///
    /// # Errors
    /// When no register can be in that state.
    pub fn restore(&self, state: EventsState) -> Result<(), RestoreError> {
        if state.pending & !ALL != 0 {
            return Err(RestoreError);
        }
        self.pending.store(state.pending, Ordering::SeqCst);
        self.repeat();
        Ok(())
    }
}

/// One byte: reading takes what is there, writing does nothing.
impl Registers for Events {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let [byte] = data {
            *byte = self.pending.swap(0, Ordering::SeqCst);
        }
    }

    fn write(&self, _offset: u64, _data: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeIrq;

    fn events() -> (Events, FakeIrq) {
        let irq = FakeIrq::default();
        (Events::new(Box::new(irq.clone())), irq)
    }

    fn read(events: &Events) -> u8 {
        let mut byte = [0xee];
        events.read(0, &mut byte);
        byte[0]
    }

    #[test]
    fn each_event_interrupts_and_is_read_once() {
        let (events, irq) = events();
        assert_eq!(read(&events), 0);
        events.raise(Event::PowerButton);
        events.raise(Event::PowerButton);
        events.raise(Event::Generation);
        assert_eq!(irq.take(), 3);
        assert_eq!(read(&events), 0b101);
        assert_eq!(read(&events), 0);
        events.raise(Event::Clock);
        assert_eq!(read(&events), 0b10);
    }

    #[test]
    fn other_accesses_take_nothing() {
        let (events, _irq) = events();
        events.raise(Event::Clock);
        events.write(0, &[0xff]);
        for len in [2, 4, 8] {
            let mut data = [0xee; 8];
            events.read(0, &mut data[..len]);
            assert!(data[..len].iter().all(|byte| *byte == 0));
        }
        assert_eq!(read(&events), 0b10);
    }

    #[test]
    fn a_lost_interrupt_is_repeated_until_the_guest_has_read() {
        let (events, irq) = events();
        events.repeat();
        assert_eq!(irq.take(), 0);
        events.raise(Event::PciSlots);
        events.repeat();
        assert_eq!(irq.take(), 2);
        assert_eq!(read(&events), 0b1000);
        events.repeat();
        assert_eq!(irq.take(), 0);
    }

    #[test]
    fn a_saved_event_interrupts_again() {
        let (events, _) = events();
        events.raise(Event::Generation);
        let (copy, irq) = self::events();
        copy.restore(events.state()).unwrap();
        assert_eq!((irq.take(), read(&copy)), (1, 1));
        copy.restore(EventsState::default()).unwrap();
        assert_eq!(irq.take(), 0);
        let hostile = EventsState { pending: 0x80 };
        assert_eq!(copy.restore(hostile), Err(RestoreError));
    }
}
