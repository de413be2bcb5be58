//! Rate limits on a clock that a test moves.

use vm_config::RateLimiter;

use crate::limiter::Limits;

/// The limits of a device, as its worker sees them.
#[derive(Clone, Debug)]
pub struct FakeLimits {
    limits: Limits,
    now: u64,
}

impl FakeLimits {
    /// What a user stated; the clock begins at 0.
    #[must_use]
    pub fn new(stated: RateLimiter) -> Self {
        Self {
            limits: Limits::new(stated, 0),
            now: 0,
        }
    }

    /// A user states other limits.
    pub fn patch(&mut self, patch: RateLimiter) {
        self.limits.patch(patch, self.now);
    }

    /// Nanoseconds go by; false when the clock would end before.
    pub fn advance(&mut self, ns: u64) -> bool {
        let Some(now) = self.now.checked_add(ns) else {
            return false;
        };
        self.now = now;
        self.limits.refill(now);
        true
    }

    /// Nanoseconds until one operation of `bytes` may pass.
    #[must_use]
    pub fn wait_ns(&self, bytes: u64) -> u64 {
        self.limits.wait_ns(bytes)
    }

    /// One operation of `bytes` passes.
    pub fn spend(&mut self, bytes: u64) {
        self.limits.spend(bytes);
    }
}
