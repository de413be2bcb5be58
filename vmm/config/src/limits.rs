//! Rate limits as a user states them.

use serde::{Deserialize, Serialize};

/// A bucket of `size` tokens that refills linearly within `refill_time`.
///
/// A bucket whose `size` or `refill_time` is 0 is disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenBucket {
    /// Tokens: bytes or operations.
    pub size: u64,
    /// Tokens that can be spent once, before those of the bucket.
    #[serde(default)]
    pub one_time_burst: Option<u64>,
    /// Milliseconds for a refill from empty to full.
    pub refill_time: u64,
}

impl TokenBucket {
    /// The bucket as it is told: `None` when it does not limit, and no burst of 0.
    fn normalised(self) -> Option<Self> {
        let one_time_burst = self.one_time_burst.filter(|burst| *burst > 0);
        (self.size > 0 && self.refill_time > 0).then_some(Self {
            one_time_burst,
            ..self
        })
    }
}

/// Two buckets; an absent one does not limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RateLimiter {
    /// Bytes.
    pub bandwidth: Option<TokenBucket>,
    /// Operations.
    pub ops: Option<TokenBucket>,
}

impl RateLimiter {
    /// The limiter as it is told: `None` when it does not limit.
    #[must_use]
    pub fn normalised(self) -> Option<Self> {
        let limiter = Self {
            bandwidth: self.bandwidth.and_then(TokenBucket::normalised),
            ops: self.ops.and_then(TokenBucket::normalised),
        };
        (limiter != Self::default()).then_some(limiter)
    }

    /// `old` after `patch`: an absent bucket stays, one with zeros goes.
    #[must_use]
    pub fn patched(old: Option<Self>, patch: Option<Self>) -> Option<Self> {
        let (old, patch) = (old.unwrap_or_default(), patch.unwrap_or_default());
        let limiter = Self {
            bandwidth: patch.bandwidth.or(old.bandwidth),
            ops: patch.ops.or(old.ops),
        };
        limiter.normalised()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: TokenBucket = TokenBucket {
        size: 0,
        one_time_burst: None,
        refill_time: 0,
    };
    const SOME: TokenBucket = TokenBucket {
        size: 7,
        one_time_burst: None,
        refill_time: 9,
    };

    fn limiter(bandwidth: Option<TokenBucket>, ops: Option<TokenBucket>) -> Option<RateLimiter> {
        Some(RateLimiter { bandwidth, ops })
    }

    #[test]
    fn limiter_that_does_not_limit_is_told_as_none() {
        let stated = RateLimiter {
            bandwidth: Some(NONE),
            ops: Some(TokenBucket {
                one_time_burst: Some(0),
                ..SOME
            }),
        };
        assert_eq!(stated.normalised(), limiter(None, Some(SOME)));
        assert_eq!(RateLimiter::default().normalised(), None);
    }

    #[test]
    fn patch_keeps_absent_buckets_and_drops_those_with_zeros() {
        let both = limiter(Some(SOME), Some(SOME));
        assert_eq!(RateLimiter::patched(both, None), both);
        let without_ops = RateLimiter::patched(both, limiter(None, Some(NONE)));
        assert_eq!(without_ops, limiter(Some(SOME), None));
        assert_eq!(
            RateLimiter::patched(without_ops, limiter(Some(NONE), None)),
            None
        );
    }
}
