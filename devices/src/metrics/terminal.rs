//! What a guest writes to and is typed to: the serial port, the virtio console and the keyboard.

crate::metric_groups! {
/// The serial port (`uart`).
pub struct SerialMetrics = "uart" {
    /// Output bytes lost because the sink refused or could not take them.
    pub error_count: Counter,
    /// Times output was flushed.
    pub flush_count: Counter,
    /// Reads of a width the port does not have.
    pub missed_read_count: Counter,
    /// Writes of a width the port does not have.
    pub missed_write_count: Counter,
    /// Input bytes the guest took.
    pub read_count: Counter,
    /// Output bytes.
    pub write_count: Counter,
    /// Output bytes dropped because the rate limit did not cover them.
    pub rate_limiter_dropped_bytes: Counter in Bytes,
}

/// The virtio console (`console`).
pub struct ConsoleMetrics = "console" {
    /// The driver started it and it could not start.
    pub activate_fails: Counter,
    /// Events whose handling failed, because the driver broke the rings.
    pub event_fails: Counter,
    /// Kicks: both queues share one event.
    pub queue_event_count: Counter,
    /// Chains written or given up.
    pub tx_count: Counter,
    /// Bytes written.
    pub tx_bytes_count: Counter in Bytes,
    /// Times chains had to wait because the output was full.
    pub tx_full_count: Counter,
    /// Bytes lost because the host refused them for good.
    pub tx_dropped_bytes: Counter in Bytes,
    /// Chains that broke a rule.
    pub tx_malformed: Counter,
    /// Times chains had to wait for the rate limit.
    pub rate_limiter_throttled_events: Counter,
    /// Times the wait for the rate limit ended.
    pub rate_limiter_event_count: Counter,
}

/// The keyboard controller (`i8042`).
pub struct I8042Metrics = "i8042" {
    /// Keys that did not fit in the buffer.
    pub error_count: Counter,
    /// Reads of a width or port the controller does not have.
    pub missed_read_count: Counter,
    /// Writes of a width or port the controller does not have.
    pub missed_write_count: Counter,
    /// Reads.
    pub read_count: Counter,
    /// Resets of the machine.
    pub reset_count: Counter,
    /// Writes.
    pub write_count: Counter,
}
}
