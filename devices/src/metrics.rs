//! What devices count. Each group is shared between a device and whoever reads it; names are those of the
//! metrics file.
//!
//! [`metric_groups`](crate::metric_groups) makes each group and its description from the same rows: the metrics file,
//! `GET /metrics` and the units they tell all come from here. Everything is read while it changes: no lock, no
//! allocation, and no order between two numbers.

mod group;
mod value;

pub use group::{About, Field, Group, Unit};
pub use value::{Counter, Kind, Latency, Metric, Part, Store, Tally};

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

/// A network device (`net_{iface_id}`).
pub struct NetMetrics = "net" {
    /// The driver started it and it could not start.
    pub activate_fails: Counter,
    /// Accesses to the configuration space that failed: there are none.
    pub cfg_fails: Counter,
    /// Frames that waited because the driver offered no buffer.
    pub no_rx_avail_buffer: Counter,
    /// Kicks with no frame to send.
    pub no_tx_avail_buffer: Counter,
    /// Events whose handling failed, because the driver broke the rings.
    pub event_fails: Counter,
    /// Kicks of either queue: both share one event.
    pub rx_queue_event_count: Counter,
    /// Times the wait for a rate limit on receiving ended.
    pub rx_event_rate_limiter_count: Counter,
    /// Times frames had to wait for a rate limit on receiving.
    pub rx_rate_limiter_throttled: Counter,
    /// Times the tap became ready.
    pub rx_tap_event_count: Counter,
    /// Bytes received, headers included.
    pub rx_bytes_count: Counter in Bytes,
    /// Frames received.
    pub rx_packets_count: Counter,
    /// Frames that fitted in no buffer and were dropped, and receive buffers that broke a rule.
    pub rx_fails: Counter,
    /// Times frames were received.
    pub rx_count: Counter,
    /// Reads of the tap that failed.
    pub tap_read_fails: Counter,
    /// Writes to the tap that failed; the frames are dropped.
    pub tap_write_fails: Counter,
    /// How long the tap took for frames sent; frames sent in a row count as the mean of them.
    pub tap_write_agg: Latency,
    /// Bytes sent, headers included.
    pub tx_bytes_count: Counter in Bytes,
    /// Frames that broke a rule or are too long; dropped.
    pub tx_malformed_frames: Counter,
    /// Frames that were not sent, for any reason.
    pub tx_fails: Counter,
    /// Times frames were sent.
    pub tx_count: Counter,
    /// Frames sent.
    pub tx_packets_count: Counter,
    /// Kicks of either queue: both share one event.
    pub tx_queue_event_count: Counter,
    /// Times the wait for a rate limit on sending ended.
    pub tx_rate_limiter_event_count: Counter,
    /// Times frames had to wait for a rate limit on sending.
    pub tx_rate_limiter_throttled: Counter,
    /// Frames sent from an address other than the guest's.
    pub tx_spoofed_mac_count: Counter,
    /// Times frames were left for the next turn.
    pub tx_remaining_reqs_count: Counter,
}

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

/// The vsock device (`vsock`). `rx` is towards the guest, `tx` from it.
pub struct VsockMetrics = "vsock" {
    /// The driver started it and it could not start.
    pub activate_fails: Counter,
    /// Reads or writes of the configuration space that failed: there are none.
    pub cfg_fails: Counter,
    /// Receive buffers that broke a rule, and events whose handling failed because the driver broke the ring.
    pub rx_queue_event_fails: Counter,
    /// Packets of the guest that broke a rule, and events whose handling failed because the driver broke the ring.
    pub tx_queue_event_fails: Counter,
    /// Events whose handling failed, because the driver broke the event ring.
    pub ev_queue_event_fails: Counter,
    /// Times the host refused to wait for sockets, or to accept one.
    pub muxer_event_fails: Counter,
    /// Host connections that ended before they said to which port.
    pub conn_event_fails: Counter,
    /// Kicks: all queues share one event.
    pub rx_queue_event_count: Counter,
    /// Kicks: all queues share one event.
    pub tx_queue_event_count: Counter,
    /// Bytes given to the guest, headers not included.
    pub rx_bytes_count: Counter in Bytes,
    /// Bytes taken from the guest, headers not included.
    pub tx_bytes_count: Counter in Bytes,
    /// Packets given to the guest.
    pub rx_packets_count: Counter,
    /// Packets taken from the guest.
    pub tx_packets_count: Counter,
    /// Connections made.
    pub conns_added: Counter,
    /// Connections ended because an answer took too long.
    pub conns_killed: Counter,
    /// Connections ended, for any reason.
    pub conns_removed: Counter,
    /// Times the list of timeouts was rid of entries that no longer matter.
    pub killq_resync: Counter,
    /// Sockets that refused what had waited for room.
    pub tx_flush_fails: Counter,
    /// Sockets that refused what came straight from the guest.
    pub tx_write_fails: Counter,
    /// Sockets that could not be read.
    pub rx_read_fails: Counter,
}

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

/// What the guest tells of its panics (`guest_panic`).
pub struct GuestPanicMetrics = "guest_panic" {
    /// Times it told of a panic.
    pub panic_count: Counter,
    /// Times it told of a panic that a crash kernel takes over.
    pub crash_loaded_count: Counter,
}

/// The metadata service, as guests use it (`mmds`). `rx` is from the guest, `tx` towards it.
pub struct MmdsMetrics = "mmds" {
    /// Frames for it.
    pub rx_accepted: Counter,
    /// Frames for it that could not be dealt with.
    pub rx_accepted_err: Counter,
    /// Frames for it of a kind that it does not serve.
    pub rx_accepted_unusual: Counter,
    /// Frames that are no Ethernet, IP or TCP.
    pub rx_bad_eth: Counter,
    /// Requests with a token that is none, or is not valid any more.
    pub rx_invalid_token: Counter,
    /// Requests without a token.
    pub rx_no_token: Counter,
    /// Frames that were looked at.
    pub rx_count: Counter,
    /// Bytes given to the guest, headers included.
    pub tx_bytes: Counter in Bytes,
    /// Times frames were given to the guest.
    pub tx_count: Counter,
    /// Frames that could not be given to the guest.
    pub tx_errors: Counter,
    /// Frames given to the guest.
    pub tx_frames: Counter,
    /// Connections made.
    pub connections_created: Counter,
    /// Connections ended.
    pub connections_destroyed: Counter,
}

/// Interrupts of devices (`interrupts`).
pub struct InterruptMetrics = "interrupts" {
    /// Interrupts sent to the guest by this process; those that the host's kernel sends by itself are not seen.
    pub triggers: Counter,
    /// Changes of a message interrupt's route.
    pub config_updates: Counter,
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
