//! What is counted: numbers that any thread changes without waiting, and how each is shown.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Something that a group has under a key: one number, or a few that belong together.
pub trait Metric {
    /// Its numbers.
    const PARTS: &'static [Part];
    /// Reads them, in the order of [`Metric::PARTS`].
    fn read(&self, into: &mut [u64]);
}

/// One number of a [`Metric`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its key within the metric; `None` when the metric is one number.
    pub key: Option<&'static str>,
    /// What it tells.
    pub kind: Kind,
}

/// What a number tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; a line of the metrics file has what it grew by since the line before.
    Counter,
    /// Only grows; a line of the metrics file has all of it.
    Total,
    /// The last of its kind.
    Store,
    /// The smallest so far, 0 for none yet.
    Min,
    /// The largest so far.
    Max,
}

const ONE_COUNTER: &[Part] = &[Part {
    key: None,
    kind: Kind::Counter,
}];

/// A number that only grows. Relaxed: it orders nothing.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// `count` more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// None so far.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl Metric for Counter {
    const PARTS: &'static [Part] = ONE_COUNTER;

    fn read(&self, into: &mut [u64]) {
        into[0] = self.get();
    }
}

/// A number that only grows, told whole each time: for what happens once in a process's life.
#[derive(Debug, Default)]
pub struct Tally(Counter);

impl Tally {
    /// One more.
    pub fn increment(&self) {
        self.0.increment();
    }

    /// How many so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.get()
    }

    /// None so far.
    #[must_use]
    pub const fn new() -> Self {
        Self(Counter::new())
    }
}

impl Metric for Tally {
    const PARTS: &'static [Part] = &[Part {
        key: None,
        kind: Kind::Total,
    }];

    fn read(&self, into: &mut [u64]) {
        into[0] = self.get();
    }
}

/// A number that is set; 0 before.
#[derive(Debug, Default)]
pub struct Store(AtomicU64);

impl Store {
    /// It is `value` now.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// How long something took, in microseconds.
    pub fn set_us(&self, took: Duration) {
        self.set(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// What it is.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Not set.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl Metric for Store {
    const PARTS: &'static [Part] = &[Part {
        key: None,
        kind: Kind::Store,
    }];

    fn read(&self, into: &mut [u64]) {
        into[0] = self.get();
    }
}

/// How long things took: the shortest, the longest, all together. Kept in nanoseconds, so that many short ones add up.
#[derive(Debug)]
pub struct Latency {
    /// `u64::MAX` for none yet.
    min_ns: AtomicU64,
    max_ns: AtomicU64,
    sum_ns: AtomicU64,
}

impl Latency {
    /// One took this long.
    pub fn record(&self, took: Duration) {
        self.record_many(took, 1);
    }

    /// `count` in a row took this long together; each counts as the mean of them.
    pub fn record_many(&self, took: Duration, count: u64) {
        let all_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let Some(each_ns) = all_ns.checked_div(count) else {
            return;
        };
        // Records are rare: most are read, not written.
        if each_ns < self.min_ns.load(Ordering::Relaxed) {
            self.min_ns.fetch_min(each_ns, Ordering::Relaxed);
        }
        if each_ns > self.max_ns.load(Ordering::Relaxed) {
            self.max_ns.fetch_max(each_ns, Ordering::Relaxed);
        }
        self.sum_ns.fetch_add(all_ns, Ordering::Relaxed);
    }

    /// How long they took together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed))
    }

    /// Nothing so far.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            min_ns: AtomicU64::new(u64::MAX),
            max_ns: AtomicU64::new(0),
            sum_ns: AtomicU64::new(0),
        }
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

impl Metric for Latency {
    const PARTS: &'static [Part] = &[
        Part {
            key: Some("min_us"),
            kind: Kind::Min,
        },
        Part {
            key: Some("max_us"),
            kind: Kind::Max,
        },
        Part {
            key: Some("sum_us"),
            kind: Kind::Counter,
        },
    ];

    fn read(&self, into: &mut [u64]) {
        let min_ns = self.min_ns.load(Ordering::Relaxed);
        into[0] = if min_ns == u64::MAX { 0 } else { min_ns };
        into[1] = self.max_ns.load(Ordering::Relaxed);
        into[2] = self.sum_ns.load(Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(latency: &Latency) -> [u64; 3] {
        let mut parts = [7; 3];
        latency.read(&mut parts);
        parts
    }

    #[test]
    fn a_latency_has_its_extremes_and_the_sum_of_what_is_too_short_to_see() {
        let latency = Latency::new();
        assert_eq!(read(&latency), [0, 0, 0]);
        for _ in 0..10 {
            latency.record(Duration::from_nanos(300));
        }
        latency.record(Duration::from_micros(5));
        assert_eq!(read(&latency), [300, 5_000, 8_000]);
    }

    #[test]
    fn many_in_a_row_count_as_their_mean() {
        let latency = Latency::new();
        latency.record_many(Duration::from_micros(9), 3);
        latency.record_many(Duration::from_micros(9), 0);
        assert_eq!(read(&latency), [3_000, 3_000, 9_000]);
    }
}
