//! Frames through a whole device with the service. A pair of sockets that keep datagrams apart plays the tap.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::thread::sleep;

use serde_json::json;
use vm_config::{MmdsConfig, NetworkInterface};

use super::*;
use crate::mmds::packet::{PORT, flags, parse_segment};
use crate::mmds::testing::{ADDRESS, GUEST_MAC, Header, arp_request, segment};
use crate::testing::suite::device_suite;
use crate::testing::{Buffer, FakeGuest};
use crate::virtio::net::Net;
use crate::virtio::transport::Transport;

const MRG_RXBUF: u64 = 1 << 15;
/// Where the driver has frames to send, and room for frames.
const FRAME: u64 = 0x1000;
const ROOM: u64 = 0x4_0000;
const GET: &[u8] = b"GET /long HTTP/1.1\r\n\r\n";

struct Wire {
    guest: FakeGuest,
    hosts: Vec<UnixDatagram>,
    mmds: Arc<Mmds>,
    room: u32,
    /// Sequence numbers: ours next, theirs next.
    next: u32,
    expected: u32,
}

fn device(pairs: usize, more: &serde_json::Value) -> (Net, Vec<UnixDatagram>, Arc<Mmds>) {
    let ends = (0..pairs).map(|_| UnixDatagram::pair().unwrap());
    let (hosts, taps): (Vec<_>, Vec<_>) = ends.unzip();
    for host in &hosts {
        host.set_nonblocking(true).unwrap();
    }
    let mut interface = json!({ "iface_id": "eth0", "host_dev_name": "unused" });
    for (key, value) in more.as_object().unwrap() {
        interface[key] = value.clone();
    }
    let interface: NetworkInterface = serde_json::from_value(interface).unwrap();
    let config = json!({ "network_interfaces": ["eth0"] });
    let config: MmdsConfig = serde_json::from_value(config).unwrap();
    let mmds = Arc::new(Mmds::default());
    mmds.put(json!({ "long": "m".repeat(5000) })).unwrap();
    let mut net = Net::on_fake(taps, &interface);
    net.serve_metadata(Arc::clone(&mmds), &config);
    (net, hosts, mmds)
}

impl Wire {
    fn new(features: u64, room: u32) -> Self {
        Self::with(1, features, room, &json!({}))
    }

    fn with(pairs: usize, features: u64, room: u32, more: &serde_json::Value) -> Self {
        let (net, hosts, mmds) = device(pairs, more);
        let mut wire = Self {
            guest: FakeGuest::running(Box::new(net), features),
            hosts,
            mmds,
            room,
            next: 100,
            expected: 0,
        };
        wire.offer(128);
        wire
    }

    /// Room for frames: descriptor `index` always names the same.
    fn offer(&mut self, count: u16) {
        for index in 0..count {
            let at = ROOM + u64::from(index) * u64::from(self.room);
            self.guest.queues[0].describe(index, at, self.room, 2, 0);
            self.guest.queues[0].publish(index);
        }
    }

    /// Sends `frame` from the transmit queue `queue`, in two pieces.
    fn send_by(&mut self, queue: usize, frame: &[u8]) {
        let whole = [&[0; HEADER_LEN], frame].concat();
        let len = u32::try_from(whole.len()).unwrap();
        self.guest.poke(FRAME, &whole);
        let pieces = [
            Buffer::Readable(FRAME, 20),
            Buffer::Readable(FRAME + 20, len - 20),
        ];
        self.guest.queues[queue].add(&pieces);
        self.guest.kick().unwrap();
        assert_eq!(self.guest.queues[queue].take_used().len(), 1);
    }

    fn send(&mut self, frame: &[u8]) {
        self.send_by(1, frame);
    }

    fn segment(&self, flags: u8, data: &[u8]) -> Vec<u8> {
        let header = Header {
            ports: (7, PORT),
            numbers: (self.next, self.expected),
            flags,
            window: 60_000,
        };
        segment(&header, data)
    }

    /// All frames that arrived, without their headers; their room is offered again in the same order.
    fn received(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut used = self.guest.queues[0].take_used().into_iter();
        while let Some((head, len)) = used.next() {
            let at = |head: u16| ROOM + u64::from(head) * u64::from(self.room);
            let first = self.guest.peek(at(head), len as usize);
            let count = u16::from_le_bytes([first[10], first[11]]);
            assert_eq!(first[..10], [0; 10]);
            let mut frame = first[12..].to_vec();
            for _ in 1..count {
                let (head, len) = used.next().unwrap();
                frame.extend(self.guest.peek(at(head), len as usize));
            }
            frames.push(frame);
        }
        frames
    }

    fn tap_has(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 70_000];
        match self.hosts[0].recv(&mut frame) {
            Ok(len) => {
                frame.truncate(len);
                Some(frame)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn connect(&mut self) {
        self.send(&self.segment(flags::SYN, &[]));
        let frames = self.received();
        let answer = parse_segment(&frames[0], frames[0].len()).unwrap();
        assert_eq!(answer.flags, flags::SYN | flags::ACK);
        self.expected = answer.sequence.wrapping_add(1);
        self.next += 1;
        self.send(&self.segment(flags::ACK, &[]));
    }

    /// Data that arrived in order.
    fn data(&mut self) -> Vec<u8> {
        let mut data = Vec::new();
        for frame in self.received() {
            let segment = parse_segment(&frame, frame.len()).unwrap();
            if segment.sequence == self.expected {
                data.extend(segment.data);
                self.expected += u32::try_from(segment.data.len()).unwrap();
            }
        }
        data
    }
}

#[test]
fn frames_for_the_service_stay_away_from_the_tap_and_all_others_reach_it() {
    let mut wire = Wire::new(0, 2048);
    let other = std::net::Ipv4Addr::new(169, 254, 169, 253);
    wire.send(&arp_request(other));
    assert_eq!(wire.tap_has().unwrap()[HEADER_LEN..], arp_request(other));
    assert!(wire.received().is_empty());
    wire.send(&arp_request(ADDRESS));
    let answer = &wire.received()[0];
    assert_eq!(
        (&answer[..6], &answer[20..22]),
        (&GUEST_MAC[..], &[0, 2][..])
    );
    // Everything to the address, served or not: pings, fragments, other ports.
    let whole = wire.segment(flags::SYN, &[]);
    for (at, byte) in [(23, 1), (20, 0x20), (37, 81), (14, 0x4f)] {
        let mut frame = whole.clone();
        frame[at] = byte;
        wire.send(&frame);
    }
    assert_eq!(wire.received().len(), 1, "another port is closed");
    assert_eq!(wire.tap_has(), None);
    let mut elsewhere = whole;
    elsewhere[33] = 253;
    wire.send(&elsewhere);
    assert_eq!(wire.tap_has().unwrap()[HEADER_LEN..], elsewhere);
    assert!(wire.received().is_empty());
    let metrics = wire.mmds.metrics();
    assert_eq!(metrics.rx_count.get(), 5);
    assert_eq!(metrics.tx_frames.get(), 2);
}

#[test]
fn an_answer_fills_whatever_room_there_is() {
    // One buffer for each frame; small buffers that are merged.
    for (features, room) in [(0, 2048), (MRG_RXBUF, 700), (MRG_RXBUF, 1526)] {
        let mut wire = Wire::new(features, room);
        wire.connect();
        wire.send(&wire.segment(flags::ACK, GET));
        let data = wire.data();
        let text = String::from_utf8(data).unwrap();
        assert!(
            text.ends_with(&format!("\r\n\r\n{}", "m".repeat(5000))),
            "{room}"
        );
        assert_eq!(wire.tap_has(), None);
    }
}

#[test]
fn frames_that_are_not_cut_are_looked_at_as_far_as_a_request_can_go() {
    let mut wire = Wire::new(0, 2048);
    wire.connect();
    let mut long = GET.to_vec();
    long.extend([b' '; 60_000]);
    wire.send(&wire.segment(flags::ACK, &long));
    // A request, then nonsense: the request is answered.
    let text = String::from_utf8(wire.data()).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert_eq!(wire.tap_has(), None);
}

#[test]
fn answers_wait_for_room() {
    let mut wire = Wire::new(0, 2048);
    wire.connect();
    // All room is used up by the tap.
    for _ in 0..300 {
        let _ = wire.hosts[0].send(&[0; 60]);
    }
    for _ in 0..10 {
        wire.guest.workers.turn().unwrap();
    }
    wire.received();
    while wire.hosts[0].send(&[0; 60]).is_ok() {}
    wire.guest.workers.turn().unwrap();
    wire.send(&wire.segment(flags::ACK, GET));
    assert!(wire.received().is_empty());
    // Whoever comes first now, the other does the next time.
    let mut frames = Vec::new();
    for _ in 0..2 {
        wire.offer(64);
        wire.guest.kick().unwrap();
        frames.extend(wire.received());
    }
    let is_answer = |frame: &Vec<u8>| frame.starts_with(&GUEST_MAC);
    let answers = frames.iter().filter(|frame| is_answer(frame)).count();
    assert!(answers >= 10, "{answers}");
    assert!(frames.len() >= answers + 64, "the tap waited");
}

#[test]
fn answers_pass_through_the_limit_on_what_is_received() {
    let limit = json!({ "rx_rate_limiter": { "ops": { "size": 3, "refill_time": 3_600_000 } } });
    let mut wire = Wire::with(1, 0, 2048, &limit);
    wire.connect();
    wire.send(&wire.segment(flags::ACK, GET));
    assert_eq!(wire.received().len(), 2);
    wire.guest.workers.turn().unwrap();
    assert!(wire.received().is_empty());
}

#[test]
fn requests_pass_through_the_limit_on_what_is_sent() {
    let limit = json!({ "tx_rate_limiter": { "ops": { "size": 1, "refill_time": 3_600_000 } } });
    let mut wire = Wire::with(1, 0, 2048, &limit);
    wire.send(&arp_request(ADDRESS));
    assert_eq!(wire.received().len(), 1);
    let len = u32::try_from(HEADER_LEN + 42).unwrap();
    wire.guest.queues[1].add(&[Buffer::Readable(FRAME, len)]);
    wire.guest.kick().unwrap();
    assert!(wire.guest.queues[1].take_used().is_empty());
    assert!(wire.received().is_empty());
}

#[test]
fn what_is_late_is_sent_again_and_nothing_runs_when_all_is_acknowledged() {
    let mut wire = Wire::new(0, 2048);
    wire.connect();
    let get = b"GET / HTTP/1.1\r\n\r\n";
    wire.send(&wire.segment(flags::ACK, get));
    wire.next += u32::try_from(get.len()).unwrap();
    let first = wire.received();
    // The loop shows a worker all its sources; here the timer's time has not come.
    wire.guest.workers.turn().unwrap();
    assert!(wire.received().is_empty());
    sleep(Duration::from_millis(450));
    wire.guest.workers.turn().unwrap();
    assert_eq!(wire.received(), first);
    let segment = parse_segment(&first[0], first[0].len()).unwrap();
    wire.expected += u32::try_from(segment.data.len()).unwrap();
    wire.send(&wire.segment(flags::ACK, &[]));
    sleep(Duration::from_millis(450));
    wire.guest.workers.turn().unwrap();
    assert!(wire.received().is_empty());
}

#[test]
fn the_timer_runs_while_the_guest_owes_an_acknowledgement() {
    let (net, _, _) = device(1, &json!({}));
    let mut branch = net.metadata.unwrap().branch().unwrap();
    let is_armed = |branch: &mut Branch| {
        branch.set_timer();
        branch.timer.is_armed().unwrap()
    };
    assert!(!is_armed(&mut branch));
    let syn = Header {
        ports: (7, PORT),
        numbers: (1, 0),
        flags: flags::SYN,
        window: 1,
    };
    let frame = segment(&syn, &[]);
    branch.stack.receive(&frame, frame.len(), now());
    assert!(!is_armed(&mut branch));
    assert!(branch.next_frame().is_some());
    assert!(is_armed(&mut branch));
    let reset = Header {
        numbers: (2, 0),
        flags: flags::RST,
        ..syn
    };
    let frame = segment(&reset, &[]);
    branch.stack.receive(&frame, frame.len(), now());
    assert!(!is_armed(&mut branch));
}

#[test]
fn connections_outlive_a_pause_and_not_a_reset() {
    let mut wire = Wire::new(0, 2048);
    wire.connect();
    wire.guest.transport.slot().pause();
    wire.guest.transport.slot().resume();
    wire.send(&wire.segment(flags::ACK, GET));
    assert!(!wire.data().is_empty());
    wire.guest.write(0x70, 0);
    assert_eq!(wire.mmds.metrics().connections_destroyed.get(), 1);
    wire.guest.start(0);
    wire.offer(16);
    wire.send(&wire.segment(flags::ACK, GET));
    let frames = wire.received();
    let answer = parse_segment(&frames[0], frames[0].len()).unwrap();
    assert_eq!(answer.flags, flags::RST);
}

#[test]
fn every_pair_of_queues_leads_to_the_service() {
    const MQ: u64 = 1 << 22 | 1 << 17;
    let mut wire = Wire::with(2, MQ, 2048, &json!({}));
    // Two pairs are in use from here on (virtio 1.2 §5.1.6.5.6).
    wire.guest.poke(FRAME, &[4, 0, 2, 0]);
    let command = [Buffer::Readable(FRAME, 4), Buffer::Writable(FRAME + 8, 1)];
    wire.guest.queues[4].add(&command);
    wire.guest.kick().unwrap();
    wire.send_by(3, &arp_request(ADDRESS));
    assert_eq!(wire.received().len(), 1);
    assert_eq!(wire.tap_has(), None);
}

device_suite!(Box::new(device(1, &json!({})).0));
