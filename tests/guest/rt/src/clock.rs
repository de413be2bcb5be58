//! Time by the processor's counter, and waiting with a limit.
//!
//! The counter's frequency is not known here and need not be: a limit only tells a hang from slow work.

use core::hint::spin_loop;

/// Ten seconds or more on any processor below 6 GHz.
pub const LONG: u64 = 60_000_000_000;
/// 20 ms or more on any processor above 1 GHz and below 5 GHz: enough for a device to do something.
pub const SHORT: u64 = 100_000_000;

/// The time-stamp counter.
pub fn cycles() -> u64 {
    // SAFETY: the instruction reads a counter; `entry.s` leaves CR4.TSD clear, so ring 3 may.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Spins until `is_done` or until `limit` cycles have passed; says whether it was done.
pub fn spin_until(limit: u64, mut is_done: impl FnMut() -> bool) -> bool {
    let start = cycles();
    loop {
        if is_done() {
            return true;
        }
        if cycles().wrapping_sub(start) > limit {
            return false;
        }
        spin_loop();
    }
}
