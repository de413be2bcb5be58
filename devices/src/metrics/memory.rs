//! What changes how much memory a guest has.

crate::metric_groups! {
/// The balloon (`balloon`).
pub struct BalloonMetrics = "balloon" {
    /// The driver started it and it could not start.
    pub activate_fails: Counter,
    /// Lists of pages given up.
    pub inflate_count: Counter,
    /// Statistics received.
    pub stats_updates_count: Counter,
    /// Statistics that broke a rule.
    pub stats_update_fails: Counter,
    /// Lists of pages taken back.
    pub deflate_count: Counter,
    /// Lists that broke a rule or name what is no memory, ranges that the host did not take, broken rings.
    pub event_fails: Counter,
    /// Reports of free pages.
    pub free_page_report_count: Counter,
    /// Bytes of reported pages given back to the host.
    pub free_page_report_freed: Counter in Bytes,
    /// Reports with nothing that could be given back.
    pub free_page_report_fails: Counter,
    /// Hints of free pages.
    pub free_page_hint_count: Counter,
    /// Bytes of hinted pages given back to the host.
    pub free_page_hint_freed: Counter in Bytes,
    /// Hints with nothing that could be given back.
    pub free_page_hint_fails: Counter,
}

/// The memory device (`memory_hotplug`).
pub struct MemMetrics = "memory_hotplug" {
    /// The driver started it and it could not start.
    pub activate_fails: Counter,
    /// Requests that were none, and events whose handling failed because the driver broke the rings.
    pub queue_event_fails: Counter,
    /// Kicks.
    pub queue_event_count: Counter,
    /// How long plugging took.
    pub plug_agg: Latency,
    /// Requests to plug blocks.
    pub plug_count: Counter,
    /// Bytes plugged.
    pub plug_bytes: Counter in Bytes,
    /// Requests to plug blocks that were not granted.
    pub plug_fails: Counter,
    /// How long unplugging took.
    pub unplug_agg: Latency,
    /// Requests to unplug blocks.
    pub unplug_count: Counter,
    /// Bytes unplugged, by any request.
    pub unplug_bytes: Counter in Bytes,
    /// Requests to unplug blocks that were not granted.
    pub unplug_fails: Counter,
    /// Times the host did not take unplugged memory back.
    pub unplug_discard_fails: Counter,
    /// How long unplugging all took.
    pub unplug_all_agg: Latency,
    /// Requests to unplug all blocks.
    pub unplug_all_count: Counter,
    /// Requests to unplug all blocks that were not granted: none.
    pub unplug_all_fails: Counter,
    /// How long answers about blocks took.
    pub state_agg: Latency,
    /// Questions about blocks.
    pub state_count: Counter,
    /// Questions about blocks that named none.
    pub state_fails: Counter,
}
}
