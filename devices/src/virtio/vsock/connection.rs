//! One connection: a Unix socket on the host's side, a stream of packets on the guest's.
//!
//! ```text
//!  host connects:  Greeting --CONNECT <port>--> Requested --RESPONSE--> Established
//!  guest connects:                                       (REQUEST) ---> Established
//!                                   both directions ended by the guest, bytes left: Draining
//! ```
//!
//! Each direction ends on its own: `host_shutdown` and `guest_shutdown` say what each side will not do any more, in
//! the bits of a SHUTDOWN packet (virtio 1.2 §5.10.6.5). The numbers of the credit scheme (§5.10.6.3) count modulo
//! 2^32; those that the guest tells are compared with, never trusted.

#![deny(clippy::arithmetic_side_effects)]

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::net::{SendFlags, send};
use vmm_sys_util::epoll::EventSet;

use super::backlog::Backlog;
use super::packet::{BOTH, HEADER_LEN, Header, MAX_DATA, Op, Ports, RECEIVE, SEND};
use super::unix::{Greeting, read_greeting};
use crate::metrics::VsockMetrics;
use crate::virtio::chain::Segments;

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    pub(super) phase: Phase,
    /// Its name; of no meaning before the greeting.
    pub(super) ports: Ports,
    /// What is to be said to the guest before all else: that it is asked, or that it is answered.
    reply: Option<Op>,
    /// When the guest will have taken too long.
    pub(super) deadline: Option<Instant>,
    /// Its place in epoll also watches for room in the socket.
    pub(super) is_watched_for_room: bool,

    // From the guest to the host.
    /// Bytes that the guest may have on the way.
    window: u32,
    received: u32,
    /// Of those, bytes that the socket took or that nobody wants.
    forwarded: u32,
    /// `forwarded` as the guest was last told.
    told_forwarded: u32,
    backlog: Backlog,
    guest_shutdown: u32,
    /// The guest asked for our numbers.
    is_asked: bool,

    // From the host to the guest.
    sent: u32,
    guest_window: u32,
    guest_forwarded: u32,
    host_shutdown: u32,
    told_shutdown: u32,
    /// The socket may have something.
    is_readable: bool,
    /// The last read took all that there was room for: there is probably more than one buffer's worth.
    is_bulky: bool,
    /// What the socket has is the last of it.
    is_ending: bool,
    /// The guest was asked for its numbers since there was no credit.
    has_asked: bool,
}

/// How far a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A host process connected and is to say to which port.
    Greeting,
    /// The guest is asked.
    Requested,
    /// Data goes both ways.
    Established,
    /// The guest is done with it; the host takes what is left.
    Draining,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Keep,
    /// It is over, and the guest need not be told.
    Close,
    /// It is over, and the guest is told if it knows of it.
    Reset,
    /// It is over for the guest, which is told; the host takes what is left.
    Drain,
}

/// What a connection has to say to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Packets, written to the buffers: so many bytes of data in all, or one packet with none.
    Packets(usize),
    /// Nothing.
    Nothing,
    /// Its end.
    Reset,
}

impl Connection {
    /// A host process that just connected. `window`: bytes that the guest may have on the way.
    pub(super) fn greeting(stream: UnixStream, window: u32) -> Self {
        Self {
            stream,
            phase: Phase::Greeting,
            ports: Ports { host: 0, guest: 0 },
            reply: None,
            deadline: None,
            is_watched_for_room: false,
            window,
            received: 0,
            forwarded: 0,
            told_forwarded: 0,
            backlog: Backlog::default(),
            guest_shutdown: 0,
            is_asked: false,
            sent: 0,
            guest_window: 0,
            guest_forwarded: 0,
            host_shutdown: 0,
            told_shutdown: 0,
            is_readable: true,
            is_bulky: false,
            is_ending: false,
            has_asked: false,
        }
    }

    /// A connection that the guest asked for with `request`, and that the host took.
    pub(super) fn answering(stream: UnixStream, window: u32, request: &Header) -> Self {
        Self {
            phase: Phase::Established,
            ports: request.ports(),
            reply: Some(Op::Response),
            guest_window: request.buf_alloc.get(),
            guest_forwarded: request.fwd_cnt.get(),
            ..Self::greeting(stream, window)
        }
    }

    /// What the host process said it wants.
    pub(super) fn read_greeting(&mut self) -> Greeting {
        read_greeting(&self.stream, self.is_ending)
    }

    /// Asks the guest for a connection of this name.
    pub(super) fn request(&mut self, ports: Ports, deadline: Instant) {
        self.ports = ports;
        self.phase = Phase::Requested;
        self.reply = Some(Op::Request);
        self.deadline = Some(deadline);
    }

    /// The guest has heard of it.
    pub(super) fn is_known(&self) -> bool {
        let is_named = matches!(self.phase, Phase::Requested | Phase::Established);
        is_named && self.reply != Some(Op::Request)
    }

    /// Both directions ended, and the guest was told.
    pub(super) fn is_over_for_host(&self) -> bool {
        self.told_shutdown == BOTH
    }

    /// Bytes wait for room in the socket.
    pub(super) fn wants_room(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// The guest is done with it.
    pub(super) fn drain(&mut self) {
        self.phase = Phase::Draining;
        self.reply = None;
        self.deadline = None;
    }

    /// The socket changed.
    pub(super) fn on_ready(&mut self, events: EventSet, metrics: &VsockMetrics) -> Verdict {
        let end = EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR;
        self.is_readable |= events.intersects(EventSet::IN | end);
        self.is_ending |= events.intersects(end);
        if events.intersects(EventSet::HANG_UP) {
            // Both directions of the socket are over; what it holds can still be read. If this side ended one of
            // them, a host process that only ended the other did nothing more.
            let has_shut = self.guest_shutdown & SEND != 0 && self.backlog.is_empty();
            if !has_shut {
                self.stop_receiving();
            }
            if self.guest_shutdown & RECEIVE != 0 {
                self.host_shutdown = BOTH;
            }
            match self.phase {
                Phase::Greeting | Phase::Draining => return Verdict::Close,
                Phase::Requested => return Verdict::Reset,
                Phase::Established => {}
            }
        }
        if events.intersects(EventSet::OUT) {
            return self.flush(metrics);
        }
        Verdict::Keep
    }

    /// Sends what waited for room.
    fn flush(&mut self, metrics: &VsockMetrics) -> Verdict {
        while !self.backlog.is_empty() {
            match self.backlog.send(&self.stream) {
                Ok(sent) => self.forward(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Verdict::Keep,
                Err(_) => {
                    metrics.tx_flush_fails.increment();
                    self.stop_receiving();
                }
            }
        }
        if self.phase == Phase::Draining {
            return Verdict::Close;
        }
        if self.guest_shutdown & SEND != 0 {
            self.shut(Shutdown::Write);
        }
        Verdict::Keep
    }

    /// The host takes no more: what is there for it, and what comes, is dropped.
    fn stop_receiving(&mut self) {
        self.host_shutdown |= RECEIVE;
        let dropped = self.backlog.len();
        self.backlog.clear();
        self.forward(dropped);
    }

    fn forward(&mut self, count: usize) {
        // Never more than the window.
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.forwarded = self.forwarded.wrapping_add(count);
    }

    fn shut(&self, how: Shutdown) {
        // Fails only when the other end is gone, which it then is told by an event.
        let _ = self.stream.shutdown(how);
    }

    /// A packet of the guest for this connection; `data` is as long as the header says.
    pub(super) fn on_packet(
        &mut self,
        header: &Header,
        data: &mut Segments,
        metrics: &VsockMetrics,
    ) -> Verdict {
        self.guest_window = header.buf_alloc.get();
        self.guest_forwarded = header.fwd_cnt.get();
        self.has_asked &= self.credit() == 0;
        match (self.phase, header.op()) {
            (_, Some(Op::Reset)) if self.backlog.is_empty() => Verdict::Close,
            // What the guest sent before is still the host's.
            (_, Some(Op::Reset)) => Verdict::Drain,
            (Phase::Requested, Some(Op::Response)) if self.reply.is_none() => self.establish(),
            (Phase::Requested | Phase::Established, Some(Op::CreditUpdate)) => Verdict::Keep,
            (Phase::Established, Some(Op::CreditRequest)) => {
                self.is_asked = true;
                Verdict::Keep
            }
            (Phase::Established, Some(Op::Data)) => self.receive(data, metrics),
            (Phase::Established, Some(Op::Shutdown)) => self.on_shutdown(header.flags.get()),
            _ => Verdict::Reset,
        }
    }

    /// The guest accepted: the host process is told, and with it our port.
    fn establish(&mut self) -> Verdict {
        self.phase = Phase::Established;
        self.deadline = None;
        let mut line = [0; 16];
        let mut rest = line.as_mut_slice();
        let written = writeln!(rest, "OK {}", self.ports.host);
        let room = rest.len();
        let len = line.len().saturating_sub(room);
        let line = line.get(..len).unwrap_or_default();
        // Nothing was sent before, so there is room for all of it.
        let sent = send(
            &self.stream,
            line,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        );
        if written.is_ok() && sent == Ok(len) {
            Verdict::Keep
        } else {
            Verdict::Reset
        }
    }

    /// Passes data on to the socket; what it does not take waits.
    fn receive(&mut self, data: &mut Segments, metrics: &VsockMetrics) -> Verdict {
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let on_the_way = self.received.wrapping_sub(self.forwarded);
        let is_within = on_the_way
            .checked_add(len)
            .is_some_and(|total| total <= self.window);
        if self.guest_shutdown & SEND != 0 || !is_within {
            metrics.tx_queue_event_fails.increment();
            return Verdict::Reset;
        }
        metrics.tx_bytes_count.add(len.into());
        self.received = self.received.wrapping_add(len);
        if self.host_shutdown & RECEIVE == 0 && self.backlog.is_empty() && len > 0 {
            match data.send_stream(self.stream.as_fd(), data.len()) {
                Ok(sent) => {
                    self.forward(sent);
                    data.advance(sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    metrics.tx_write_fails.increment();
                    self.stop_receiving();
                }
            }
        }
        if self.host_shutdown & RECEIVE != 0 {
            self.forward(data.len());
        } else if !data.is_empty() {
            self.backlog.push(data, data.len(), self.window as usize);
        }
        Verdict::Keep
    }

    /// The guest ends a direction, or both.
    fn on_shutdown(&mut self, flags: u32) -> Verdict {
        self.guest_shutdown |= flags & BOTH;
        if self.guest_shutdown == BOTH {
            return if self.backlog.is_empty() {
                Verdict::Reset
            } else {
                Verdict::Drain
            };
        }
        if self.guest_shutdown == SEND && self.backlog.is_empty() {
            self.shut(Shutdown::Write);
        }
        if self.guest_shutdown == RECEIVE {
            self.shut(Shutdown::Read);
        }
        Verdict::Keep
    }

    /// Bytes that the guest has room for (virtio 1.2 §5.10.6.3).
    fn credit(&self) -> u32 {
        let on_the_way = self.sent.wrapping_sub(self.guest_forwarded);
        self.guest_window.saturating_sub(on_the_way)
    }

    /// The socket may have data that the guest would take, credit apart.
    fn has_data(&self) -> bool {
        let is_open = self.host_shutdown & SEND == 0 && self.guest_shutdown & RECEIVE == 0;
        self.phase == Phase::Established && self.is_readable && is_open
    }

    /// The guest ought to know that there is room: it asked, or it must think that there is little.
    fn owes_credit(&self) -> bool {
        let on_the_way = self.received.wrapping_sub(self.told_forwarded);
        let room = self.window.saturating_sub(on_the_way);
        let little = self.window.div_euclid(2).min(MAX_DATA);
        let has_news = self.forwarded != self.told_forwarded && self.guest_shutdown & SEND == 0;
        self.phase == Phase::Established && (self.is_asked || (has_news && room < little))
    }

    /// There is something to say to the guest.
    pub(super) fn wants_turn(&self) -> bool {
        let has_said_all = self.told_shutdown == self.host_shutdown;
        self.reply.is_some()
            || (self.phase == Phase::Established && !has_said_all)
            || (self.has_data() && (self.credit() > 0 || !self.has_asked))
            || self.owes_credit()
    }

    /// Bytes of room that its next data would fill; 1 when nothing is known of them.
    pub(super) fn wanted(&self) -> usize {
        if self.is_bulky && self.has_data() {
            self.credit().clamp(1, MAX_DATA) as usize
        } else {
            1
        }
    }

    /// Writes the next packet for the guest to `room`, or its next data as several packets. `room` is made of `parts`,
    /// so many bytes each and longer than a header: a buffer each, for a packet each.
    pub(super) fn next(
        &mut self,
        cid: u64,
        room: &mut Segments,
        parts: &[usize],
        metrics: &VsockMetrics,
    ) -> Next {
        let (op, len) = match self.next_op(room, parts, metrics) {
            Ok(Some(next)) => next,
            Ok(None) => return Next::Nothing,
            Err(_) => {
                metrics.rx_read_fails.increment();
                return Next::Reset;
            }
        };
        let mut header = Header::to_guest(cid, self.ports, op);
        if op == Op::Shutdown {
            header.flags = self.host_shutdown.into();
        }
        header.buf_alloc = self.window.into();
        header.fwd_cnt = self.forwarded.into();
        self.told_forwarded = self.forwarded;
        self.is_asked = false;
        let (mut at, mut left) = (0_usize, len);
        for part in parts {
            let data = part.saturating_sub(HEADER_LEN).min(left);
            header.len = u32::try_from(data).unwrap_or(u32::MAX).into();
            room.copy_from(at, zerocopy::IntoBytes::as_bytes(&header));
            at = at.saturating_add(*part);
            left = left.saturating_sub(data);
            if left == 0 {
                break;
            }
        }
        Next::Packets(len)
    }

    /// What to say next, and how much data was read for it.
    fn next_op(
        &mut self,
        room: &mut Segments,
        parts: &[usize],
        metrics: &VsockMetrics,
    ) -> io::Result<Option<(Op, usize)>> {
        if let Some(op) = self.reply.take() {
            return Ok(Some((op, 0)));
        }
        if self.phase != Phase::Established {
            return Ok(None);
        }
        let credit = self.credit();
        if self.has_data() && credit > 0 {
            let rooms = parts.iter().map(|part| part.saturating_sub(HEADER_LEN));
            let max = rooms.fold(0, usize::saturating_add);
            let max = max.min(credit.min(MAX_DATA) as usize);
            if let Some(len) = self.read(room, parts, max)? {
                metrics.rx_bytes_count.add(len as u64);
                return Ok(Some((Op::Data, len)));
            }
        }
        if self.told_shutdown != self.host_shutdown {
            self.told_shutdown = self.host_shutdown;
            return Ok(Some((Op::Shutdown, 0)));
        }
        if self.owes_credit() {
            return Ok(Some((Op::CreditUpdate, 0)));
        }
        if self.has_data() && credit == 0 && !self.has_asked {
            self.has_asked = true;
            return Ok(Some((Op::CreditRequest, 0)));
        }
        Ok(None)
    }

    /// Reads at most `max` bytes for the guest; `None` when there are none now, or never again.
    fn read(
        &mut self,
        room: &mut Segments,
        parts: &[usize],
        max: usize,
    ) -> io::Result<Option<usize>> {
        let parts = parts.iter().copied();
        match room.read_stream(self.stream.as_fd(), parts, HEADER_LEN, max) {
            Ok(0) => {
                self.is_readable = false;
                self.host_shutdown |= SEND;
                Ok(None)
            }
            Ok(len) => {
                let count = u32::try_from(len).unwrap_or(u32::MAX);
                self.sent = self.sent.wrapping_add(count);
                // Less than was asked for was all there was; its end, if it came already, is yet to be read.
                self.is_readable = len == max || self.is_ending;
                self.is_bulky = len == max;
                Ok(Some(len))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_readable = false;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}
