//! What devices count. Each group is shared between a device and whoever reads it; names are those of the
//! metrics file.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Serialize, Serializer};

/// A number that only grows. Relaxed: it orders nothing.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// `count` more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Serialize for Counter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.get())
    }
}

/// The balloon (`balloon`).
#[derive(Debug, Default, Serialize)]
pub struct BalloonMetrics {
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
    /// Bytes of them given back to the host.
    pub free_page_report_freed: Counter,
    /// Reports with nothing that could be given back.
    pub free_page_report_fails: Counter,
    /// Hints of free pages.
    pub free_page_hint_count: Counter,
    /// Bytes of them given back to the host.
    pub free_page_hint_freed: Counter,
    /// Hints with nothing that could be given back.
    pub free_page_hint_fails: Counter,
}

/// A block device (`block_{drive_id}`).
#[derive(Debug, Default, Serialize)]
pub struct BlockMetrics {
    /// The driver started it and it could not start.
    pub activate_fails: Counter,
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
    /// Bytes read by the guest.
    pub read_bytes: Counter,
    /// Bytes written by the guest.
    pub write_bytes: Counter,
    /// Reads.
    pub read_count: Counter,
    /// Writes.
    pub write_count: Counter,
    /// Times requests had to wait for a rate limit.
    pub rate_limiter_throttled_events: Counter,
    /// Times requests had to wait for room in the ring of the engine `Async`.
    pub io_engine_throttled_events: Counter,
    /// Times requests were left for the next turn.
    pub remaining_reqs_count: Counter,
    /// Blocks copied to the overlay because a request covered a part of them.
    pub overlay_copied_blocks: Counter,
}

/// The virtio console (`console`).
#[derive(Debug, Default, Serialize)]
pub struct ConsoleMetrics {
    /// The driver started it and it could not start.
    pub activate_fails: Counter,
    /// Events whose handling failed, because the driver broke the rings.
    pub event_fails: Counter,
    /// Kicks: both queues share one event.
    pub queue_event_count: Counter,
    /// Chains written or given up.
    pub tx_count: Counter,
    /// Bytes written.
    pub tx_bytes_count: Counter,
    /// Times chains had to wait because the output was full.
    pub tx_full_count: Counter,
    /// Bytes lost because the host refused them for good.
    pub tx_dropped_bytes: Counter,
    /// Chains that broke a rule.
    pub tx_malformed: Counter,
    /// Times chains had to wait for the rate limit.
    pub rate_limiter_throttled_events: Counter,
    /// Times the wait for the rate limit ended.
    pub rate_limiter_event_count: Counter,
}

/// A network device (`net_{iface_id}`).
#[derive(Debug, Default, Serialize)]
pub struct NetMetrics {
    /// The driver started it and it could not start.
    pub activate_fails: Counter,
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
    pub rx_bytes_count: Counter,
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
    /// Bytes sent, headers included.
    pub tx_bytes_count: Counter,
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
#[derive(Debug, Default, Serialize)]
pub struct EntropyMetrics {
    /// The driver started it and it could not start.
    pub activate_fails: Counter,
    /// Requests that broke a rule, and events whose handling failed because the driver broke the rings.
    pub entropy_event_fails: Counter,
    /// Requests.
    pub entropy_event_count: Counter,
    /// Random bytes that the guest was given.
    pub entropy_bytes: Counter,
    /// Times the host gave no random bytes.
    pub host_rng_fails: Counter,
    /// Times requests had to wait for the rate limit.
    pub entropy_rate_limiter_throttled: Counter,
    /// Times the wait for the rate limit ended.
    pub rate_limiter_event_count: Counter,
}

/// The memory device (`memory_hotplug`).
#[derive(Debug, Default, Serialize)]
pub struct MemMetrics {
    /// The driver started it and it could not start.
    pub activate_fails: Counter,
    /// Requests that were none, and events whose handling failed because the driver broke the rings.
    pub queue_event_fails: Counter,
    /// Kicks.
    pub queue_event_count: Counter,
    /// Requests to plug blocks.
    pub plug_count: Counter,
    /// Bytes plugged.
    pub plug_bytes: Counter,
    /// Requests to plug blocks that were not granted.
    pub plug_fails: Counter,
    /// Requests to unplug blocks.
    pub unplug_count: Counter,
    /// Bytes unplugged, by any request.
    pub unplug_bytes: Counter,
    /// Requests to unplug blocks that were not granted.
    pub unplug_fails: Counter,
    /// Times the host did not take unplugged memory back.
    pub unplug_discard_fails: Counter,
    /// Requests to unplug all blocks.
    pub unplug_all_count: Counter,
    /// Those that were not granted: none.
    pub unplug_all_fails: Counter,
    /// Questions about blocks.
    pub state_count: Counter,
    /// Those that named no blocks.
    pub state_fails: Counter,
}

/// Persistent memory (`pmem_{id}`).
#[derive(Debug, Default, Serialize)]
pub struct PmemMetrics {
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
#[derive(Debug, Default, Serialize)]
pub struct VsockMetrics {
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
    pub rx_bytes_count: Counter,
    /// Bytes taken from the guest, headers not included.
    pub tx_bytes_count: Counter,
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
#[derive(Debug, Default, Serialize)]
pub struct SerialMetrics {
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
    pub rate_limiter_dropped_bytes: Counter,
}

/// What the guest tells of its panics (`guest_panic`).
#[derive(Debug, Default, Serialize)]
pub struct GuestPanicMetrics {
    /// Times it told of a panic.
    pub panic_count: Counter,
    /// Times it told of a panic that a crash kernel takes over.
    pub crash_loaded_count: Counter,
}

/// The keyboard controller (`i8042`).
#[derive(Debug, Default, Serialize)]
pub struct I8042Metrics {
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
