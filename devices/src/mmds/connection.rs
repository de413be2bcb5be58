//! One TCP connection of a guest (RFC 9293): only ever opened by the guest, one request and one answer at a time.
//!
//! ```text
//!  SYN --> Opening --ACK--> Open --answered the last request--> our FIN, theirs --> over
//! ```
//!
//! There is no wire that loses or reorders: segments out of order are left to the guest to send again, and what the guest
//! does not acknowledge is sent again from there on. Memory is one request, and one answer with what is left of the one
//! before.

#![deny(clippy::arithmetic_side_effects)]

use super::http::{MAX_REQUEST, Parsed, parse};
use super::packet::{MAX_SEGMENT, Outgoing, PORT, Peer, Segment, flags};
use super::{Mmds, Rules};

/// How long the guest may take to acknowledge, in nanoseconds.
pub const RETRANSMIT_NS: u64 = 400_000_000;
/// How often the same bytes are sent again before the connection ends.
const MAX_TRIES: u8 = 15;
/// The wait for a closed window doubles until it is 128 times as long.
const MAX_DOUBLINGS: u8 = 7;
/// What a guest takes that does not say (RFC 9293 §3.7.1).
const DEFAULT_SEGMENT: usize = 536;
/// What we take.
const SEGMENT_TAKEN: u16 = 1460;
/// A guest that says less gets this.
const MIN_SEGMENT: usize = 100;

/// A connection.
pub struct Connection {
    /// The other end.
    pub peer: Peer,
    /// When bytes or an acknowledgement of bytes last came, in nanoseconds.
    pub active_at: u64,
    is_open: bool,

    // From the guest.
    /// Sequence number of its SYN.
    first: u32,
    /// The next byte that is expected (RCV.NXT).
    expected: u32,
    request: Vec<u8>,
    has_peer_finished: bool,
    owes_acknowledgement: bool,

    // To the guest.
    /// The first byte that is not acknowledged (SND.UNA).
    unacknowledged: u32,
    /// The next to send (SND.NXT).
    next: u32,
    /// Behind the last that was ever sent.
    highest: u32,
    /// What the guest takes from `unacknowledged` on.
    window: u32,
    max_segment: usize,
    answer: Vec<u8>,
    /// Bytes of `answer` that are acknowledged.
    acknowledged: usize,
    end: End,
    /// A byte is sent although the window is closed.
    is_probing: bool,
    /// When to send again.
    deadline: Option<u64>,
    tries: u8,
    doublings: u8,
}

/// Our FIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Other answers may follow.
    Far,
    /// It follows the answer.
    Near,
    /// The guest has it.
    Acknowledged,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Lives,
    /// It is over.
    Over,
    /// It is over, and the guest is told so by a reset with this sequence number.
    Reset(u32),
}

/// What answers requests.
#[derive(Clone, Copy)]
pub struct Service<'a> {
    /// The data.
    pub mmds: &'a Mmds,
    /// How it is read.
    pub rules: Rules,
}

impl Connection {
    /// What `syn` opens. `first` is the sequence number of our own SYN.
    #[must_use]
    pub fn open(syn: &Segment<'_>, first: u32, now: u64) -> Self {
        let stated = syn.max_segment.map(usize::from);
        Self {
            peer: syn.from,
            active_at: now,
            is_open: false,
            first: syn.sequence,
            expected: syn.sequence.wrapping_add(1),
            request: Vec::new(),
            has_peer_finished: false,
            owes_acknowledgement: false,
            unacknowledged: first,
            next: first,
            highest: first,
            window: syn.window.into(),
            max_segment: stated
                .unwrap_or(DEFAULT_SEGMENT)
                .clamp(MIN_SEGMENT, MAX_SEGMENT),
            answer: Vec::new(),
            acknowledged: 0,
            end: End::Far,
            is_probing: false,
            deadline: None,
            tries: 0,
            doublings: 0,
        }
    }

    /// When it has something to do even if nothing comes.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// Another SYN came, with the sequence number `sequence`. False when it opens another connection: the guest forgot
    /// this one.
    pub fn hear_again(&mut self, sequence: u32) -> bool {
        if self.first != sequence {
            return false;
        }
        if self.is_open {
            self.owes_acknowledgement = true;
        } else {
            self.next = self.unacknowledged;
        }
        true
    }

    /// Takes a segment that is no SYN, and answers the request that it completes.
    pub fn receive(&mut self, segment: &Segment<'_>, service: Service<'_>, now: u64) -> Fate {
        if segment.flags & flags::RST != 0 {
            // One from another life of the port is outside of the window (RFC 9293 §3.5.3).
            let distance = segment.sequence.wrapping_sub(self.expected);
            return if distance <= u32::from(self.room()) {
                Fate::Over
            } else {
                Fate::Lives
            };
        }
        if segment.flags & flags::ACK == 0 {
            return Fate::Lives;
        }
        if let Err(fate) = self.take_acknowledgement(segment, now) {
            return fate;
        }
        self.take_data(segment, now);
        let fate = self.serve(service, now);
        if self.deadline.is_none() && self.left() > 0 && self.window == 0 {
            self.deadline = Some(now.saturating_add(self.patience_ns()));
        }
        match fate {
            Fate::Lives if self.is_over() => Fate::Over,
            fate => fate,
        }
    }

    /// The deadline may be over.
    pub fn on_time(&mut self, now: u64) -> Fate {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Fate::Lives;
        }
        self.deadline = None;
        if self.tries >= MAX_TRIES {
            return Fate::Reset(self.unacknowledged);
        }
        self.tries = self.tries.saturating_add(1);
        self.next = self.unacknowledged;
        if self.is_open && self.window == 0 && self.left() > 0 {
            self.is_probing = true;
            self.doublings = self.doublings.saturating_add(1).min(MAX_DOUBLINGS);
        }
        Fate::Lives
    }

    /// Whether [`Connection::send`] has a segment.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        if !self.is_open {
            return self.in_flight() == 0;
        }
        self.owes_acknowledgement || self.sendable() > 0 || self.is_end_due()
    }

    /// The next segment, if there is one.
    pub fn send(&mut self, now: u64) -> Option<Outgoing<'_>> {
        let mut flags = flags::ACK;
        let (mut from, mut len) = (0, 0);
        let sequence = self.next;
        if !self.is_open {
            if self.in_flight() > 0 {
                return None;
            }
            flags |= flags::SYN;
            self.next = sequence.wrapping_add(1);
        } else if self.sendable() > 0 {
            from = self.acknowledged.saturating_add(self.sent());
            len = self.sendable();
            flags |= flags::PSH;
            self.next = sequence.wrapping_add(u32::try_from(len).unwrap_or(0));
            self.is_probing = false;
        } else if self.is_end_due() {
            flags |= flags::FIN;
            self.next = sequence.wrapping_add(1);
        } else if !self.owes_acknowledgement {
            return None;
        }
        self.owes_acknowledgement = false;
        if is_after(self.next, self.highest) {
            self.highest = self.next;
        }
        if self.next != sequence && self.deadline.is_none() {
            self.deadline = Some(now.saturating_add(self.patience_ns()));
        }
        let is_syn = flags & flags::SYN != 0;
        Some(Outgoing {
            to: self.peer,
            port: PORT,
            sequence,
            acknowledgement: self.expected,
            flags,
            window: self.room(),
            max_segment: is_syn.then_some(SEGMENT_TAKEN),
            data: self
                .answer
                .get(from..)
                .and_then(|rest| rest.get(..len))
                .unwrap_or_default(),
        })
    }

    /// Both sides have finished, and each knows it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.end == End::Acknowledged && self.has_peer_finished && !self.owes_acknowledgement
    }

    /// The sequence number of a reset that the guest believes now.
    #[must_use]
    pub fn reset_sequence(&self) -> u32 {
        self.next
    }

    fn take_acknowledgement(&mut self, segment: &Segment<'_>, now: u64) -> Result<(), Fate> {
        let news = segment.acknowledgement.wrapping_sub(self.unacknowledged);
        let is_sent = news <= self.highest.wrapping_sub(self.unacknowledged);
        if !self.is_open {
            if news != 1 || !is_sent {
                return Err(Fate::Reset(segment.acknowledgement));
            }
            self.is_open = true;
            self.settle(segment.acknowledgement, 0, now);
        } else if is_sent && news > 0 {
            let data = (news as usize).min(self.left());
            // Nothing but the FIN comes after the data.
            if data < news as usize {
                self.end = End::Acknowledged;
            }
            self.settle(segment.acknowledgement, data, now);
        } else if !is_sent {
            // Old, or of what was never sent: the guest hears how far both sides are (RFC 9293 §3.10.7.4).
            self.owes_acknowledgement |= is_after(segment.acknowledgement, self.highest);
            return if is_after(segment.acknowledgement, self.highest) {
                Err(Fate::Lives)
            } else {
                Ok(())
            };
        }
        self.window = segment.window.into();
        if self.window > 0 {
            self.doublings = 0;
            self.is_probing = false;
        } else {
            // A guest that says that it takes nothing is there.
            self.tries = 0;
        }
        Ok(())
    }

    /// All up to `acknowledgement` arrived, `data` bytes of the answer among it.
    fn settle(&mut self, acknowledgement: u32, data: usize, now: u64) {
        self.unacknowledged = acknowledgement;
        if is_after(acknowledgement, self.next) {
            self.next = acknowledgement;
        }
        self.acknowledged = self.acknowledged.saturating_add(data);
        if self.left() == 0 {
            // A connection that waits for a request costs no memory.
            self.answer = Vec::new();
            self.acknowledged = 0;
        }
        self.tries = 0;
        self.active_at = now;
        self.deadline = (self.in_flight() > 0).then(|| now.saturating_add(RETRANSMIT_NS));
    }

    /// Takes what of the segment's data is next; all else is sent again, or was here.
    fn take_data(&mut self, segment: &Segment<'_>, now: u64) {
        let is_end = segment.flags & flags::FIN != 0;
        let seen = self.expected.wrapping_sub(segment.sequence) as usize;
        let is_empty = segment.data_len == 0 && !is_end;
        if is_empty || self.has_peer_finished || seen > segment.data_len {
            self.owes_acknowledgement |= !is_empty || seen != 0;
            return;
        }
        self.owes_acknowledgement = true;
        let news = segment.data.get(seen..).unwrap_or_default();
        let taken = news.len().min(usize::from(self.room()));
        let news = news.get(..taken).unwrap_or_default();
        if self.end == End::Far {
            self.request.extend_from_slice(news);
        }
        self.expected = self
            .expected
            .wrapping_add(u32::try_from(taken).unwrap_or(0));
        if taken > 0 {
            self.active_at = now;
        }
        if is_end && seen.saturating_add(taken) == segment.data_len {
            self.expected = self.expected.wrapping_add(1);
            self.has_peer_finished = true;
        }
    }

    /// Answers the next request once all of the answer before is on its way.
    fn serve(&mut self, service: Service<'_>, now: u64) -> Fate {
        if self.end != End::Far || self.sent() < self.left() {
            return Fate::Lives;
        }
        self.answer
            .drain(..self.acknowledged.min(self.answer.len()));
        self.acknowledged = 0;
        let now_ms = now / 1_000_000;
        let is_last = match parse(&self.request) {
            Parsed::Whole(request, len) => {
                let (mmds, rules) = (service.mmds, service.rules);
                mmds.answer(rules, &request, now_ms, &mut self.answer);
                let is_last = request.is_last;
                self.request.drain(..len);
                is_last
            }
            Parsed::Malformed(why) => {
                service.mmds.answer_malformed(why, &mut self.answer);
                true
            }
            Parsed::Partial if self.request.len() < MAX_REQUEST => self.has_peer_finished,
            Parsed::Partial | Parsed::TooLong => return Fate::Reset(self.next),
        };
        if is_last {
            self.end = End::Near;
            self.request = Vec::new();
        }
        Fate::Lives
    }

    /// How long the guest may take now.
    fn patience_ns(&self) -> u64 {
        RETRANSMIT_NS.wrapping_shl(self.doublings.into())
    }

    /// Bytes of a request that fit.
    fn room(&self) -> u16 {
        u16::try_from(MAX_REQUEST.saturating_sub(self.request.len())).unwrap_or(u16::MAX)
    }

    /// What was sent and not acknowledged, a SYN or FIN counting as one byte.
    fn in_flight(&self) -> usize {
        self.next.wrapping_sub(self.unacknowledged) as usize
    }

    /// Bytes of the answer that are not acknowledged.
    fn left(&self) -> usize {
        self.answer.len().saturating_sub(self.acknowledged)
    }

    /// Those of them that were sent.
    fn sent(&self) -> usize {
        self.in_flight().min(self.left())
    }

    /// Bytes of the answer that can be sent now.
    fn sendable(&self) -> usize {
        let unsent = self.left().saturating_sub(self.sent());
        let open = (self.window as usize).saturating_sub(self.in_flight());
        let open = if self.is_probing { open.max(1) } else { open };
        unsent.min(open).min(self.max_segment)
    }

    /// The FIN is next.
    fn is_end_due(&self) -> bool {
        self.end == End::Near && self.in_flight() == self.left()
    }
}

/// Whether sequence number `a` lies behind `b`.
fn is_after(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) <= u32::MAX / 2
}
