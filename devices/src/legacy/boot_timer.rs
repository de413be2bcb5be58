//! The boot timer: a page at which the guest says once that it has booted.
//!
//! A guest's first program writes one byte, `BOOTED`, to the page's first address. All else means nothing, and nothing
//! is read here. A guest may say it again and again, so only the first time counts.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::Registers;

/// Bytes of the window.
pub const WINDOW_LEN: u64 = 0x1000;

/// What a guest that has booted writes.
const BOOTED: u8 = 123;

/// The device.
pub struct BootTimer {
    is_told: AtomicBool,
    /// Hears that the guest has booted.
    listener: Box<dyn Fn() + Send + Sync>,
}

impl BootTimer {
    /// A device that tells `listener`, on a vCPU's thread and at most once, that the guest has booted.
    #[must_use]
    pub fn new(listener: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            is_told: AtomicBool::new(false),
            listener,
        }
    }
}

impl Registers for BootTimer {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == 0 && data == [BOOTED] && !self.is_told.swap(true, Ordering::Relaxed) {
            (self.listener)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn timer() -> (BootTimer, mpsc::Receiver<()>) {
        let (said, heard) = mpsc::sync_channel(9);
        let timer = BootTimer::new(Box::new(move || said.send(()).unwrap()));
        (timer, heard)
    }

    #[test]
    fn the_first_word_counts_and_no_other() {
        let (timer, heard) = timer();
        timer.write(0, &[BOOTED]);
        assert_eq!(heard.try_iter().count(), 1);
        timer.write(0, &[BOOTED]);
        assert_eq!(heard.try_iter().count(), 0);
    }

    #[test]
    fn nothing_else_means_anything() {
        let (timer, heard) = timer();
        for byte in (0..=u8::MAX).filter(|byte| *byte != BOOTED) {
            timer.write(0, &[byte]);
        }
        for offset in [1, 4, WINDOW_LEN - 1, u64::MAX] {
            timer.write(offset, &[BOOTED]);
        }
        for len in [0, 2, 4, 8] {
            timer.write(0, &[BOOTED, 0, 0, 0, 0, 0, 0, 0][..len]);
            timer.write(0, &[BOOTED; 8][..len]);
        }
        assert_eq!(heard.try_iter().count(), 0);
        timer.write(0, &[BOOTED]);
        assert_eq!(heard.try_iter().count(), 1);
    }

    #[test]
    fn it_reads_as_0() {
        let (timer, heard) = timer();
        for offset in [0, 1, WINDOW_LEN - 8] {
            let mut data = [0xff; 8];
            timer.read(offset, &mut data);
            assert_eq!(data, [0; 8]);
        }
        assert_eq!(heard.try_iter().count(), 0);
    }
}
