//! Network devices, the metadata service behind them, and vsock.

crate::metric_groups! {
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
}
