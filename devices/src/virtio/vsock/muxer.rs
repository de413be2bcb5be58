//! All connections of a device: which packet belongs to which, whose turn it is, and what the host's sockets say.
//!
//! Sockets come and go, and a worker's sources do not: they sit in an epoll of their own, whose descriptor is the one
//! source. A timer of the same epoll is armed only while somebody is waited for.
//!
//! Nothing here grows with what a guest or a host does. A connection has one place in `ready`, however often it has
//! something to say; `replies` is what takes no more packets from a guest that does not take its own.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::timerfd::TimerFd;
use zerocopy::IntoBytes;

use super::connection::{Connection, Next, Phase, Verdict};
use super::packet::{HOST_CID, Header, Op, Ports, STREAM};
use super::unix::{Greeting, Listener, VsockError};
use crate::metrics::VsockMetrics;
use crate::virtio::chain::Segments;

/// Connections at a time, where the process may open enough files.
pub(super) const MAX_CONNECTIONS: usize = 1023;
/// Connections that get the large window.
const ROOMY_CONNECTIONS: usize = 64;
/// Bytes that a guest may have on the way in one of the first connections: what Linux takes for itself.
const LARGE_WINDOW: u32 = 256 << 10;
/// The same in a connection beyond those.
const WINDOW: u32 = 64 << 10;
/// Replies that wait for buffers before no more packets are taken.
const MAX_REPLIES: usize = 256;
/// Host connections accepted in one turn.
const ACCEPTS: usize = 64;
/// How long a guest may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The first port that a host connection gets, and the bit that all of them have.
const FIRST_HOST_PORT: u32 = 1 << 30;

// What is watched besides connections, which have their slot's number.
const LISTENER: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

/// The connections, and what watches their sockets.
pub(super) struct Muxer {
    /// Fixed once a driver runs.
    cid: u64,
    // Fixed configuration.
    /// Connections at a time.
    capacity: usize,
    // Runtime glue.
    listener: Listener,
    epoll: Epoll,
    timer: TimerFd,
    metrics: Arc<VsockMetrics>,
    // What goes on.
    slots: Vec<Slot>,
    free: Vec<u16>,
    by_ports: HashMap<Ports, u16>,
    /// Packets for the guest that belong to no connection any more.
    replies: VecDeque<Header>,
    /// Connections with something to say to the guest, in turn.
    ready: VecDeque<u16>,
    /// When somebody will have taken too long, in order; an entry counts if its connection still says the same.
    deadlines: VecDeque<(Instant, u16)>,
    next_host_port: u32,
    /// Host processes may wait to be accepted.
    has_waiting: bool,
    is_timer_armed: bool,
}

/// A place for a connection.
#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    /// In `ready`: once, whoever has the place.
    is_queued: bool,
}

impl Muxer {
    /// No connections, and `listener` for those of the host.
    pub(super) fn new(
        cid: u64,
        listener: Listener,
        metrics: Arc<VsockMetrics>,
    ) -> Result<Self, VsockError> {
        let epoll = Epoll::new().map_err(VsockError::Wait)?;
        let timer = TimerFd::new().map_err(|error| VsockError::Wait(error.into()))?;
        for (fd, data) in [
            (listener.socket.as_raw_fd(), LISTENER),
            (timer.as_raw_fd(), TIMER),
        ] {
            let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, data);
            let added = epoll.ctl(ControlOperation::Add, fd, event);
            added.map_err(VsockError::Wait)?;
        }
        let files = getrlimit(Resource::Nofile).current;
        Ok(Self {
            cid,
            capacity: capacity(files),
            listener,
            epoll,
            timer,
            metrics,
            slots: Vec::new(),
            free: Vec::new(),
            by_ports: HashMap::new(),
            replies: VecDeque::new(),
            ready: VecDeque::new(),
            deadlines: VecDeque::new(),
            next_host_port: FIRST_HOST_PORT,
            has_waiting: true,
            is_timer_armed: false,
        })
    }

    /// Gives the guest another address, before there are connections.
    pub(super) fn set_cid(&mut self, cid: u64) {
        self.cid = cid;
    }

    /// Ends all connections; those that host processes ask for still wait.
    pub(super) fn clear(&mut self) {
        for slot in 0..self.slots.len() {
            if let Ok(slot) = u16::try_from(slot) {
                self.remove(slot);
            }
        }
        self.replies.clear();
        self.ready.clear();
        self.deadlines.clear();
        for slot in &mut self.slots {
            slot.is_queued = false;
        }
        self.disarm();
    }

    /// Nobody is waited for while the guest stands still.
    pub(super) fn pause(&mut self) {
        self.disarm();
    }

    /// Waits anew for those who were waited for.
    pub(super) fn resume(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let slots = &mut self.slots;
        self.deadlines.retain_mut(|(time, slot)| {
            let connection = slots[usize::from(*slot)].connection.as_mut();
            let Some(connection) = connection.filter(|c| c.deadline == Some(*time)) else {
                return false;
            };
            *time = deadline;
            connection.deadline = Some(deadline);
            true
        });
        self.arm();
    }

    /// There may be packets for the guest.
    pub(super) fn has_packets(&self) -> bool {
        !self.replies.is_empty() || !self.ready.is_empty()
    }

    /// Packets of the guest can be taken: there is room for what they are answered with.
    pub(super) fn takes_packets(&self) -> bool {
        self.replies.len() < MAX_REPLIES
    }

    /// Hears what sockets and timer have to say, all of it.
    pub(super) fn poll(&mut self) {
        let mut events = [EpollEvent::default(); 64];
        loop {
            let count = match self.epoll.wait(0, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => {
                    self.metrics.muxer_event_fails.increment();
                    return;
                }
            };
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.has_waiting = true,
                    TIMER => self.expire(Instant::now()),
                    slot => {
                        self.on_ready(u16::try_from(slot).unwrap_or(u16::MAX), event.event_set())
                    }
                }
            }
            if count < events.len() {
                return;
            }
        }
    }

    /// Accepts host processes that wait, some in each turn. True when there may be more.
    pub(super) fn accept(&mut self) -> bool {
        for _ in 0..ACCEPTS {
            if !self.has_waiting {
                return false;
            }
            match self.listener.socket.accept() {
                Ok((stream, _)) => self.welcome(stream),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.has_waiting = false,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => {
                        // Out of files: again when something else happens, such as an end.
                        self.metrics.muxer_event_fails.increment();
                        return false;
                    }
                },
            }
        }
        self.has_waiting
    }

    fn welcome(&mut self, stream: UnixStream) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let connection = Connection::greeting(stream, self.window());
        if let Some(slot) = self.insert(connection) {
            self.greet(slot);
        }
    }

    /// Reads where a host process wants to, and asks the guest.
    fn greet(&mut self, slot: u16) {
        let Some(connection) = self.connection(slot) else {
            return;
        };
        match connection.read_greeting() {
            Greeting::Unfinished => {}
            Greeting::Wrong => {
                self.metrics.conn_event_fails.increment();
                self.remove(slot);
            }
            Greeting::Port(guest) => {
                let deadline = Instant::now() + PATIENCE;
                let ports = self.name(guest);
                if let Some(connection) = self.connection(slot) {
                    connection.request(ports, deadline);
                }
                self.by_ports.insert(ports, slot);
                self.wait_until(deadline, slot);
                self.queue(slot);
            }
        }
    }

    /// A name that no connection to that port of the guest has.
    fn name(&mut self, guest: u32) -> Ports {
        loop {
            let host = self.next_host_port;
            self.next_host_port = host.wrapping_add(1) & (u32::MAX >> 1) | FIRST_HOST_PORT;
            let ports = Ports { host, guest };
            if !self.by_ports.contains_key(&ports) {
                return ports;
            }
        }
    }

    fn on_ready(&mut self, slot: u16, events: EventSet) {
        let metrics = Arc::clone(&self.metrics);
        let Some(connection) = self.connection(slot) else {
            return;
        };
        let verdict = connection.on_ready(events, &metrics);
        let is_greeting = connection.phase == Phase::Greeting;
        self.judge(slot, verdict);
        if is_greeting {
            self.greet(slot);
        }
    }

    /// A packet of the guest, header and data.
    pub(super) fn on_packet(&mut self, packet: &mut Segments) {
        self.metrics.tx_packets_count.increment();
        let Some(header) = packet.read_head::<Header>() else {
            self.metrics.tx_queue_event_fails.increment();
            return;
        };
        // Nobody else is reached here, and nobody else's name may be used (virtio 1.2 §5.10.6.4.1).
        if header.src_cid.get() != self.cid || header.dst_cid.get() != HOST_CID {
            self.metrics.tx_queue_event_fails.increment();
            return;
        }
        let found = self.by_ports.get(&header.ports()).copied();
        let is_whole = usize::try_from(header.len.get()).is_ok_and(|len| len <= packet.len());
        if header.kind.get() != STREAM || !is_whole {
            self.metrics.tx_queue_event_fails.increment();
            match found {
                Some(slot) => self.judge(slot, Verdict::Reset),
                None => self.refuse(&header),
            }
            return;
        }
        packet.truncate(header.len.get() as usize);
        let metrics = Arc::clone(&self.metrics);
        match (found, header.op()) {
            (Some(slot), op) => {
                let Some(connection) = self.connection(slot) else {
                    return;
                };
                let mut verdict = connection.on_packet(&header, packet, &metrics);
                if op == Some(Op::Reset) && verdict == Verdict::Drain {
                    // The guest knows.
                    self.forget(slot);
                    verdict = Verdict::Keep;
                }
                self.judge(slot, verdict);
            }
            (None, Some(Op::Request)) => self.connect(&header),
            (None, _) => self.refuse(&header),
        }
    }

    /// The guest asks for a connection to a host process.
    fn connect(&mut self, request: &Header) {
        let stream = match self.listener.connect(request.dst_port.get()) {
            Ok(stream) if self.has_room() => stream,
            _ => return self.refuse(request),
        };
        let connection = Connection::answering(stream, self.window(), request);
        match self.insert(connection) {
            Some(slot) => {
                self.by_ports.insert(request.ports(), slot);
                self.queue(slot);
            }
            None => self.refuse(request),
        }
    }

    /// Answers a packet that belongs nowhere, unless it says just that.
    fn refuse(&mut self, packet: &Header) {
        if packet.op() == Some(Op::Reset) {
            return;
        }
        let mut reply = Header::to_guest(self.cid, packet.ports(), Op::Reset);
        reply.kind = packet.kind;
        self.replies.push_back(reply);
    }

    /// Bytes of room that the next packets would fill; 1 when nothing is known of them.
    pub(super) fn wanted(&self) -> usize {
        let next = self.ready.front().filter(|_| self.replies.is_empty());
        let place = next.and_then(|slot| self.slots.get(usize::from(*slot)));
        let connection = place.and_then(|place| place.connection.as_ref());
        connection.map_or(1, Connection::wanted)
    }

    /// Writes the next packet for the guest to `room`, or one connection's next data as several. `room` is made of
    /// `parts`, so many bytes each and longer than a header. Says how many bytes of data there are.
    pub(super) fn next(&mut self, room: &mut Segments, parts: &[usize]) -> Option<usize> {
        let metrics = Arc::clone(&self.metrics);
        loop {
            if let Some(reply) = self.replies.pop_front() {
                room.copy_from(0, reply.as_bytes());
                return Some(0);
            }
            let slot = self.ready.pop_front()?;
            self.slots[usize::from(slot)].is_queued = false;
            let cid = self.cid;
            let Some(connection) = self.connection(slot) else {
                continue;
            };
            match connection.next(cid, room, parts, &metrics) {
                Next::Packets(len) => {
                    self.after_packet(slot);
                    return Some(len);
                }
                Next::Nothing => {}
                Next::Reset => self.judge(slot, Verdict::Reset),
            }
        }
    }

    /// Waits for the guest's answer to the last packet of a connection, and queues it again if it has more.
    fn after_packet(&mut self, slot: u16) {
        let Some(connection) = self.connection(slot) else {
            return;
        };
        if connection.is_over_for_host() && connection.deadline.is_none() {
            let deadline = Instant::now() + PATIENCE;
            connection.deadline = Some(deadline);
            self.wait_until(deadline, slot);
        }
        self.queue(slot);
    }

    /// Ends the connections whose guest took too long.
    fn expire(&mut self, now: Instant) {
        self.is_timer_armed = false;
        while let Some(&(deadline, slot)) = self.deadlines.front() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_front();
            let is_due = |connection: &mut Connection| connection.deadline == Some(deadline);
            if self.connection(slot).is_some_and(is_due) {
                self.metrics.conns_killed.increment();
                self.judge(slot, Verdict::Reset);
            }
        }
        self.arm();
    }

    /// Does what was decided, and sees to what follows from the connection's new state.
    fn judge(&mut self, slot: u16, verdict: Verdict) {
        match verdict {
            Verdict::Keep => {
                self.watch(slot);
                self.queue(slot);
            }
            Verdict::Close => {
                self.remove(slot);
            }
            Verdict::Reset => {
                if let Some(connection) = self.remove(slot)
                    && connection.is_known()
                {
                    let reset = Header::to_guest(self.cid, connection.ports, Op::Reset);
                    self.replies.push_back(reset);
                }
            }
            Verdict::Drain => {
                if let Some(ports) = self.forget(slot) {
                    let reset = Header::to_guest(self.cid, ports, Op::Reset);
                    self.replies.push_back(reset);
                }
                self.watch(slot);
            }
        }
    }

    /// The guest is done with a connection; its name is free.
    fn forget(&mut self, slot: u16) -> Option<Ports> {
        let connection = self.connection(slot)?;
        connection.drain();
        let ports = connection.ports;
        self.by_ports.remove(&ports);
        Some(ports)
    }

    /// Watches for room in a socket exactly while somebody waits for it: each read of a host process would be an event.
    fn watch(&mut self, slot: u16) {
        let Some(connection) = self.connection(slot) else {
            return;
        };
        let wants_room = connection.wants_room();
        if connection.is_watched_for_room == wants_room {
            return;
        }
        connection.is_watched_for_room = wants_room;
        let (fd, event) = (connection.as_raw_fd(), watch_for(slot, wants_room));
        if self.epoll.ctl(ControlOperation::Modify, fd, event).is_err() {
            self.metrics.muxer_event_fails.increment();
        }
    }

    /// Gives a connection its turn, if it has something to say.
    fn queue(&mut self, slot: u16) {
        let Some(place) = self.slots.get_mut(usize::from(slot)) else {
            return;
        };
        let wants_turn = place
            .connection
            .as_ref()
            .is_some_and(Connection::wants_turn);
        if wants_turn && !place.is_queued {
            place.is_queued = true;
            self.ready.push_back(slot);
        }
    }

    /// Bytes that the guest may have on the way in a connection that is made now.
    fn window(&self) -> u32 {
        if self.count() < ROOMY_CONNECTIONS {
            LARGE_WINDOW
        } else {
            WINDOW
        }
    }

    fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn has_room(&self) -> bool {
        self.count() < self.capacity
    }

    /// Gives a connection a place and watches its socket. `None`, and the connection ends, when there is no room.
    fn insert(&mut self, connection: Connection) -> Option<u16> {
        if !self.has_room() {
            return None;
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u16::try_from(self.slots.len()).ok()?;
                self.slots.push(Slot::default());
                slot
            }
        };
        let (fd, event) = (connection.as_raw_fd(), watch_for(slot, false));
        if self.epoll.ctl(ControlOperation::Add, fd, event).is_err() {
            self.metrics.muxer_event_fails.increment();
            self.free.push(slot);
            return None;
        }
        self.metrics.conns_added.increment();
        self.slots[usize::from(slot)].connection = Some(connection);
        Some(slot)
    }

    /// Takes a connection out; its socket closes when the caller drops it, which ends the watch.
    fn remove(&mut self, slot: u16) -> Option<Connection> {
        let place = self.slots.get_mut(usize::from(slot))?;
        let connection = place.connection.take()?;
        self.metrics.conns_removed.increment();
        self.free.push(slot);
        if matches!(connection.phase, Phase::Requested | Phase::Established) {
            self.by_ports.remove(&connection.ports);
        }
        Some(connection)
    }

    fn connection(&mut self, slot: u16) -> Option<&mut Connection> {
        self.slots.get_mut(usize::from(slot))?.connection.as_mut()
    }

    /// Deadlines are noted in order: all are the same time away.
    fn wait_until(&mut self, deadline: Instant, slot: u16) {
        if self.deadlines.len() > 2 * MAX_CONNECTIONS {
            self.metrics.killq_resync.increment();
            let slots = &self.slots;
            self.deadlines.retain(|(deadline, slot)| {
                let connection = slots[usize::from(*slot)].connection.as_ref();
                connection.is_some_and(|c| c.deadline == Some(*deadline))
            });
        }
        self.deadlines.push_back((deadline, slot));
        self.arm();
    }

    /// Arms the timer for the first deadline, if there is one and it is not armed.
    fn arm(&mut self) {
        let Some((deadline, _)) = self.deadlines.front() else {
            return;
        };
        if self.is_timer_armed {
            return;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        // Zero would disarm it.
        let left = left.max(Duration::from_millis(1));
        match self.timer.reset(left, None) {
            Ok(()) => self.is_timer_armed = true,
            Err(_) => self.metrics.muxer_event_fails.increment(),
        }
    }

    fn disarm(&mut self) {
        if self.is_timer_armed && self.timer.clear().is_ok() {
            self.is_timer_armed = false;
        }
    }
}

impl AsRawFd for Muxer {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

/// Connections for a process that may have `files` open: three of four. The API and the other devices need the rest, or
/// a guest could keep everybody from the API.
fn capacity(files: Option<u64>) -> usize {
    let files = files.and_then(|files| usize::try_from(files).ok());
    files.map_or(MAX_CONNECTIONS, |files| {
        (files - files / 4).min(MAX_CONNECTIONS)
    })
}

/// How a connection's socket is watched.
fn watch_for(slot: u16, wants_room: bool) -> EpollEvent {
    let mut events = EventSet::IN | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
    events.set(EventSet::OUT, wants_room);
    EpollEvent::new(events, slot.into())
}
