//! Rate limits: token buckets, and the gate that a worker passes each request or frame through.
//!
//! A bucket holds `size` tokens at first and refills evenly, `size` tokens in `refill_time`. A request that costs
//! more than there is waits until it fits; one that costs more than the bucket ever holds passes as soon as
//! nothing is owed, and is owed after. Tokens of the one-time burst are spent first and never come back.
//!
//! All of it is arithmetic on a clock that a worker reads once a turn. A device without limits reads no clock;
//! one with limits has a timer, which is armed only when something waits.

mod dropping;

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vm_config::{RateLimiter, TokenBucket};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::timerfd::TimerFd;

use crate::virtio::{Source, Token};
pub(crate) use dropping::Allowance;

/// The shortest wait: several requests pass after it, where each would have waited for itself.
const SHORTEST_WAIT_NS: u64 = 1_000_000;

/// The clock's zero.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Tokens, in units that lose nothing to rounding: a token is `refill_ns` units, and `size` units come back each
/// nanosecond.
#[derive(Clone, Debug)]
struct Bucket {
    /// Tokens, above 0.
    size: u64,
    /// Nanoseconds for `size` tokens, above 0.
    refill_ns: u64,
    /// Tokens left of the one-time burst.
    burst: u64,
    /// Units that are missing; more than [`Bucket::capacity`] when tokens are owed.
    missing: u128,
    /// Nanoseconds at which `missing` was right.
    counted_at: u64,
}

/// The limits of a device, or of one direction of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    bandwidth: Option<Bucket>,
    ops: Option<Bucket>,
}

/// Where a device keeps its limits while no worker has them, so that neither a pause nor a reset fills a bucket.
#[derive(Clone, Debug, Default)]
pub(crate) struct LimitsAtHome(Arc<Mutex<Limits>>);

/// The gate of a running worker.
#[derive(Debug)]
pub(crate) struct Limiter {
    limits: Limits,
    home: LimitsAtHome,
    /// Absent when nothing is limited.
    timer: Option<TimerFd>,
    /// The clock when it was last read.
    now: u64,
    /// Nothing passes before; 0 when the gate is open.
    shut_until: u64,
}

impl Bucket {
    /// A full bucket; `None` for one that does not limit.
    fn new(stated: TokenBucket, now: u64) -> Option<Self> {
        let refill_ns = stated.refill_time.saturating_mul(1_000_000);
        (stated.size > 0 && refill_ns > 0).then(|| Self {
            size: stated.size,
            refill_ns,
            burst: stated.one_time_burst.unwrap_or(0),
            missing: 0,
            counted_at: now,
        })
    }

    /// Units of a full bucket.
    fn capacity(&self) -> u128 {
        u128::from(self.size).saturating_mul(self.refill_ns.into())
    }

    /// Counts what came back until `now`.
    fn refill(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.counted_at);
        let back = u128::from(elapsed).saturating_mul(self.size.into());
        self.missing = self.missing.saturating_sub(back);
        self.counted_at = now;
    }

    /// Nanoseconds until `tokens` can be spent, counted from the last [`Bucket::refill`].
    fn wait_ns(&self, tokens: u64) -> u64 {
        let tokens = tokens.saturating_sub(self.burst);
        if tokens == 0 {
            return 0;
        }
        // What never fits waits only until nothing is owed.
        let needed = if tokens > self.size { 0 } else { tokens };
        let needed = u128::from(needed).saturating_mul(self.refill_ns.into());
        let too_many = self
            .missing
            .saturating_sub(self.capacity().saturating_sub(needed));
        u64::try_from(too_many.div_ceil(self.size.into())).unwrap_or(u64::MAX)
    }

    /// Spends, and owes what is not there.
    fn spend(&mut self, tokens: u64) {
        let from_burst = tokens.min(self.burst);
        self.burst = self.burst.saturating_sub(from_burst);
        let tokens = tokens.saturating_sub(from_burst);
        let units = u128::from(tokens).saturating_mul(self.refill_ns.into());
        self.missing = self.missing.saturating_add(units);
    }

    /// The wait that is worth a timer: long enough for several requests, and too short for a full bucket.
    fn shortest_wait_ns(&self) -> u64 {
        (self.refill_ns / 10).min(SHORTEST_WAIT_NS)
    }
}

impl Limits {
    /// What a user stated; full buckets.
    pub(crate) fn new(stated: RateLimiter, now: u64) -> Self {
        let bucket = |stated: Option<_>| stated.and_then(|stated| Bucket::new(stated, now));
        Self {
            bandwidth: bucket(stated.bandwidth),
            ops: bucket(stated.ops),
        }
    }

    /// Replaces the buckets that `patch` has; zeros take one away.
    pub(crate) fn patch(&mut self, patch: RateLimiter, now: u64) {
        for (bucket, stated) in [
            (&mut self.bandwidth, patch.bandwidth),
            (&mut self.ops, patch.ops),
        ] {
            if let Some(stated) = stated {
                *bucket = Bucket::new(stated, now);
            }
        }
    }

    pub(crate) fn refill(&mut self, now: u64) {
        for bucket in [&mut self.bandwidth, &mut self.ops].into_iter().flatten() {
            bucket.refill(now);
        }
    }

    /// Nanoseconds until one operation of `bytes` can pass.
    pub(crate) fn wait_ns(&self, bytes: u64) -> u64 {
        let wait = |bucket: &Option<Bucket>, tokens| {
            let bucket = bucket.as_ref()?;
            let wait = bucket.wait_ns(tokens);
            Some(wait.max(bucket.shortest_wait_ns())).filter(|_| wait > 0)
        };
        let waits = [wait(&self.bandwidth, bytes), wait(&self.ops, 1)];
        waits.into_iter().flatten().max().unwrap_or(0)
    }

    /// Spends one operation of `bytes`.
    pub(crate) fn spend(&mut self, bytes: u64) {
        for (bucket, tokens) in [(&mut self.bandwidth, bytes), (&mut self.ops, 1)] {
            if let Some(bucket) = bucket {
                bucket.spend(tokens);
            }
        }
    }
}

impl LimitsAtHome {
    /// What a user stated, if anything.
    pub(crate) fn new(stated: Option<RateLimiter>) -> Self {
        let limits = Limits::new(stated.unwrap_or_default(), now());
        Self(Arc::new(Mutex::new(limits)))
    }

    /// Replaces the buckets that `patch` has; zeros take one away. While no worker runs.
    pub(crate) fn patch(&self, patch: RateLimiter) {
        self.lock().patch(patch, now());
    }

    fn lock(&self) -> MutexGuard<'_, Limits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Limiter {
    /// Takes the limits from `home` for a worker that starts.
    ///
    /// # Errors
    /// When something is limited and the host gives no timer.
    pub(crate) fn new(home: &LimitsAtHome) -> io::Result<Self> {
        let limits = home.lock().clone();
        let is_limiting = limits.bandwidth.is_some() || limits.ops.is_some();
        Ok(Self {
            limits,
            home: home.clone(),
            timer: is_limiting.then(TimerFd::new).transpose()?,
            now: 0,
            shut_until: 0,
        })
    }

    /// What wakes the worker when the gate opens. Like kicks it is never read: each expiry is an edge.
    pub(crate) fn source(&self, token: Token) -> Option<Source> {
        self.timer.as_ref().map(|timer| Source {
            fd: timer.as_raw_fd(),
            token,
            events: EventSet::IN,
        })
    }

    /// At the start of a turn: false while something waits for its time.
    pub(crate) fn opens(&mut self) -> bool {
        if self.timer.is_none() {
            return true;
        }
        self.now = now();
        if self.now < self.shut_until {
            return false;
        }
        self.shut_until = 0;
        self.limits.refill(self.now);
        true
    }

    /// Whether one operation of `bytes` may pass now. If not, the timer wakes the worker when it may.
    pub(crate) fn admits(&mut self, bytes: u64) -> bool {
        let Some(timer) = &mut self.timer else {
            return true;
        };
        if self.limits.wait_ns(bytes) == 0 {
            return true;
        }
        // A turn takes a while, and the clock was read when it began.
        self.now = now();
        self.limits.refill(self.now);
        let wait = self.limits.wait_ns(bytes);
        // A timer that cannot be set would never open the gate.
        if wait == 0 || timer.reset(Duration::from_nanos(wait), None).is_err() {
            return true;
        }
        self.shut_until = self.now.saturating_add(wait);
        false
    }

    /// Whether one operation of `bytes` would have to wait, as far as is known.
    pub(crate) fn is_short_of(&self, bytes: u64) -> bool {
        self.timer.is_some() && self.limits.wait_ns(bytes) > 0
    }

    /// Spends one operation of `bytes`, which was admitted.
    pub(crate) fn spend(&mut self, bytes: u64) {
        if self.timer.is_some() {
            self.limits.spend(bytes);
        }
    }

    /// Something waits for its time.
    pub(crate) fn is_shut(&self) -> bool {
        self.shut_until > 0
    }

    /// Brings the limits home when the worker stops.
    pub(crate) fn stop(self) {
        if self.timer.is_some() {
            *self.home.lock() = self.limits;
        }
    }
}

/// Nanoseconds since the clock's zero.
pub(crate) fn now() -> u64 {
    let elapsed = Instant::now().saturating_duration_since(*START);
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn stated(size: u64, refill_time: u64) -> TokenBucket {
        TokenBucket {
            size,
            one_time_burst: None,
            refill_time,
        }
    }

    fn bytes_only(bandwidth: TokenBucket) -> RateLimiter {
        RateLimiter {
            bandwidth: Some(bandwidth),
            ops: None,
        }
    }

    /// Sends requests of `bytes` as fast as they pass; when each of them did, until `end`.
    fn send(limits: &mut Limits, bytes: u64, end: u64) -> Vec<u64> {
        let (mut now, mut passed) = (0, Vec::new());
        while now < end {
            limits.refill(now);
            match limits.wait_ns(bytes) {
                0 => {
                    limits.spend(bytes);
                    passed.push(now);
                }
                wait => now += wait,
            }
        }
        passed
    }

    proptest! {
        #[test]
        fn each_second_passes_the_stated_rate_within_one_percent(
            rate in 1_000_000_u64..1 << 34,
            refill_time in prop::sample::select(vec![1_u64, 7, 100, 250, 1000]),
            share in 200_u64..1000,
        ) {
            let size = rate * refill_time / 1000;
            let bytes = (rate / share).min(size);
            let mut limits = Limits::new(bytes_only(stated(size, refill_time)), 0);
            // The first second empties the bucket.
            for second in 1..5 {
                let passed = send(&mut limits, bytes, 6 * SECOND);
                let window = second * SECOND..(second + 1) * SECOND;
                let count = passed.iter().filter(|at| window.contains(at)).count();
                let actual = count as f64 * bytes as f64;
                let wanted = size as f64 * 1000.0 / refill_time as f64;
                prop_assert!((actual / wanted - 1.0).abs() <= 0.01, "{actual} of {wanted}");
                limits = Limits::new(bytes_only(stated(size, refill_time)), 0);
            }
        }

        #[test]
        fn no_pattern_of_requests_gets_more_than_was_stated(
            size in 1_u64..100_000,
            refill_time in 1_u64..2000,
            burst in 0_u64..100_000,
            requests in prop::collection::vec((1_u64..300_000, 0_u64..50_000_000), 1..100),
        ) {
            let bucket = TokenBucket { one_time_burst: Some(burst), ..stated(size, refill_time) };
            let mut limits = Limits::new(bytes_only(bucket), 0);
            let (mut now, mut spent) = (0, 0);
            for (bytes, pause) in requests {
                now += pause;
                limits.refill(now);
                // All that was spent before was covered, or nothing more would pass.
                let wait = limits.wait_ns(bytes);
                now += wait;
                limits.refill(now);
                prop_assert_eq!(limits.wait_ns(bytes), 0);
                let came = u128::from(now) * u128::from(size) / (u128::from(refill_time) * 1_000_000);
                prop_assert!(spent <= u128::from(size + burst) + came + 1);
                limits.spend(bytes);
                spent += u128::from(bytes);
            }
        }

        #[test]
        fn no_numbers_overflow(size: u64, refill_time: u64, burst: u64, bytes: u64, at: u64) {
            let bucket = TokenBucket { one_time_burst: Some(burst), ..stated(size, refill_time) };
            let mut limits = Limits::new(bytes_only(bucket), 0);
            for now in [0, at, u64::MAX] {
                limits.refill(now);
                let _ = limits.wait_ns(bytes);
                limits.spend(bytes);
                limits.spend(u64::MAX);
                let _ = limits.wait_ns(1);
            }
        }
    }

    #[test]
    fn request_larger_than_the_bucket_passes_and_is_repaid() {
        let mut limits = Limits::new(bytes_only(stated(1000, 1000)), 0);
        assert_eq!(limits.wait_ns(5000), 0);
        limits.spend(5000);
        // 4000 are owed, and the next request finds an empty bucket after that.
        assert_eq!(limits.wait_ns(5000), 4 * SECOND);
        assert_eq!(limits.wait_ns(500), 4 * SECOND + SECOND / 2);
        limits.refill(4 * SECOND);
        assert_eq!(limits.wait_ns(5000), 0);
        assert_eq!(limits.wait_ns(500), SECOND / 2);
    }

    #[test]
    fn burst_is_spent_first_and_once() {
        let bucket = TokenBucket {
            one_time_burst: Some(300),
            ..stated(100, 1000)
        };
        let mut limits = Limits::new(bytes_only(bucket), 0);
        for bytes in [250, 150] {
            assert_eq!(limits.wait_ns(bytes), 0);
            limits.spend(bytes);
        }
        assert_eq!(limits.wait_ns(100), SECOND);
        limits.refill(100 * SECOND);
        assert_eq!(limits.wait_ns(100), 0);
        limits.spend(100);
        assert_eq!(limits.wait_ns(1), SECOND / 100);
    }

    #[test]
    fn both_buckets_must_agree_and_an_operation_without_data_costs_no_bytes() {
        let limiter = RateLimiter {
            bandwidth: Some(stated(100, 1000)),
            ops: Some(stated(2, 1000)),
        };
        let mut limits = Limits::new(limiter, 0);
        limits.spend(100);
        assert_eq!(limits.wait_ns(0), 0);
        assert_eq!(limits.wait_ns(50), SECOND / 2);
        limits.spend(0);
        assert_eq!(limits.wait_ns(0), SECOND / 2);
        assert_eq!(limits.wait_ns(100), SECOND);
    }

    #[test]
    fn bucket_with_a_zero_does_not_limit() {
        for (size, refill_time) in [(0, 1000), (1, 0), (0, 0)] {
            let home = LimitsAtHome::new(Some(bytes_only(stated(size, refill_time))));
            let mut limiter = Limiter::new(&home).unwrap();
            assert!(limiter.source(Token(0)).is_none());
            assert!(limiter.opens() && limiter.admits(u64::MAX));
        }
    }

    #[test]
    fn patch_keeps_what_it_does_not_name_and_zeros_take_away() {
        let limiter = RateLimiter {
            bandwidth: Some(stated(100, 1000)),
            ops: Some(stated(2, 1000)),
        };
        let mut limits = Limits::new(limiter, 0);
        limits.spend(100);
        limits.patch(RateLimiter::default(), 0);
        assert_eq!(limits.wait_ns(100), SECOND);
        limits.patch(bytes_only(stated(200, 1000)), 0);
        assert_eq!(limits.wait_ns(200), 0);
        limits.spend(0);
        limits.patch(bytes_only(stated(0, 0)), 0);
        assert!(limits.bandwidth.is_none());
        assert_eq!(limits.wait_ns(100), SECOND / 2);
    }

    #[test]
    fn gate_arms_its_timer_only_when_something_waits_and_stays_shut_elsewhere() {
        let home = LimitsAtHome::new(Some(bytes_only(stated(100, 100))));
        let mut limiter = Limiter::new(&home).unwrap();
        let is_armed = |limiter: &mut Limiter| {
            let timer = limiter.timer.as_mut().unwrap();
            timer.is_armed().unwrap()
        };
        assert!(limiter.opens() && limiter.admits(100));
        limiter.spend(100);
        assert!(!is_armed(&mut limiter) && !limiter.is_shut());
        assert!(!limiter.admits(100));
        assert!(is_armed(&mut limiter) && limiter.is_shut() && !limiter.opens());
        limiter.stop();

        let mut next = Limiter::new(&home).unwrap();
        assert!(next.opens() && !next.admits(100));
        let timer = next.timer.as_mut().unwrap();
        timer.wait().unwrap();
        assert!(next.opens() && next.admits(100));
    }
}
