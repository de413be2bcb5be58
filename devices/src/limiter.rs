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
mod tests;
