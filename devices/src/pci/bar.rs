//! Base address registers (PCI 3.0 §6.2.5.1).
//!
//! A window is assigned before the guest runs, by the number of its slot, and stays there: the register takes any
//! address, as sizing asks, but the function answers only while memory decoding is on *and* the register
//! holds the assigned address. A guest that moves a window, over RAM, over another device or elsewhere,
//! finds the function silent until it moves it back; nothing else is touched. ACPI tells guests to keep the
//! assignment (PCI Firmware 3.3 §4.6.5, function 5 of `_DSM`), and those that read it do.

use super::config::{COMMAND, COMMAND_MEMORY, ConfigurationSpace};

/// Offset of the first base address register.
pub(super) const BASE_ADDRESS_0: u16 = 0x10;

/// Memory, 64 bits wide, not prefetchable: reads have effects.
const MEMORY_64: u32 = 0b0100;

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

    /// Whether the function answers in its window.
    #[must_use]
    pub fn is_decoded(self, space: &ConfigurationSpace) -> bool {
        let low = space.word(BASE_ADDRESS_0) & !0xf;
        let address = u64::from(space.word(BASE_ADDRESS_0 + 4)) << 32 | u64::from(low);
        space.word(COMMAND) & COMMAND_MEMORY != 0 && address == self.address
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
        assert!(BAR.is_decoded(&space));
    }

    #[test]
    fn a_window_that_was_moved_is_silent_until_it_is_back() {
        let mut space = space();
        assert!(BAR.is_decoded(&space));
        for (low, high) in [
            (0, 0),
            (0x10_0000, 0),
            (0x10_0000, 0x40),
            (u32::MAX, u32::MAX),
        ] {
            write(&mut space, low, high);
            assert!(!BAR.is_decoded(&space), "{high:#x}:{low:#x}");
        }
        write(&mut space, 0x8_0000, 0x40);
        assert!(BAR.is_decoded(&space));
    }

    #[test]
    fn decoding_can_be_turned_off() {
        let mut space = space();
        space.write(COMMAND, &[4, 0]);
        assert!(!BAR.is_decoded(&space));
    }
}
