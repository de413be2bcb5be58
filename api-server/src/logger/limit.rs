//! How many lines one place in the code may write: [`BURST`] at once, and then one every [`PERIOD`].
//!
//! A guest can cause some lines again and again. Those of the `api-server` crate itself are not limited: what a client
//! asked, and how it went, is in the log whole.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Level, Metadata};

/// Lines that a place writes at once.
const BURST: u32 = 10;
/// Until it may write one more: 10 lines in 5 seconds.
const PERIOD: Duration = Duration::from_millis(500);

/// The places that wrote, each with what it may write. There are as many as the code has.
pub(super) struct Limits(Mutex<Vec<(Identifier, Bucket)>>);

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is written, after so many of its place that were left out.
    Write {
        /// How many.
        suppressed: u64,
    },
    /// It is left out.
    LeaveOut,
}

/// What one place may write.
struct Bucket {
    /// Lines it may write now.
    left: u32,
    /// When `left` was right.
    at: Instant,
    /// Lines left out since the last that was written.
    suppressed: u64,
}

impl Limits {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Whether the place of `metadata` may write a line at `now`.
    pub(super) fn ask(&self, metadata: &Metadata<'_>, now: Instant) -> Verdict {
        if !is_limited(metadata) {
            return Verdict::Write { suppressed: 0 };
        }
        let place = metadata.callsite();
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match places.iter_mut().find(|(other, _)| *other == place) {
            Some((_, bucket)) => bucket.ask(now),
            None => {
                let mut bucket = Bucket::full(now);
                let verdict = bucket.ask(now);
                places.push((place, bucket));
                verdict
            }
        }
    }
}

/// Lines for users, from code that runs for a guest. Whoever wants details gets all of them. A diagnosis of a boot has many
/// lines, bounded, and a guest gets it once.
fn is_limited(metadata: &Metadata<'_>) -> bool {
    let module = metadata.module_path().unwrap_or_default();
    let name = module.split("::").next();
    let is_diagnosis = module.starts_with("vmm::diagnosis");
    *metadata.level() <= Level::INFO && matches!(name, Some("vmm" | "devices")) && !is_diagnosis
}

impl Bucket {
    fn full(now: Instant) -> Self {
        Self {
            left: BURST,
            at: now,
            suppressed: 0,
        }
    }

    fn ask(&mut self, now: Instant) -> Verdict {
        let periods = now.saturating_duration_since(self.at).as_millis() / PERIOD.as_millis();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        if self.left.saturating_add(periods) >= BURST {
            (self.left, self.at) = (BURST, now);
        } else {
            self.left += periods;
            self.at += PERIOD * periods;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                let suppressed = std::mem::take(&mut self.suppressed);
                Verdict::Write { suppressed }
            }
            None => {
                self.suppressed = self.suppressed.saturating_add(1);
                Verdict::LeaveOut
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Verdict = Verdict::Write { suppressed: 0 };

    #[test]
    fn ten_lines_are_written_and_then_one_each_half_second() {
        let start = Instant::now();
        let mut bucket = Bucket::full(start);
        for (at_ms, count, verdict) in [
            (0, 10, WRITE),
            (0, 5, Verdict::LeaveOut),
            (499, 1, Verdict::LeaveOut),
            (500, 1, Verdict::Write { suppressed: 6 }),
            (999, 1, Verdict::LeaveOut),
            (1499, 1, Verdict::Write { suppressed: 1 }),
            (1499, 1, Verdict::LeaveOut),
            (1500, 1, Verdict::Write { suppressed: 1 }),
            (60_000, 10, WRITE),
            (60_000, 1, Verdict::LeaveOut),
        ] {
            for _ in 0..count {
                let now = start + Duration::from_millis(at_ms);
                assert_eq!(bucket.ask(now), verdict, "at {at_ms} ms");
            }
        }
    }

    #[test]
    fn a_clock_that_stands_still_gives_no_lines() {
        let start = Instant::now() + Duration::from_secs(1);
        let mut bucket = Bucket::full(start);
        let earlier = start - Duration::from_millis(900);
        let written = (0..100).filter(|_| bucket.ask(earlier) == WRITE);
        assert_eq!(written.count(), 10);
    }
}
