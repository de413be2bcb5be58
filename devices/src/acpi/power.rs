//! How a guest switches the machine off or resets it by ACPI: the sleep registers of a hardware-reduced machine
//! (ACPI 6.5 §4.8.3.7) and the reset register (§4.8.3.6).
//!
//! There is one sleep state, S5, which is off. Nothing wakes, so the wake status is never set.

use std::sync::Arc;

use crate::Registers;
use crate::legacy::ResetLine;

/// Bytes of the window.
pub const WINDOW_LEN: u64 = 3;

/// Offset of `SLEEP_CONTROL_REG`.
pub const SLEEP_CONTROL: u64 = 0;
/// Offset of `SLEEP_STATUS_REG`.
pub const SLEEP_STATUS: u64 = 1;
/// Offset of `RESET_REG`.
pub const RESET: u64 = 2;

/// What the guest writes to `RESET_REG` (`RESET_VALUE`).
pub const RESET_VALUE: u8 = 1;
/// `SLP_TYPx` of S5, three bits.
pub const SLEEP_TYPE_OFF: u8 = 5;

/// `SLP_EN` (§4.8.3.7, table 4.20).
const SLEEP_ENABLE: u8 = 1 << 5;
/// `SLP_TYPx`.
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0b111;

/// The registers.
pub struct Power {
    off: Arc<dyn ResetLine>,
    reset: Arc<dyn ResetLine>,
}

impl Power {
    /// Registers that switch the machine off by `off` and reset it by `reset`.
    #[must_use]
    pub fn new(off: Arc<dyn ResetLine>, reset: Arc<dyn ResetLine>) -> Self {
        Self { off, reset }
    }
}

/// Registers are bytes, and all of them read as 0.
impl Registers for Power {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let [value] = data else {
            return;
        };
        let sleep_type = value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK;
        let is_off = value & SLEEP_ENABLE != 0 && sleep_type == SLEEP_TYPE_OFF;
        match offset {
            SLEEP_CONTROL if is_off => self.off.reset(),
            RESET if *value == RESET_VALUE => self.reset.reset(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts of what every write of every width to every register did: off, reset.
    fn done_by(writes: impl Iterator<Item = (u64, Vec<u8>)>) -> (usize, usize) {
        let counts = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let [off, reset] = counts.clone().map(|count| {
            Arc::new(move || {
                count.fetch_add(1, Ordering::Relaxed);
            })
        });
        let power = Power::new(off, reset);
        for (offset, data) in writes {
            power.write(offset, &data);
        }
        let [off, reset] = counts.map(|count| count.load(Ordering::Relaxed));
        (off, reset)
    }

    #[test]
    fn sleep_type_5_with_the_enable_bit_switches_off() {
        let one = |value| done_by(std::iter::once((SLEEP_CONTROL, vec![value])));
        assert_eq!(one(0b0011_0100), (1, 0));
        // Bit 1 is ignored, and so are reserved ones.
        assert_eq!(one(0b1111_0111), (1, 0));
        // Not enabled, or another state.
        for value in [0b0001_0100, 0b0011_0000, 0b0010_0000, 0] {
            assert_eq!(one(value), (0, 0), "{value:#b}");
        }
    }

    #[test]
    fn the_reset_value_resets() {
        let all = (0..=u8::MAX).map(|value| (RESET, vec![value]));
        assert_eq!(done_by(all), (0, 1));
    }

    #[test]
    fn other_widths_and_the_status_register_do_nothing() {
        let wide = (0..WINDOW_LEN).flat_map(|offset| {
            [2, 4, 8].map(|len| (offset, [0b0011_0100, 0, 0, 0, 0, 0, 0, 0][..len].to_vec()))
        });
        let status = (0..=u8::MAX).map(|value| (SLEEP_STATUS, vec![value]));
        assert_eq!(done_by(wide.chain(status)), (0, 0));
    }
}
