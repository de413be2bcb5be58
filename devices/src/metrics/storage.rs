//! Drives and persistent memory.

crate::metric_groups! {
/// A block device (`block_{drive_id}`).
pub struct BlockMetrics = "block" {
    /// The driver started it and it could not start.
    pub activate_fails: Counter,
    /// Accesses to the configuration space that failed: there are none.
    pub cfg_fails: Counter,
    /// The driver looked for requests' completion with no request there: kicks for nothing.
    pub no_avail_buffer: Counter,
    /// Events whose handling failed, because the driver broke the rings.
    pub event_fails: Counter,
    /// Requests that the host could not do.
    pub execute_fails: Counter,
    /// Requests that broke a rule.
    pub invalid_reqs_count: Counter,
    /// Flushes.
    pub flush_count: Counter,
    /// Kicks.
    pub queue_event_count: Counter,
    /// Times the wait for a rate limit ended.
    pub rate_limiter_event_count: Counter,
    /// Changes of the drive while the microVM runs.
    pub update_count: Counter,
    /// Changes that were refused.
    pub update_fails: Counter,
    /// Bytes read by the guest.
    pub read_bytes: Counter in Bytes,
    /// Bytes written by the guest.
    pub write_bytes: Counter in Bytes,
    /// Reads.
    pub read_count: Counter,
    /// Writes.
    pub write_count: Counter,
    /// How long reads took.
    pub read_agg: Latency,
    /// How long writes took.
    pub write_agg: Latency,
    /// Times requests had to wait for a rate limit.
    pub rate_limiter_throttled_events: Counter,
    /// Times requests had to wait for room in the ring of the engine `Async`.
    pub io_engine_throttled_events: Counter,
    /// Times requests were left for the next turn.
    pub remaining_reqs_count: Counter,
    /// Blocks copied to the overlay because a request covered a part of them.
    pub overlay_copied_blocks: Counter,
}

/// A drive that a vhost-user back end serves (`vhost_user_block_{drive_id}`).
pub struct VhostUserBlockMetrics = "vhost_user_block" {
    /// The driver started it and it could not start.
    pub activate_fails: Counter,
    /// Accesses to the configuration space that failed: there are none.
    pub cfg_fails: Counter,
    /// How long it took to come to terms with the back end.
    pub init_time_us: Store in Micros,
    /// How long the last start of it took.
    pub activate_time_us: Store in Micros,
    /// How long the last question for its configuration took.
    pub config_change_time_us: Store in Micros,
    /// Events whose handling failed: the back end went away, or the driver broke the rings.
    pub event_fails: Counter,
    /// Changes of the drive while the microVM runs.
    pub update_count: Counter,
    /// Changes that were refused.
    pub update_fails: Counter,
}

/// Persistent memory (`pmem_{id}`).
pub struct PmemMetrics = "pmem" {
    /// The driver started it and it could not start.
    pub activate_fails: Counter,
    /// Accesses to the configuration space that failed: there are none.
    pub cfg_fails: Counter,
    /// Flushes that failed, requests that broke a rule, broken rings.
    pub event_fails: Counter,
    /// Kicks.
    pub queue_event_count: Counter,
    /// Times flushes had to wait for a rate limit.
    pub rate_limiter_throttled_events: Counter,
    /// Times the wait for a rate limit ended.
    pub rate_limiter_event_count: Counter,
}
}
