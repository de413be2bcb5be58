//! PCI slots that change: what the event device's method and the slots' `_EJ0` do, without their byte code.
//!
//! Source: ACPI 6.5, 5.6.9 (event device), 6.3.3 (`_EJ0`), 20.2 (byte code).

use crate::boot::BootInfo;
use crate::interrupts::DeviceVector;
use crate::pci::{self, Function};
use crate::{acpi, acpi_power, apic, port};

/// The event device's interrupt.
const GSI: u32 = 23;
/// The event that slots changed.
const PCI_SLOTS: u8 = 1 << 3;

// Offsets of the registers: 32 bits each, in the order of the DSDT's field.
const INSERTED: u16 = 0;
const ASKED: u16 = 4;
const CHANGED: u16 = 8;
const RELEASE: u16 = 12;

/// Bytes of the registers.
pub const WINDOW_BYTES: u16 = 16;

/// The registers, and the event that says when to look at them.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    /// First port.
    pub registers: u16,
    events: u16,
    vector: DeviceVector,
}

/// What the registers said: a bit a slot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    /// Slots that got a device.
    pub inserted: u32,
    /// Slots whose device is to go.
    pub asked: u32,
    /// Not 0 if a device left unasked.
    pub changed: u32,
}

impl Slots {
    /// Has changes raise `vector` on the calling processor.
    pub fn listen(boot: &BootInfo, vector: DeviceVector) -> Self {
        // OperationRegion (PSLR, SystemIO, word, 16), Field (PSLR, DWordAcc, NoLock, Preserve).
        let region = acpi::find_in_dsdt(boot.rsdp, b"\x5b\x80PSLR\x01\x0b");
        let registers = crate::physical::read(region + 8);
        let events = acpi_power::event_register(boot.rsdp);
        apic::enable();
        apic::route(GSI, vector);
        Self {
            registers,
            events,
            vector,
        }
    }

    /// Interrupts so far.
    pub fn interrupts(&self) -> u64 {
        self.vector.count()
    }

    /// Takes what changed since this was last called, if an event says that something did.
    pub fn take(&self) -> Option<Changes> {
        if port::read(self.events) & PCI_SLOTS == 0 {
            return None;
        }
        let read = |offset| port::read_u32(self.registers + offset);
        Some(Changes {
            inserted: read(INSERTED),
            asked: read(ASKED),
            changed: read(CHANGED),
        })
    }

    /// Lets the devices in the slots of `bits` go.
    pub fn release(&self, bits: u32) {
        port::write_u32(self.registers + RELEASE, bits);
    }
}

/// The numbers of the bits in `bits`.
pub fn slots(bits: u32) -> impl Iterator<Item = u8> {
    (0..pci::DEVICES).filter(move |device| bits & 1 << device != 0)
}

/// The function in a slot that is not empty.
pub fn function(boot: &BootInfo, slot: u8) -> Function {
    match pci::functions(boot).find(|function| function.device == slot) {
        Some(function) => function,
        None => crate::fail!("nothing is in slot {slot}"),
    }
}
