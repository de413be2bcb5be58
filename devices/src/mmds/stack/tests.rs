//! A guest that speaks TCP by hand, frame by frame, and a clock that the test turns.

use std::collections::BTreeMap;

use serde_json::json;
use vm_config::MmdsVersion;

use super::*;
use crate::mmds::connection::RETRANSMIT_NS;
use crate::mmds::packet::{MAC, MAX_SEGMENT};
use crate::mmds::testing::{ADDRESS, GUEST_MAC, Header, arp_request, segment};

const ACK: u8 = flags::ACK;
const RULES: Rules = Rules {
    version: MmdsVersion::V1,
    is_imds_only: false,
};
/// Longer than any window.
const LONG: usize = 40_000;

/// A segment that the service sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    to: u16,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    window: u16,
    data: Vec<u8>,
}

impl Sent {
    fn is_reset(&self) -> bool {
        self.flags & flags::RST != 0
    }
}

struct Wire {
    stack: Stack,
    now: u64,
}

impl Wire {
    fn new() -> Self {
        let mmds = Mmds::default();
        let long: String = ('a'..='z').cycle().take(LONG).collect();
        mmds.put(json!({"name": "vm", "long": long})).unwrap();
        Self {
            stack: Stack::new(Arc::new(mmds), RULES, ADDRESS),
            now: 1,
        }
    }

    fn metrics(&self) -> Arc<crate::metrics::MmdsMetrics> {
        self.stack.mmds.metrics()
    }

    /// Sends a frame as the device would hand it over.
    fn frame(&mut self, frame: &[u8]) {
        assert!(self.stack.takes(&frame[..frame.len().min(42)]));
        let look = frame.len().min(MAX_LOOK);
        self.stack.receive(&frame[..look], frame.len(), self.now);
    }

    fn next(&mut self) -> Option<Sent> {
        let was_ready = self.stack.is_ready();
        let mut frame = [0xee; MAX_ANSWER];
        let len = self.stack.send(self.now, &mut frame);
        assert_eq!(was_ready, len.is_some(), "readiness is wrong");
        let segment = parse_segment(&frame[..len?], len?).unwrap();
        assert_eq!(segment.from.mac, MAC);
        Some(Sent {
            to: segment.port,
            sequence: segment.sequence,
            acknowledgement: segment.acknowledgement,
            flags: segment.flags,
            window: segment.window,
            data: segment.data.to_vec(),
        })
    }

    fn all(&mut self) -> Vec<Sent> {
        std::iter::from_fn(|| self.next()).collect()
    }

    fn only(&mut self) -> Sent {
        let all = self.all();
        assert_eq!(all.len(), 1, "{all:?}");
        all.into_iter().next().unwrap()
    }

    /// Turns the clock to the deadline.
    fn wait(&mut self) {
        self.now = self.stack.deadline().expect("something is waited for");
        self.stack.on_time(self.now);
    }
}

/// The guest's end of a connection.
#[derive(Clone)]
struct End {
    port: u16,
    next: u32,
    expected: u32,
    window: u16,
    heard: Vec<u8>,
}

fn tcp(from: u16, to: u16, numbers: (u32, u32), flags: u8, window: u16, rest: &[u8]) -> Vec<u8> {
    let header = Header {
        ports: (from, to),
        numbers,
        flags,
        window,
    };
    segment(&header, rest)
}

impl End {
    fn new(port: u16) -> Self {
        Self {
            port,
            next: (u32::MAX - 20).wrapping_add(port.into()),
            expected: 0,
            window: 60_000,
            heard: Vec::new(),
        }
    }

    fn frame(&self, sequence: u32, flags: u8, data: &[u8]) -> Vec<u8> {
        tcp(
            self.port,
            PORT,
            (sequence, self.expected),
            flags,
            self.window,
            data,
        )
    }

    fn syn(&self, max_segment: Option<u16>) -> Vec<u8> {
        let option = max_segment.map(|max| [[2, 4], max.to_be_bytes()].concat());
        self.frame(self.next, flags::SYN, &option.unwrap_or_default())
    }

    /// A connection that is open.
    fn open(wire: &mut Wire, port: u16, max_segment: Option<u16>) -> Self {
        let mut end = Self::new(port);
        wire.frame(&end.syn(max_segment));
        let answer = wire.only();
        assert_eq!((answer.flags, answer.to), (flags::SYN | ACK, port));
        end.next = end.next.wrapping_add(1);
        assert_eq!(answer.acknowledgement, end.next);
        end.expected = answer.sequence.wrapping_add(1);
        wire.frame(&end.frame(end.next, ACK, &[]));
        assert_eq!(wire.all(), []);
        end
    }

    fn send(&mut self, wire: &mut Wire, data: &[u8]) {
        wire.frame(&self.frame(self.next, ACK | flags::PSH, data));
        self.next = self.next.wrapping_add(u32::try_from(data.len()).unwrap());
    }

    fn get(&mut self, wire: &mut Wire, path: &str) {
        self.send(wire, format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes());
    }

    /// Takes what is next for this end.
    fn hear(&mut self, sent: &Sent) {
        assert_eq!(sent.to, self.port);
        if sent.sequence == self.expected {
            self.heard.extend(&sent.data);
            let end = usize::from(sent.flags & flags::FIN != 0);
            let len = u32::try_from(sent.data.len() + end).unwrap();
            self.expected = self.expected.wrapping_add(len);
        }
    }

    fn acknowledge(&self, wire: &mut Wire) {
        wire.frame(&self.frame(self.next, ACK, &[]));
    }

    /// Hears and acknowledges until nothing more comes.
    fn hear_all(&mut self, wire: &mut Wire) {
        loop {
            let all = wire.all();
            if all.is_empty() {
                return;
            }
            all.iter().for_each(|sent| self.hear(sent));
            self.acknowledge(wire);
        }
    }

    /// The bodies of all answers so far.
    fn bodies(&self) -> Vec<String> {
        let text = str::from_utf8(&self.heard).unwrap();
        let mut rest = text;
        let mut bodies = Vec::new();
        while let Some((head, tail)) = rest.split_once("\r\n\r\n") {
            let len = head
                .split("Content-Length: ")
                .nth(1)
                .unwrap()
                .parse()
                .unwrap();
            let (body, after) = tail.split_at(len);
            bodies.push(body.to_owned());
            rest = after;
        }
        assert_eq!(rest, "", "a part of an answer");
        bodies
    }
}

#[test]
fn requests_on_one_connection_are_answered_in_turn() {
    let mut wire = Wire::new();
    let mut end = End::open(&mut wire, 1, Some(1460));
    for _ in 0..3 {
        end.get(&mut wire, "/name");
        end.hear_all(&mut wire);
    }
    end.get(&mut wire, "/long");
    end.hear_all(&mut wire);
    let bodies = end.bodies();
    assert_eq!(bodies[..3], ["vm", "vm", "vm"]);
    assert_eq!(bodies[3].len(), LONG);
    assert_eq!(wire.stack.deadline(), None, "nothing is waited for");
    // The guest ends it.
    wire.frame(&end.frame(end.next, ACK | flags::FIN, &[]));
    let last = wire.only();
    assert_eq!(last.flags, ACK | flags::FIN);
    assert_eq!(last.acknowledgement, end.next.wrapping_add(1));
    end.hear(&last);
    wire.frame(&end.frame(end.next.wrapping_add(1), ACK, &[]));
    assert_eq!(wire.all(), []);
    let metrics = wire.metrics();
    assert_eq!(metrics.connections_created.get(), 1);
    assert_eq!(metrics.connections_destroyed.get(), 1);
    assert_eq!(metrics.rx_count.get(), metrics.rx_accepted.get());
}

#[test]
fn segments_are_as_long_as_the_guest_says() {
    for (stated, longest) in [
        (None, 536),
        (Some(50), 100),
        (Some(700), 700),
        (Some(9000), MAX_SEGMENT),
    ] {
        let mut wire = Wire::new();
        let mut end = End::open(&mut wire, 1, stated);
        end.get(&mut wire, "/long");
        let lens = wire.all().into_iter().map(|sent| sent.data.len());
        assert_eq!(lens.max(), Some(longest), "{stated:?}");
    }
}

#[test]
fn what_is_lost_comes_again_until_the_guest_is_given_up() {
    let mut wire = Wire::new();
    let mut end = End::open(&mut wire, 1, Some(1460));
    end.get(&mut wire, "/long");
    let first = wire.all();
    assert!(first.len() > 20);
    // The guest got two of them, and the fourth.
    first[..2].iter().for_each(|sent| end.hear(sent));
    end.hear(&first[3]);
    end.acknowledge(&mut wire);
    assert_eq!(wire.all(), []);
    wire.wait();
    assert_eq!(wire.all()[..], first[2..]);
    for _ in 0..14 {
        wire.wait();
        assert_eq!(wire.next().unwrap(), first[2]);
        wire.all();
    }
    let waited = wire.now;
    wire.wait();
    assert_eq!(wire.now - waited, RETRANSMIT_NS);
    let last = wire.only();
    assert!(last.is_reset());
    assert_eq!(last.sequence, end.expected);
    assert_eq!(wire.stack.deadline(), None);
}

#[test]
fn a_lost_greeting_comes_again() {
    let mut wire = Wire::new();
    let mut end = End::new(1);
    wire.frame(&end.syn(None));
    let first = wire.only();
    wire.wait();
    assert_eq!(wire.only(), first);
    // The guest's own, again.
    wire.frame(&end.syn(None));
    assert_eq!(wire.only(), first);
    end.next = end.next.wrapping_add(1);
    end.expected = first.sequence.wrapping_add(1);
    end.get(&mut wire, "/name");
    end.hear_all(&mut wire);
    assert_eq!(end.bodies(), ["vm"]);
    assert_eq!(wire.metrics().connections_created.get(), 1);
}

#[test]
fn duplicates_and_pieces_out_of_order_are_acknowledged_and_answered_once() {
    let mut wire = Wire::new();
    let mut end = End::open(&mut wire, 1, None);
    let start = end.next;
    let (first, second) = (&b"GET /name HT"[..], &b"TP/1.1\r\n\r\n"[..]);
    let middle = start.wrapping_add(u32::try_from(first.len()).unwrap());
    wire.frame(&end.frame(middle, ACK, second));
    assert_eq!(wire.only().acknowledgement, start);
    wire.frame(&end.frame(start, ACK, first));
    assert_eq!(wire.only().acknowledgement, middle);
    wire.frame(&end.frame(start, ACK, first));
    assert_eq!(wire.only().acknowledgement, middle);
    // All of it, of which half is new.
    wire.frame(&end.frame(start, ACK, &[first, second].concat()));
    end.next = middle.wrapping_add(u32::try_from(second.len()).unwrap());
    end.hear_all(&mut wire);
    wire.frame(&end.frame(middle, ACK, second));
    end.hear_all(&mut wire);
    assert_eq!(end.bodies(), ["vm"]);
    // Somebody looks whether the connection is still there.
    wire.frame(&end.frame(end.next.wrapping_sub(1), ACK, &[]));
    assert_eq!(wire.only().acknowledgement, end.next);
}

#[test]
fn requests_that_come_together_are_all_answered() {
    let mut wire = Wire::new();
    let mut end = End::open(&mut wire, 1, None);
    let requests = ["/name", "/long", "/none", "/name"];
    let all: String = requests
        .map(|path| format!("GET {path} HTTP/1.1\r\n\r\n"))
        .concat();
    end.send(&mut wire, all.as_bytes());
    end.hear_all(&mut wire);
    let bodies = end.bodies();
    assert_eq!(bodies.len(), 4);
    assert_eq!((bodies[0].as_str(), bodies[3].as_str()), ("vm", "vm"));
    assert_eq!(bodies[1].len(), LONG);
}

#[test]
fn a_last_request_ends_the_connection_from_this_side() {
    let mut wire = Wire::new();
    for (port, request) in [
        (1, "GET /name HTTP/1.1\r\nConnection: close\r\n\r\n"),
        (2, "GET /name HTTP/1.0\r\n\r\n"),
        (3, "nonsense\r\n\r\n"),
    ] {
        let mut end = End::open(&mut wire, port, None);
        end.send(&mut wire, request.as_bytes());
        let all = wire.all();
        assert_eq!(
            all.last().unwrap().flags & flags::FIN,
            flags::FIN,
            "{request}"
        );
        all.iter().for_each(|sent| end.hear(sent));
        end.acknowledge(&mut wire);
        assert_eq!(wire.stack.connections.len(), 1);
        wire.frame(&end.frame(end.next, ACK | flags::FIN, &[]));
        assert_eq!(wire.only().flags, ACK);
        assert_eq!(wire.stack.connections.len(), 0);
        assert_eq!(end.bodies().len(), 1);
    }
}

#[test]
fn a_guest_that_has_said_all_still_hears_the_answer() {
    let mut wire = Wire::new();
    let mut end = End::open(&mut wire, 1, None);
    let request = b"GET /long HTTP/1.1\r\n\r\n";
    wire.frame(&end.frame(end.next, ACK | flags::FIN, request));
    end.next = end
        .next
        .wrapping_add(u32::try_from(request.len() + 1).unwrap());
    end.hear_all(&mut wire);
    assert_eq!(end.bodies()[0].len(), LONG);
    assert_eq!(wire.stack.connections.len(), 0);
}

#[test]
fn requests_that_are_too_long_are_reset() {
    let mut wire = Wire::new();
    // In pieces, up to the limit.
    let mut end = End::open(&mut wire, 1, None);
    for _ in 0..4 {
        end.send(&mut wire, &[b'a'; 600]);
        assert_eq!(wire.only().flags, ACK);
    }
    end.send(&mut wire, &[b'a'; 100]);
    assert!(wire.only().is_reset());
    // In one long frame, that ends like a request.
    let mut end = End::open(&mut wire, 2, None);
    let mut long = vec![b'a'; 60_000];
    long.extend(b"\r\n\r\n");
    end.send(&mut wire, &long);
    assert!(wire.only().is_reset());
    // In an announcement.
    let mut end = End::open(&mut wire, 3, None);
    end.send(&mut wire, b"PUT / HTTP/1.1\r\nContent-Length: 2500\r\n\r\n");
    assert!(wire.only().is_reset());
    assert_eq!(wire.stack.connections.len(), 0);
}

#[test]
fn a_closed_window_is_asked_for_ever_more_rarely() {
    let mut wire = Wire::new();
    let mut end = End::open(&mut wire, 1, None);
    end.window = 0;
    end.get(&mut wire, "/name");
    assert!(wire.only().data.is_empty());
    let mut waits = Vec::new();
    for _ in 0..30 {
        let before = wire.now;
        wire.wait();
        waits.push((wire.now - before) / RETRANSMIT_NS);
        let probe = wire.only();
        assert_eq!((probe.data.len(), probe.sequence), (1, end.expected));
        // The guest is there, and has no room.
        end.acknowledge(&mut wire);
        assert_eq!(wire.all(), []);
    }
    assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 64, 128]);
    assert_eq!(waits[29], 128);
    end.window = 1000;
    end.acknowledge(&mut wire);
    end.hear_all(&mut wire);
    wire.wait();
    end.hear_all(&mut wire);
    assert_eq!(end.bodies(), ["vm"]);
    assert_eq!(wire.stack.deadline(), None);
}

#[test]
fn connections_take_turns_and_none_waits_for_one_that_is_stuck() {
    let mut wire = Wire::new();
    let mut stuck = End::open(&mut wire, 1, None);
    let mut greedy: Vec<_> = (2..=28)
        .map(|port| End::open(&mut wire, port, None))
        .collect();
    let mut small = End::open(&mut wire, 29, None);
    stuck.get(&mut wire, "/long");
    greedy
        .iter_mut()
        .for_each(|end| end.get(&mut wire, "/long"));
    small.get(&mut wire, "/name");
    // Everybody's first segment comes before anybody's second.
    let mut firsts = BTreeMap::new();
    for index in 0..29 {
        let sent = wire.next().unwrap();
        firsts.entry(sent.to).or_insert(index);
        if sent.to == small.port {
            small.hear(&sent);
        }
    }
    assert_eq!(firsts.len(), 29);
    assert_eq!(small.bodies(), ["vm"]);
    // All but one acknowledge; all but that one are done.
    for _ in 0..200 {
        for sent in wire.all() {
            if let Some(end) = greedy.iter_mut().find(|end| end.port == sent.to) {
                end.hear(&sent);
            }
        }
        greedy.iter().for_each(|end| end.acknowledge(&mut wire));
    }
    // What was sent before is sent again, once it is late.
    wire.wait();
    for _ in 0..200 {
        for sent in wire.all() {
            if let Some(end) = greedy.iter_mut().find(|end| end.port == sent.to) {
                end.hear(&sent);
            }
        }
        greedy.iter().for_each(|end| end.acknowledge(&mut wire));
    }
    for end in &greedy {
        assert_eq!(end.bodies()[0].len(), LONG, "port {}", end.port);
    }
}

#[test]
fn the_longest_idle_connection_makes_place_for_another() {
    let mut wire = Wire::new();
    let mut ends: Vec<_> = (1..=30)
        .map(|port| End::open(&mut wire, port, None))
        .collect();
    wire.now += IDLE_NS - 1;
    let late = End::new(31);
    wire.frame(&late.syn(None));
    let refused = wire.only();
    assert!(refused.is_reset() && refused.to == 31);
    assert_eq!(refused.acknowledgement, late.next.wrapping_add(1));
    ends[0].get(&mut wire, "/name");
    ends[0].hear_all(&mut wire);
    wire.now += 1;
    wire.frame(&late.syn(None));
    let all = wire.all();
    assert!(all[0].is_reset() && all[0].to == 2, "{all:?}");
    assert_eq!(all[0].sequence, ends[1].expected);
    assert_eq!((all[1].to, all[1].flags), (31, flags::SYN | ACK));
    assert_eq!(wire.stack.connections.len(), MAX_CONNECTIONS);
}

#[test]
fn what_is_for_nobody_is_reset_and_that_is_bounded() {
    let mut wire = Wire::new();
    wire.frame(&tcp(7, 8080, (5, 0), flags::SYN, 100, &[]));
    let closed = wire.only();
    assert!(closed.is_reset() && closed.acknowledgement == 6);
    wire.frame(&tcp(7, PORT, (5, 77), ACK, 100, b"abc"));
    assert_eq!(wire.only().sequence, 77);
    wire.frame(&tcp(7, PORT, (5, 77), flags::RST | ACK, 100, &[]));
    assert_eq!(wire.all(), []);
    for port in 0..200 {
        wire.frame(&tcp(port, 81, (5, 77), ACK, 100, &[]));
    }
    assert_eq!(wire.all().len(), MAX_RESETS);
    assert_eq!(wire.metrics().rx_accepted_unusual.get(), 203);
}

#[test]
fn a_guest_that_forgot_its_connection_gets_another() {
    let mut wire = Wire::new();
    let old = End::open(&mut wire, 1, None);
    let mut new = End::new(1);
    new.next = old.next.wrapping_add(12_345);
    wire.frame(&new.syn(None));
    let answer = wire.only();
    assert_eq!(answer.acknowledgement, new.next.wrapping_add(1));
    assert_eq!(wire.stack.connections.len(), 1);
    // The greeting of a connection that is open changes nothing.
    new.next = new.next.wrapping_add(1);
    new.expected = answer.sequence.wrapping_add(1);
    new.acknowledge(&mut wire);
    let syn = tcp(1, PORT, (new.next.wrapping_sub(1), 0), flags::SYN, 100, &[]);
    wire.frame(&syn);
    assert_eq!(wire.only().flags, ACK);
    new.get(&mut wire, "/name");
    new.hear_all(&mut wire);
    assert_eq!(new.bodies(), ["vm"]);
}

#[test]
fn resets_end_a_connection_only_from_its_own_window() {
    let mut wire = Wire::new();
    let end = End::open(&mut wire, 1, None);
    for offset in [u32::MAX, 2501] {
        wire.frame(&end.frame(end.next.wrapping_add(offset), flags::RST, &[]));
        assert_eq!(wire.stack.connections.len(), 1);
    }
    wire.frame(&end.frame(end.next, flags::RST, &[]));
    assert_eq!(wire.stack.connections.len(), 0);
    assert_eq!(wire.all(), []);
}

#[test]
fn acknowledgements_of_what_was_never_sent_change_nothing() {
    let mut wire = Wire::new();
    let mut end = End::open(&mut wire, 1, None);
    let real = end.expected;
    end.expected = real.wrapping_add(1);
    end.acknowledge(&mut wire);
    assert_eq!(wire.only().sequence, real);
    // An old one comes with data that is good.
    end.expected = real.wrapping_sub(1);
    end.get(&mut wire, "/name");
    end.expected = real;
    end.hear_all(&mut wire);
    assert_eq!(end.bodies(), ["vm"]);
    let mut greeted = End::new(2);
    wire.frame(&greeted.syn(None));
    wire.only();
    greeted.expected = 99;
    wire.frame(&greeted.frame(greeted.next.wrapping_add(1), ACK, &[]));
    assert!(wire.only().is_reset());
}

#[test]
fn who_asks_for_the_address_is_told() {
    let mut wire = Wire::new();
    let arp = arp_request(ADDRESS);
    for _ in 0..20 {
        wire.frame(&arp);
    }
    let mut frame = [0; MAX_ANSWER];
    for _ in 0..MAX_ARP {
        let len = wire.stack.send(0, &mut frame).unwrap();
        assert_eq!(frame[..6], GUEST_MAC);
        assert_eq!(frame[20..28], [0, 2, 6, 1, 0x23, 0x45, 0x67, 1]);
        assert_eq!(len, 42);
    }
    assert_eq!(wire.stack.send(0, &mut frame), None);
}

#[test]
fn a_guest_that_is_gone_leaves_nothing() {
    let mut wire = Wire::new();
    let mut end = End::open(&mut wire, 1, None);
    end.get(&mut wire, "/long");
    wire.stack.clear();
    assert_eq!((wire.all(), wire.stack.deadline()), (vec![], None));
    assert_eq!(wire.metrics().connections_destroyed.get(), 1);
}

/// A fixed sequence of numbers (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
fn every_answer_arrives_whole_whatever_the_way_loses_doubles_and_reorders() {
    for seed in 1..=60 {
        let mut chance = Chance(seed);
        let mut wire = Wire::new();
        let mut end = End::open(&mut wire, 1, Some(600));
        let request = b"GET /long HTTP/1.1\r\n\r\nGET /name HTTP/1.1\r\n\r\n";
        let start = end.next;
        let mut acknowledged = 0;
        let mut on_the_way = Vec::new();
        for _ in 0..20_000 {
            if acknowledged == request.len() && end.heard.ends_with(b"\r\n\r\nvm") {
                break;
            }
            // The guest sends again what is not acknowledged, in odd pieces.
            let from = acknowledged + usize::try_from(chance.below(3)).unwrap();
            let to = request
                .len()
                .min(from + 1 + usize::try_from(chance.below(30)).unwrap());
            let data = request.get(from..to).unwrap_or_default();
            let sequence = start.wrapping_add(u32::try_from(from).unwrap());
            let sequence = if data.is_empty() {
                start.wrapping_add(u32::try_from(acknowledged).unwrap())
            } else {
                sequence
            };
            end.window = u16::try_from(chance.below(4) * 1500).unwrap();
            if chance.below(3) > 0 {
                wire.frame(&end.frame(sequence, ACK, data));
            }
            while let Some(sent) = wire.next() {
                match chance.below(6) {
                    0 => {}
                    1 => on_the_way.extend([sent.clone(), sent]),
                    2 => on_the_way.insert(0, sent),
                    _ => on_the_way.push(sent),
                }
            }
            for sent in on_the_way.drain(..) {
                assert!(!sent.is_reset(), "seed {seed}");
                end.hear(&sent);
                let known = sent.acknowledgement.wrapping_sub(start) as usize;
                assert!(known <= request.len());
                acknowledged = acknowledged.max(known);
            }
            if wire.stack.deadline().is_some() && chance.below(2) == 0 {
                wire.wait();
            }
        }
        let bodies = end.bodies();
        assert_eq!(bodies.len(), 2, "seed {seed}");
        assert_eq!((bodies[0].len(), bodies[1].as_str()), (LONG, "vm"));
    }
}
