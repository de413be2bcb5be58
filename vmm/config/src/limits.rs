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
