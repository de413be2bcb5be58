//! Rate limits.

use vm_config::RateLimiter;

/// Whether the user asked for a limit at all: an absent or disabled bucket does not limit.
pub(crate) fn is_limiting(limiter: Option<RateLimiter>) -> bool {
    let buckets = limiter.map(|limiter| [limiter.bandwidth, limiter.ops]);
    let mut buckets = buckets.into_iter().flatten().flatten();
    buckets.any(|bucket| bucket.size > 0 && bucket.refill_time > 0)
}
