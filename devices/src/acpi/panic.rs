//! Hears that the guest's kernel panicked: the pvpanic device of one byte (QEMU `docs/specs/pvpanic.rst`).
//!
//! Reading says what can be told; writing tells it. A guest may tell the same again and again, so only the first time is
//! logged and the others are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::Registers;
use crate::metrics::GuestPanicMetrics;

/// Bytes of the window.
pub const WINDOW_LEN: u64 = 1;

/// The kernel panicked, and nothing follows.
const PANICKED: u8 = 1 << 0;
/// The kernel panicked, and a crash kernel takes over.
const CRASH_LOADED: u8 = 1 << 1;

/// The device.
pub struct PanicNotice {
    /// What the guest told so far.
    told: AtomicU8,
    /// Hears of each thing that the guest tells for the first time.
    listener: Box<dyn Fn(Panicked) + Send + Sync>,
    metrics: Arc<GuestPanicMetrics>,
}

/// What a guest can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Panicked {
    /// The kernel panicked, and nothing follows.
    ForGood,
    /// The kernel panicked, and a crash kernel takes over.
    WithCrashKernel,
}

impl PanicNotice {
    /// A device that tells `listener`, on a vCPU's thread, what the guest tells for the first time.
    #[must_use]
    pub fn new(listener: Box<dyn Fn(Panicked) + Send + Sync>) -> Self {
        Self {
            listener,
            told: AtomicU8::new(0),
            metrics: Arc::default(),
        }
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<GuestPanicMetrics> {
        Arc::clone(&self.metrics)
    }

    /// The guest said that it panicked.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed) != 0
    }
}

/// One byte; an access of any other width reads as 0 and tells nothing.
impl Registers for PanicNotice {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let [byte] = data {
            *byte = PANICKED | CRASH_LOADED;
        }
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        let [told] = data else {
            return;
        };
        let told = told & (PANICKED | CRASH_LOADED);
        let before = self.told.fetch_or(told, Ordering::Relaxed);
        if told & PANICKED != 0 {
            self.metrics.panic_count.increment();
        }
        if told & CRASH_LOADED != 0 {
            self.metrics.crash_loaded_count.increment();
        }
        if told & !before & PANICKED != 0 {
            tracing::warn!("the guest's kernel panicked; its console says why");
            (self.listener)(Panicked::ForGood);
        }
        if told & !before & CRASH_LOADED != 0 {
            tracing::warn!("the guest's kernel panicked; its crash kernel takes over");
            (self.listener)(Panicked::WithCrashKernel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(notice: &PanicNotice) -> (u64, u64) {
        let metrics = notice.metrics();
        (metrics.panic_count.get(), metrics.crash_loaded_count.get())
    }

    fn deaf() -> PanicNotice {
        PanicNotice::new(Box::new(|_| {}))
    }

    #[test]
    fn whoever_listens_hears_of_each_thing_once() {
        let (said, heard) = std::sync::mpsc::sync_channel(9);
        let notice = PanicNotice::new(Box::new(move |what| said.send(what).unwrap()));
        for told in [CRASH_LOADED, CRASH_LOADED, PANICKED, PANICKED] {
            notice.write(0, &[told]);
        }
        let heard: Vec<_> = heard.try_iter().collect();
        assert_eq!(heard, [Panicked::WithCrashKernel, Panicked::ForGood]);
    }

    #[test]
    fn a_driver_learns_what_it_can_tell_and_tells_it() {
        let notice = deaf();
        let mut byte = [0];
        notice.read(0, &mut byte);
        assert_eq!(byte, [0b11]);
        assert!(!notice.is_told());
        notice.write(0, &[CRASH_LOADED]);
        assert!(notice.is_told());
        notice.write(0, &[PANICKED]);
        notice.write(0, &[PANICKED | CRASH_LOADED]);
        assert_eq!(counts(&notice), (2, 2));
    }

    #[test]
    fn other_bits_and_widths_tell_nothing() {
        let notice = deaf();
        notice.write(0, &[0b1111_1100]);
        for len in [2, 4, 8] {
            let mut data = [0xff; 8];
            notice.write(0, &data[..len]);
            notice.read(0, &mut data[..len]);
            assert!(data[..len].iter().all(|byte| *byte == 0));
        }
        assert!(!notice.is_told());
        assert_eq!(counts(&notice), (0, 0));
    }
}
