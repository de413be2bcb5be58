//! The service on one network interface: frames in, frames out, and the connections between them.
//!
//! ```text
//!  the driver's frames --takes--> receive --> connections --> send --> the driver's buffers
//!                         | no
//!                         +-----> tap
//! ```
//!
//! Connections take turns, a segment each, so that none waits for another's long answer. What waits to be sent is an
//! answer for each connection, and a bounded number of resets and ARP answers. There is one clock: [`Stack::deadline`]
//! is set only while a guest owes an acknowledgement.

#![deny(clippy::arithmetic_side_effects)]

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;

use rustix::rand::{GetRandomFlags, getrandom};

use super::connection::{Connection, Fate, Service};
use super::http::MAX_REQUEST;
use super::packet::{
    Kind, MAX_ANSWER, Odd, Outgoing, PORT, Peer, Segment, flags, parse_arp, parse_segment,
    write_arp, write_segment,
};
use super::{Mmds, Rules};

/// Connections at a time.
pub const MAX_CONNECTIONS: usize = 30;
/// A connection without news for that long makes place for another, in nanoseconds.
pub const IDLE_NS: u64 = 13_000_000_000;
/// Resets that wait to be sent.
const MAX_RESETS: usize = 100;
/// ARP answers that wait to be sent.
const MAX_ARP: usize = 16;
/// The most of a frame that is looked at: the longest headers, and a request that is just too long.
pub const MAX_LOOK: usize = 14 + 60 + 60 + MAX_REQUEST + 1;
/// Between the first sequence numbers of connections (RFC 9293 §3.4.1).
const SEQUENCE_STEP: u32 = 1_000_003;

/// The service as one interface has it.
pub struct Stack {
    address: Ipv4Addr,
    mmds: Arc<Mmds>,
    rules: Rules,
    connections: Vec<Connection>,
    /// Whose turn it is to send.
    turn: usize,
    resets: VecDeque<Reset>,
    askers: VecDeque<Peer>,
    /// Our next connection's first sequence number.
    first: u32,
    is_ready: bool,
    deadline: Option<u64>,
}

/// A connection that ended, or never was.
struct Reset {
    to: Peer,
    port: u16,
    sequence: u32,
    /// What it answers, when that acknowledged nothing.
    acknowledgement: Option<u32>,
}

impl Stack {
    /// The service `mmds`, read by `rules` at `address`.
    #[must_use]
    pub fn new(mmds: Arc<Mmds>, rules: Rules, address: Ipv4Addr) -> Self {
        let mut first = [0; 4];
        // Nobody is on the way who could guess it; without random bytes yet it just starts at nothing.
        let _ = getrandom(&mut first, GetRandomFlags::NONBLOCK);
        Self {
            address,
            mmds,
            rules,
            connections: Vec::new(),
            turn: 0,
            resets: VecDeque::new(),
            askers: VecDeque::new(),
            first: u32::from_ne_bytes(first),
            is_ready: false,
            deadline: None,
        }
    }

    /// Whether the frame that starts with `start` is for the service; then it is for nobody else.
    #[must_use]
    pub fn takes(&self, start: &[u8]) -> bool {
        Kind::of(start, self.address).is_some()
    }

    /// There is something to send.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// When [`Stack::on_time`] is to be called, in nanoseconds; `None` while nothing is waited for.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// Forgets all connections: the guest that had them is gone.
    pub fn clear(&mut self) {
        for _ in self.connections.drain(..) {
            self.mmds.metrics.connections_destroyed.increment();
        }
        self.resets.clear();
        self.askers.clear();
        self.look();
    }

    /// Takes a frame of `len` bytes that [`Stack::takes`] said yes to; `frame` is the start of it, at least
    /// [`MAX_LOOK`] bytes if there are so many.
    pub fn receive(&mut self, frame: &[u8], len: usize, now: u64) {
        let metrics = self.mmds.metrics();
        metrics.rx_count.increment();
        let dealt = match Kind::of(frame, self.address) {
            Some(Kind::Arp) => parse_arp(frame).map(|asker| self.hear_arp(asker)),
            Some(Kind::Ip) => {
                parse_segment(frame, len).and_then(|segment| self.hear(&segment, now))
            }
            None => Err(Odd::Malformed),
        };
        match dealt {
            Ok(()) => metrics.rx_accepted.increment(),
            Err(Odd::Malformed) => metrics.rx_accepted_err.increment(),
            Err(Odd::Unknown) => metrics.rx_accepted_unusual.increment(),
        }
        self.look();
    }

    /// The clock says `now`: what was not acknowledged in time is sent again.
    pub fn on_time(&mut self, now: u64) {
        let mut index = 0;
        while let Some(connection) = self.connections.get_mut(index) {
            match connection.on_time(now) {
                Fate::Lives => index = index.saturating_add(1),
                fate => self.end(index, fate),
            }
        }
        self.look();
    }

    /// Writes the next frame; gives its length.
    pub fn send(&mut self, now: u64, into: &mut [u8; MAX_ANSWER]) -> Option<usize> {
        let len = self.write_next(now, into);
        if let Some(len) = len {
            let metrics = &self.mmds.metrics;
            metrics.tx_count.increment();
            metrics.tx_frames.increment();
            metrics.tx_bytes.add(len as u64);
        }
        self.look();
        len
    }

    fn write_next(&mut self, now: u64, into: &mut [u8; MAX_ANSWER]) -> Option<usize> {
        if let Some(asker) = self.askers.pop_front() {
            return Some(write_arp(&asker, self.address, into));
        }
        if let Some(reset) = self.resets.pop_front() {
            return Some(write_segment(&reset.segment(), self.address, into));
        }
        let count = self.connections.len();
        for _ in 0..count {
            let index = self.turn.checked_rem(count).unwrap_or(0);
            self.turn = index.saturating_add(1);
            let Some(connection) = self.connections.get_mut(index) else {
                continue;
            };
            if let Some(segment) = connection.send(now) {
                let len = write_segment(&segment, self.address, into);
                if connection.is_over() {
                    self.end(index, Fate::Over);
                }
                return Some(len);
            }
        }
        None
    }

    fn hear_arp(&mut self, asker: Peer) {
        if self.askers.len() < MAX_ARP {
            self.askers.push_back(asker);
        }
    }

    fn hear(&mut self, segment: &Segment<'_>, now: u64) -> Result<(), Odd> {
        let mut known = self.connections.iter();
        let known = known.position(|connection| {
            segment.port == PORT && is_same_end(&connection.peer, &segment.from)
        });
        let is_syn = segment.flags & (flags::SYN | flags::ACK | flags::RST) == flags::SYN;
        match known {
            Some(index) if is_syn => {
                self.hear_again(index, segment, now);
                Ok(())
            }
            Some(index) => {
                self.hear_known(index, segment, now);
                Ok(())
            }
            None if is_syn && segment.port == PORT => {
                self.open(segment, now);
                Ok(())
            }
            None => {
                self.refuse(segment);
                Err(Odd::Unknown)
            }
        }
    }

    fn hear_known(&mut self, index: usize, segment: &Segment<'_>, now: u64) {
        let service = Service {
            mmds: &self.mmds,
            rules: self.rules,
        };
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        match connection.receive(segment, service, now) {
            Fate::Lives => {}
            fate => self.end(index, fate),
        }
    }

    /// A SYN from the other end of a connection that there is.
    fn hear_again(&mut self, index: usize, syn: &Segment<'_>, now: u64) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if !connection.hear_again(syn.sequence) {
            self.end(index, Fate::Over);
            self.open(syn, now);
        }
    }

    fn open(&mut self, syn: &Segment<'_>, now: u64) {
        if self.connections.len() >= MAX_CONNECTIONS && !self.evict(now) {
            self.refuse(syn);
            return;
        }
        self.connections
            .push(Connection::open(syn, self.first, now));
        self.first = self.first.wrapping_add(SEQUENCE_STEP);
        self.mmds.metrics.connections_created.increment();
    }

    /// Ends the connection without news for the longest time, if that was long.
    fn evict(&mut self, now: u64) -> bool {
        let all = self.connections.iter().enumerate();
        let oldest = all.min_by_key(|(_, connection)| connection.active_at);
        let Some((index, connection)) = oldest else {
            return false;
        };
        if now.saturating_sub(connection.active_at) < IDLE_NS {
            return false;
        }
        self.end(index, Fate::Reset(connection.reset_sequence()));
        true
    }

    fn end(&mut self, index: usize, fate: Fate) {
        if index >= self.connections.len() {
            return;
        }
        let connection = self.connections.swap_remove(index);
        self.mmds.metrics.connections_destroyed.increment();
        if let Fate::Reset(sequence) = fate {
            self.reset(Reset {
                to: connection.peer,
                port: PORT,
                sequence,
                acknowledgement: None,
            });
        }
    }

    /// What is for no connection is reset (RFC 9293 §3.5.2).
    fn refuse(&mut self, segment: &Segment<'_>) {
        if segment.flags & flags::RST != 0 {
            return;
        }
        let has_acknowledgement = segment.flags & flags::ACK != 0;
        let ends = [flags::SYN, flags::FIN].map(|flag| segment.flags & flag != 0);
        let len = ends.iter().filter(|is_set| **is_set).count();
        let len = u32::try_from(len.saturating_add(segment.data_len)).unwrap_or(0);
        self.reset(Reset {
            to: segment.from,
            port: segment.port,
            sequence: if has_acknowledgement {
                segment.acknowledgement
            } else {
                0
            },
            acknowledgement: (!has_acknowledgement).then(|| segment.sequence.wrapping_add(len)),
        });
    }

    fn reset(&mut self, reset: Reset) {
        if self.resets.len() < MAX_RESETS {
            self.resets.push_back(reset);
        }
    }

    /// Looks what is to be done next.
    fn look(&mut self) {
        let is_short = !self.askers.is_empty() || !self.resets.is_empty();
        self.is_ready = is_short || self.connections.iter().any(Connection::is_ready);
        let deadlines = self.connections.iter().filter_map(Connection::deadline);
        self.deadline = deadlines.min();
    }
}

impl Reset {
    fn segment(&self) -> Outgoing<'static> {
        let acknowledges = self.acknowledgement.map_or(0, |_| flags::ACK);
        Outgoing {
            to: self.to,
            port: self.port,
            sequence: self.sequence,
            acknowledgement: self.acknowledgement.unwrap_or(0),
            flags: flags::RST | acknowledges,
            window: 0,
            max_segment: None,
            data: &[],
        }
    }
}

/// Hardware addresses are no part of a connection.
fn is_same_end(a: &Peer, b: &Peer) -> bool {
    (a.ip, a.port) == (b.ip, b.port)
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects)]
mod tests;
