//! From the driver to the tap (virtio 1.2 §5.1.6.1, §5.1.6.2), or to the metadata service before it.

use std::io;

use super::frame::parse;
use super::metadata::Branch;
use super::receive::Turn;
use super::tap::Tap;
use crate::limiter::Limiter;
use crate::metrics::NetMetrics;
use crate::virtio::QueueError;
use crate::virtio::chain::Chain;
use crate::virtio::queue::Queue;

/// The transmit queue.
pub(super) struct Transmitter {
    queue: Queue,
    /// Reused by every frame.
    chain: Chain,
    /// The guest's address, if it was given one.
    mac: Option<[u8; 6]>,
    /// The tap is full: frames wait until it says that it is not.
    is_blocked: bool,
}

impl Transmitter {
    pub(super) fn new(queue: Queue, mac: Option<[u8; 6]>) -> Self {
        Self {
            chain: queue.new_chain(),
            queue,
            mac,
            is_blocked: false,
        }
    }

    /// The tap may have room again.
    pub(super) fn wake(&mut self) {
        self.is_blocked = false;
    }

    /// Nothing is held between two events.
    pub(super) fn stop(self) -> Queue {
        self.queue
    }

    pub(super) fn needs_interrupt(&mut self) -> Result<bool, QueueError> {
        self.queue.needs_interrupt()
    }

    /// Sends what the driver has, the tap takes and `limiter` admits, up to `most` frames.
    pub(super) fn turn(
        &mut self,
        tap: &Tap,
        mut metadata: Option<&mut Branch>,
        limiter: &mut Limiter,
        metrics: &NetMetrics,
        most: usize,
    ) -> Result<Turn, QueueError> {
        if self.is_blocked || !limiter.opens() {
            return Ok(Turn::Idle);
        }
        self.queue.disable_kicks()?;
        let mut sent = 0;
        while let Some(done) = self.queue.pop_or_wait(&mut self.chain)? {
            // The tap and the timer each are an event when there is room again.
            if !self.send(tap, metadata.as_deref_mut(), limiter, metrics) {
                self.queue.put_back(done);
                return Ok(Turn::Idle);
            }
            self.queue.give_back(done, 0)?;
            sent += 1;
            if sent == most {
                metrics.tx_remaining_reqs_count.increment();
                return Ok(Turn::More);
            }
        }
        if sent == 0 {
            metrics.no_tx_avail_buffer.increment();
        } else {
            metrics.tx_count.increment();
        }
        Ok(Turn::Idle)
    }

    /// Sends the frame in `chain`, or drops it. False when it has to wait, for its rate limit or for the tap.
    fn send(
        &mut self,
        tap: &Tap,
        metadata: Option<&mut Branch>,
        limiter: &mut Limiter,
        metrics: &NetMetrics,
    ) -> bool {
        let Ok(frame) = parse(&self.chain.readable) else {
            metrics.tx_malformed_frames.increment();
            metrics.tx_fails.increment();
            return true;
        };
        let len = frame.len as u64;
        if !limiter.admits(len) {
            metrics.tx_rate_limiter_throttled.increment();
            return false;
        }
        if let Some(branch) = metadata
            && branch.takes(&self.chain.readable)
        {
            limiter.spend(len);
            return true;
        }
        match tap.send(&self.chain.readable) {
            Ok(_) => {
                limiter.spend(len);
                metrics.tx_packets_count.increment();
                metrics.tx_bytes_count.add(len);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_blocked = true;
                return false;
            }
            // The tap is down, or the header makes no sense.
            Err(_) => {
                metrics.tap_write_fails.increment();
                metrics.tx_fails.increment();
            }
        }
        if self.mac.is_some_and(|mac| mac != frame.source) {
            metrics.tx_spoofed_mac_count.increment();
        }
        true
    }
}
