//! Base address registers (PCI 3.0 §6.2.5.1).
//!
//! A window is assigned when its function is put on the bus, by the number of its slot. The register takes any address,
//! as sizing asks. While memory decoding is on, the function answers at the address that the register holds, if
//! that is one of the places for windows ([`BarWindows`](super::BarWindows)). A guest that moves a window
//! elsewhere, over RAM or another device, finds the function silent until it moves it back; nothing else is touched.
//!
//! ACPI tells guests to keep what was assigned before they started (PCI Firmware 3.3 §4.6.5, function 5 of `_DSM`).
//! Functions that are plugged later they may place where they like, and Linux does
//! (`drivers/pci/setup-bus.c`, `__pci_bus_assign_resources`).

use super::config::{COMMAND, COMMAND_MEMORY, ConfigurationSpace};

/// Offset of the first base address register.
pub(super) const BASE_ADDRESS_0: u16 = 0x10;

/// Memory, 64 bits wide, not prefetchable: reads have effects.
const MEMORY_64: u32 = 0b0100;

/// The host's side of a window: what it has at addresses in it.
pub trait Doorbells: Send + Sync {
    /// The function answers at `address` from now on, wherever that is. Called in the order of the guest's writes, and
    /// not when decoding ends: a kick does no harm at any time.
    fn move_to(&self, address: u64);
}

/// For windows that the host has nothing in.
impl Doorbells for () {
    fn move_to(&self, _address: u64) {}
}

/// One window of memory at the first base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Where it was assigned; a multiple of `size`.
    pub address: u64,
    /// Bytes: a power of two, at least 16.
    pub size: u64,
}

impl Bar {
    /// Puts the register, 64 bits of it, into `space`.
    pub(super) fn lay_out(self, space: &mut ConfigurationSpace) {
        let [low, high] = halves(self.address);
        let [low_mask, high_mask] = halves(!(self.size - 1));
        space.lay_out(BASE_ADDRESS_0, &(low | MEMORY_64).to_le_bytes());
        space.lay_out(BASE_ADDRESS_0 + 4, &high.to_le_bytes());
        space.make_writable(BASE_ADDRESS_0, &low_mask.to_le_bytes());
        space.make_writable(BASE_ADDRESS_0 + 4, &high_mask.to_le_bytes());
    }

    /// Where the function answers, if it does.
    #[must_use]
    pub fn decoded(space: &ConfigurationSpace) -> Option<u64> {
        let low = space.word(BASE_ADDRESS_0) & !0xf;
        let address = u64::from(space.word(BASE_ADDRESS_0 + 4)) << 32 | u64::from(low);
        (space.word(COMMAND) & COMMAND_MEMORY != 0).then_some(address)
    }
}

/// Low and high word.
fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::config::Identity;
    use super::*;

    const BAR: Bar = Bar {
        address: 0x40_0008_0000,
        size: 0x8_0000,
    };

    fn space() -> ConfigurationSpace {
        let mut space = ConfigurationSpace::new(&Identity::default());
        space.add_bar(BAR);
        space.write(COMMAND, &[2, 0]);
        space
    }

    fn write(space: &mut ConfigurationSpace, low: u32, high: u32) {
        space.write(0x10, &low.to_le_bytes());
        space.write(0x14, &high.to_le_bytes());
    }

    #[test]
    fn all_ones_read_back_as_the_size() {
        let mut space = space();
        assert_eq!((space.word(0x10), space.word(0x14)), (0x8_0004, 0x40));
        write(&mut space, u32::MAX, u32::MAX);
        assert_eq!(
            (space.word(0x10), space.word(0x14)),
            (0xfff8_0004, u32::MAX)
        );
        write(&mut space, 0x8_0004, 0x40);
        assert_eq!(Bar::decoded(&space), Some(BAR.address));
    }

    #[test]
    fn a_window_is_where_the_register_says_in_steps_of_its_size() {
        let mut space = space();
        assert_eq!(Bar::decoded(&space), Some(BAR.address));
        for (low, high, address) in [
            (0, 0, 0),
            (0x10_0000, 0x40, 0x40_0010_0000),
            (0x17_ffff, 0x40, 0x40_0010_0000),
            (u32::MAX, u32::MAX, 0xffff_ffff_fff8_0000),
        ] {
            write(&mut space, low, high);
            assert_eq!(Bar::decoded(&space), Some(address), "{high:#x}:{low:#x}");
        }
    }

    #[test]
    fn decoding_can_be_turned_off() {
        let mut space = space();
        space.write(COMMAND, &[4, 0]);
        assert_eq!(Bar::decoded(&space), None);
    }
}
