//! What else a machine has: entropy, interrupts, and the news of a panic.

crate::metric_groups! {
/// The entropy device (`entropy`).
pub struct EntropyMetrics = "entropy" {
    /// The driver started it and it could not start.
    pub activate_fails: Counter,
    /// Requests that broke a rule, and events whose handling failed because the driver broke the rings.
    pub entropy_event_fails: Counter,
    /// Requests.
    pub entropy_event_count: Counter,
    /// Random bytes that the guest was given.
    pub entropy_bytes: Counter in Bytes,
    /// Times the host gave no random bytes.
    pub host_rng_fails: Counter,
    /// Times requests had to wait for the rate limit.
    pub entropy_rate_limiter_throttled: Counter,
    /// Times the wait for the rate limit ended.
    pub rate_limiter_event_count: Counter,
}

/// Interrupts of devices (`interrupts`).
pub struct InterruptMetrics = "interrupts" {
    /// Interrupts sent to the guest by this process; those that the host's kernel sends by itself are not seen.
    pub triggers: Counter,
    /// Changes of a message interrupt's route.
    pub config_updates: Counter,
}

/// What the guest tells of its panics (`guest_panic`).
pub struct GuestPanicMetrics = "guest_panic" {
    /// Times it told of a panic.
    pub panic_count: Counter,
    /// Times it told of a panic that a crash kernel takes over.
    pub crash_loaded_count: Counter,
}
}
