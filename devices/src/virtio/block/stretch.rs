//! How long requests take, by a clock that is read as seldom as can be: reading it costs as much as a tenth of a read from
//! the host's cache.

use std::time::Instant;

use super::request::Op;
use crate::metrics::{BlockMetrics, Latency};

/// What a disk does in a row: requests of one direction count as the mean of them. Two looks at the clock a turn, and
/// one more wherever the direction changes.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    begun: Option<(Direction, Instant)>,
    count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

impl Direction {
    /// `None` for what moves no data.
    pub(super) fn of(op: Op) -> Option<Self> {
        match op {
            Op::Read { .. } => Some(Self::Read),
            Op::Write { .. } => Some(Self::Write),
            _ => None,
        }
    }

    pub(super) fn latency(self, metrics: &BlockMetrics) -> &Latency {
        match self {
            Self::Read => &metrics.read_agg,
            Self::Write => &metrics.write_agg,
        }
    }
}

impl Stretch {
    /// A request begins, and the one before it is done.
    pub(super) fn next(&mut self, op: Op, metrics: &BlockMetrics) {
        let direction = Direction::of(op);
        if self.begun.map(|(begun, _)| begun) != direction {
            self.end(metrics);
            self.begun = direction.map(|direction| (direction, Instant::now()));
        }
        self.count += 1;
    }

    /// The last request is done.
    pub(super) fn end(&mut self, metrics: &BlockMetrics) {
        if let Some((direction, start)) = self.begun.take() {
            let latency = direction.latency(metrics);
            latency.record_many(start.elapsed(), self.count);
        }
        self.count = 0;
    }

    /// What was begun is not worth counting.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Metric;

    const READ: Op = Op::Read { at: 0 };
    const WRITE: Op = Op::Write { at: 0 };

    fn wait(ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }

    #[test]
    fn each_direction_has_its_own_time_and_what_lies_between_is_nobodys() {
        let metrics = BlockMetrics::new();
        let mut stretch = Stretch::default();
        let begin = Instant::now();
        stretch.next(READ, &metrics);
        stretch.next(READ, &metrics);
        wait(8);
        stretch.next(WRITE, &metrics);
        wait(4);
        stretch.next(Op::Flush, &metrics);
        wait(20);
        stretch.next(WRITE, &metrics);
        stretch.end(&metrics);
        let all = begin.elapsed();
        assert!(metrics.read_agg.sum() >= Duration::from_millis(8));
        assert!(metrics.write_agg.sum() >= Duration::from_millis(4));
        let both = metrics.read_agg.sum() + metrics.write_agg.sum();
        assert!(both + Duration::from_millis(20) <= all);
        // Two reads took as long as their mean each.
        let mut parts = [0; 3];
        metrics.read_agg.read(&mut parts);
        assert_eq!(parts[0], parts[2] / 2);
    }

    #[test]
    fn what_is_forgotten_is_not_counted() {
        let metrics = BlockMetrics::new();
        let mut stretch = Stretch::default();
        stretch.next(READ, &metrics);
        stretch.forget();
        stretch.end(&metrics);
        assert_eq!(metrics.read_agg.sum(), Duration::ZERO);
    }
}
