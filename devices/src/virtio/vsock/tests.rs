//! Packets through a whole device; the host's side is real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use tempfile::TempDir;
use zerocopy::{FromZeros, IntoBytes};

use super::packet::{BOTH, HOST_CID, Header, Op, Ports, RECEIVE, SEND, STREAM};
use super::*;
use crate::testing::suite::device_suite;
use crate::testing::{Bench, Buffer, FakeDriver, FakeGuest};
use crate::virtio::transport::Transport;

const CID: u32 = 3;
const SENT: u64 = 0x1000;
const SENT_DATA: u64 = 0x2000;
const ROOM: u64 = 0x10_0000;
const ROOM_LEN: u32 = 0x2000;
const FIRST_PORT: u32 = 1 << 30;

/// A guest with the device, and the host's side of it.
struct Rig {
    guest: FakeGuest,
    folder: TempDir,
    metrics: Arc<VsockMetrics>,
    /// Buffers that were offered for packets so far.
    offered: u64,
}

fn device(folder: &TempDir) -> Vsock {
    let config = vm_config::Vsock {
        guest_cid: CID,
        uds_path: folder.path().join("v"),
        vsock_id: None,
    };
    Vsock::open(&config).unwrap()
}

fn idle() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let vsock = device(&folder);
    Rig {
        metrics: vsock.metrics(),
        guest: FakeGuest::new(Box::new(vsock)),
        folder,
        offered: 0,
    }
}

fn rig() -> Rig {
    let mut rig = idle();
    rig.guest.start(0);
    rig.offer(16);
    rig
}

/// A packet of the guest with room for 64 KiB.
fn packet(ports: Ports, op: Op) -> Header {
    Header {
        src_cid: u64::from(CID).into(),
        dst_cid: HOST_CID.into(),
        src_port: ports.guest.into(),
        dst_port: ports.host.into(),
        kind: STREAM.into(),
        op: (op as u16).into(),
        buf_alloc: 0x1_0000.into(),
        ..Header::default()
    }
}

impl Rig {
    fn offer(&mut self, count: usize) {
        for _ in 0..count {
            let at = ROOM + self.offered % 16 * u64::from(ROOM_LEN);
            self.guest.queues[0].add(&[Buffer::Writable(at, ROOM_LEN)]);
            self.offered += 1;
        }
    }

    fn turn(&self) {
        for _ in 0..4 {
            self.guest.kick().unwrap();
        }
    }

    /// Sends one packet.
    fn send(&mut self, mut header: Header, data: &[u8]) {
        header.len = u32::try_from(data.len()).unwrap().into();
        self.send_raw(header, data);
    }

    fn send_raw(&mut self, header: Header, data: &[u8]) {
        self.guest.poke(SENT, header.as_bytes());
        self.guest.poke(SENT_DATA, data);
        let len = u32::try_from(data.len()).unwrap();
        let head = Buffer::Readable(SENT, 44);
        let data = Buffer::Readable(SENT_DATA, len);
        let all = [head, data];
        let count = if len > 0 { 2 } else { 1 };
        self.guest.queues[1].add(&all[..count]);
        self.turn();
    }

    /// Packets that the guest got, each with its data; their buffers are offered again.
    fn received(&mut self) -> Vec<(Header, Vec<u8>)> {
        self.turn();
        let used = self.guest.queues[0].take_used();
        let packets = used.iter().map(|(head, len)| {
            let at = ROOM + u64::from(*head % 16) * u64::from(ROOM_LEN);
            let bytes = self.guest.peek(at, *len as usize);
            let mut header = Header::new_zeroed();
            header.as_mut_bytes().copy_from_slice(&bytes[..44]);
            assert_eq!(header.src_cid.get(), HOST_CID);
            assert_eq!(header.dst_cid.get(), u64::from(CID));
            assert_eq!(header.len.get() as usize, bytes.len() - 44);
            (header, bytes[44..].to_vec())
        });
        let packets = packets.collect();
        self.offer(used.len());
        packets
    }

    /// The one packet that the guest got.
    fn one(&mut self) -> (Header, Vec<u8>) {
        let mut all = self.received();
        let last = all.pop().expect("a packet");
        assert!(all.is_empty(), "more than one: {all:?}, {last:?}");
        last
    }

    fn one_op(&mut self) -> Op {
        self.one().0.op().unwrap()
    }

    /// A host process that connects, without a word yet.
    fn dial(&self) -> UnixStream {
        let stream = UnixStream::connect(self.folder.path().join("v")).unwrap();
        let patience = Some(Duration::from_secs(5));
        stream.set_read_timeout(patience).unwrap();
        stream
    }

    /// A connection of a host process to `port` of the guest.
    fn host_connects(&mut self, port: u32) -> (UnixStream, Ports) {
        let mut host = self.dial();
        writeln!(host, "CONNECT {port}").unwrap();
        let (request, _) = self.one();
        assert_eq!(request.op(), Some(Op::Request));
        assert_eq!(request.dst_port.get(), port);
        let ports = Ports {
            host: request.src_port.get(),
            guest: port,
        };
        self.send(packet(ports, Op::Response), &[]);
        assert_eq!(text(&mut host, 14), format!("OK {}\n", ports.host));
        (host, ports)
    }

    /// A connection of the guest to a host process that serves `ports.host`.
    fn guest_connects(&mut self, ports: Ports) -> UnixStream {
        let name = format!("v_{}", ports.host);
        let listener = UnixListener::bind(self.folder.path().join(name)).unwrap();
        self.send(packet(ports, Op::Request), &[]);
        assert_eq!(self.one_op(), Op::Response);
        let stream = listener.accept().unwrap().0;
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream
    }
}

fn text(from: &mut UnixStream, len: usize) -> String {
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn rest(from: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_host_process_connects_and_both_sides_talk() {
    let mut rig = rig();
    let (mut host, ports) = rig.host_connects(52);
    assert_eq!(ports.host, FIRST_PORT);
    host.write_all(b"hello guest").unwrap();
    let (header, data) = rig.one();
    assert_eq!(header.op(), Some(Op::Data));
    assert_eq!(data, b"hello guest");
    rig.send(packet(ports, Op::Data), b"hello host");
    assert_eq!(text(&mut host, 10), "hello host");
    let (_, second) = rig.host_connects(52);
    assert_eq!(second.host, FIRST_PORT + 1);
}

#[test]
fn what_follows_the_first_line_is_data_and_waits_for_the_answer() {
    let mut rig = rig();
    let mut host = rig.dial();
    host.write_all(b"CONN").unwrap();
    assert!(rig.received().is_empty());
    host.write_all(b"ECT 7\nearly").unwrap();
    let ports = rig.one().0;
    let ports = Ports {
        host: ports.src_port.get(),
        guest: 7,
    };
    rig.send(packet(ports, Op::Response), &[]);
    assert_eq!(rig.one().1, b"early");
}

#[test]
fn a_refusal_closes_the_socket_without_a_word() {
    let mut rig = rig();
    let mut host = rig.dial();
    host.write_all(b"CONNECT 52\n").unwrap();
    let ports = rig.one().0;
    let ports = Ports {
        host: ports.src_port.get(),
        guest: 52,
    };
    rig.send(packet(ports, Op::Reset), &[]);
    assert_eq!(rest(&mut host), b"");
    assert!(rig.received().is_empty());
    let mut wrong = rig.dial();
    wrong.write_all(b"HELLO\n").unwrap();
    rig.turn();
    assert!(rest(&mut wrong).is_empty());
}

#[test]
fn the_guest_connects_to_a_host_process_and_is_refused_where_there_is_none() {
    let mut rig = rig();
    let ports = Ports {
        host: 9000,
        guest: 1234,
    };
    let mut host = rig.guest_connects(ports);
    rig.send(packet(ports, Op::Data), b"ping");
    assert_eq!(text(&mut host, 4), "ping");
    host.write_all(b"pong").unwrap();
    assert_eq!(rig.one().1, b"pong");
    let nobody = Ports {
        host: 9001,
        guest: 1234,
    };
    rig.send(packet(nobody, Op::Request), &[]);
    let (reset, _) = rig.one();
    assert_eq!(reset.op(), Some(Op::Reset));
    assert_eq!(reset.src_port.get(), 9001);
    assert_eq!(reset.dst_port.get(), 1234);
}

#[test]
fn the_host_ends_its_direction_and_still_receives() {
    let mut rig = rig();
    let (mut host, ports) = rig.host_connects(52);
    host.write_all(b"question").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    let packets = rig.received();
    assert_eq!(packets[0].1, b"question");
    assert_eq!(packets[1].0.op(), Some(Op::Shutdown));
    assert_eq!(packets[1].0.flags.get(), SEND);
    assert_eq!(packets.len(), 2);
    rig.send(packet(ports, Op::Data), b"long ");
    rig.send(packet(ports, Op::Data), b"answer");
    let mut end = packet(ports, Op::Shutdown);
    end.flags = BOTH.into();
    rig.send(end, &[]);
    assert_eq!(rig.one_op(), Op::Reset);
    assert_eq!(rest(&mut host), b"long answer");
}

#[test]
fn the_guest_ends_its_direction_and_still_receives() {
    let mut rig = rig();
    let (mut host, ports) = rig.host_connects(52);
    rig.send(packet(ports, Op::Data), b"all I have");
    let mut end = packet(ports, Op::Shutdown);
    end.flags = SEND.into();
    rig.send(end, &[]);
    assert_eq!(rest(&mut host), b"all I have");
    host.write_all(b"noted").unwrap();
    assert_eq!(rig.one().1, b"noted");
    drop(host);
    let (end, _) = rig.one();
    assert_eq!(end.flags.get(), SEND);
    let mut end = packet(ports, Op::Shutdown);
    end.flags = BOTH.into();
    rig.send(end, &[]);
    assert_eq!(rig.one_op(), Op::Reset);
    assert_eq!(rig.metrics.conns_removed.get(), 1);
}

#[test]
fn the_guest_stops_receiving_and_still_sends() {
    let mut rig = rig();
    let (mut host, ports) = rig.host_connects(52);
    let mut end = packet(ports, Op::Shutdown);
    end.flags = RECEIVE.into();
    rig.send(end, &[]);
    assert!(host.write_all(b"x").is_err());
    rig.send(packet(ports, Op::Data), b"more");
    assert_eq!(text(&mut host, 4), "more");
    assert!(rig.received().is_empty());
}

#[test]
fn a_host_process_that_is_gone_ends_both_directions_after_its_data() {
    let mut rig = rig();
    let (mut host, ports) = rig.host_connects(52);
    host.write_all(b"last words").unwrap();
    drop(host);
    let packets = rig.received();
    assert_eq!(packets[0].1, b"last words");
    let (end, _) = packets.last().unwrap();
    assert_eq!((end.op(), end.flags.get()), (Some(Op::Shutdown), BOTH));
    // What the guest says to nobody is dropped.
    rig.send(packet(ports, Op::Data), b"anyone?");
    rig.send(packet(ports, Op::Reset), &[]);
    assert!(rig.received().is_empty());
}

#[test]
fn data_waits_for_credit_which_is_asked_for_once() {
    let mut rig = rig();
    let (mut host, ports) = rig.host_connects(52);
    let sent: Vec<u8> = (0..=255).cycle().take(0x1_0000 + 1000).collect();
    host.write_all(&sent).unwrap();
    let mut got = Vec::new();
    let mut asked = 0;
    for _ in 0..8 {
        for (header, data) in rig.received() {
            asked += usize::from(header.op() == Some(Op::CreditRequest));
            got.extend(data);
        }
    }
    assert_eq!(got.len(), 0x1_0000);
    assert_eq!(asked, 1);
    let mut update = packet(ports, Op::CreditUpdate);
    update.fwd_cnt = 0x1_0000.into();
    rig.send(update, &[]);
    got.extend(rig.one().1);
    assert_eq!(got, sent);
}

#[test]
fn much_data_fills_many_buffers_and_one_too_small_for_any_goes_back_empty() {
    const SMALL: u64 = ROOM + 16 * ROOM_LEN as u64;
    const LAST: u64 = SMALL + 0x100;
    let mut rig = rig();
    let (mut host, ports) = rig.host_connects(52);
    let mut update = packet(ports, Op::CreditUpdate);
    update.buf_alloc = 0x10_0000.into();
    rig.send(update, &[]);
    // Sixteen are there already.
    let small = rig.guest.queues[0].add(&[Buffer::Writable(SMALL, 44)]);
    let last = rig.guest.queues[0].add(&[Buffer::Writable(LAST, 44 + 100)]);
    // One buffer, then as many as 64 KiB need, then all before the small one, then the last.
    let room = ROOM_LEN as usize - 44;
    let sent: Vec<u8> = (0..251).cycle().take(7 * room + 0x1_0000 + 100).collect();
    host.write_all(&sent).unwrap();
    rig.turn();
    let used = rig.guest.queues[0].take_used();
    assert_eq!(used.len(), 18);
    assert_eq!(used[16], (small, 0));
    let mut got = Vec::new();
    for (head, len) in used.into_iter().filter(|(head, _)| *head != small) {
        let at = match head {
            _ if head == last => LAST,
            _ => ROOM + u64::from(head % 16) * u64::from(ROOM_LEN),
        };
        got.extend(rig.guest.peek(at + 44, len as usize - 44));
    }
    assert!(got == sent);
}

#[test]
fn bytes_wait_for_the_host_and_credit_is_given_as_it_reads() {
    let mut rig = rig();
    let (mut host, ports) = rig.host_connects(52);
    let piece: Vec<u8> = (0..=255).cycle().take(0x8000).collect();
    // What the socket holds is forwarded; the rest is on the way.
    let (mut sent, mut forwarded) = (0u32, 0u32);
    while sent - forwarded + 0x8000 <= 256 << 10 {
        rig.send(packet(ports, Op::Data), &piece);
        sent += 0x8000;
        for (header, _) in rig.received() {
            assert_eq!(header.op(), Some(Op::CreditUpdate));
            forwarded = header.fwd_cnt.get();
        }
    }
    assert!(forwarded < sent);
    let mut got = vec![0; sent as usize];
    let reader = std::thread::spawn(move || {
        host.read_exact(&mut got).unwrap();
        (host, got)
    });
    while !reader.is_finished() {
        rig.received();
    }
    let (host, got) = reader.join().unwrap();
    assert!(got.chunks(0x8000).all(|chunk| chunk == piece));
    rig.send(packet(ports, Op::CreditRequest), &[]);
    assert_eq!(rig.one().0.fwd_cnt.get(), sent);
    drop(host);
}

#[test]
fn a_guest_that_sends_more_than_it_may_is_cut_off() {
    let mut rig = rig();
    let (host, ports) = rig.host_connects(52);
    let piece = vec![0; 0x1_0000];
    let mut is_cut = false;
    for _ in 0..16 {
        rig.send(packet(ports, Op::Data), &piece);
        is_cut |= rig
            .received()
            .iter()
            .any(|(header, _)| header.op() == Some(Op::Reset));
    }
    assert!(is_cut);
    drop(host);
}

#[test]
fn what_the_guest_sent_before_its_end_reaches_a_slow_host() {
    let mut rig = rig();
    let (mut host, ports) = rig.host_connects(52);
    let piece = vec![7; 0x8000];
    for _ in 0..12 {
        rig.send(packet(ports, Op::Data), &piece);
        rig.received();
    }
    let mut end = packet(ports, Op::Shutdown);
    end.flags = BOTH.into();
    rig.send(end, &[]);
    assert_eq!(rig.one_op(), Op::Reset);
    let reader = std::thread::spawn(move || rest(&mut host));
    while !reader.is_finished() {
        rig.turn();
    }
    assert_eq!(reader.join().unwrap().len(), 12 * 0x8000);
    assert_eq!(rig.metrics.conns_removed.get(), 1);
}

#[test]
fn packets_that_belong_nowhere_are_answered_by_a_reset_and_resets_by_nothing() {
    let mut rig = rig();
    let nowhere = Ports { host: 1, guest: 2 };
    for op in [
        Op::Response,
        Op::Shutdown,
        Op::Data,
        Op::CreditUpdate,
        Op::CreditRequest,
    ] {
        rig.send(packet(nowhere, op), &[]);
        assert_eq!(rig.one_op(), Op::Reset, "{op:?}");
    }
    rig.send(packet(nowhere, Op::Reset), &[]);
    let mut unknown = packet(nowhere, Op::Data);
    for (source, target) in [(4, 2), (3, 3), (3, 0), (u64::MAX, 2), (3, u64::MAX)] {
        unknown.src_cid = source.into();
        unknown.dst_cid = target.into();
        rig.send(unknown, &[]);
    }
    assert!(rig.received().is_empty());
    let mut datagram = packet(nowhere, Op::Data);
    datagram.kind = 3.into();
    rig.send(datagram, &[]);
    let (reset, _) = rig.one();
    assert_eq!((reset.op(), reset.kind.get()), (Some(Op::Reset), 3));
}

#[test]
fn lengths_and_operations_that_lie_end_the_connection() {
    for (op, len) in [
        (5, 100),
        (5, u32::MAX),
        (0, 0),
        (8, 0),
        (u16::MAX, 0),
        (1, 0),
        (2, 0),
    ] {
        let mut rig = rig();
        let (mut host, ports) = rig.host_connects(52);
        let mut lie = packet(ports, Op::Data);
        lie.op = op.into();
        lie.len = len.into();
        rig.send_raw(lie, b"short");
        assert_eq!(rig.one_op(), Op::Reset, "{op} {len}");
        assert_eq!(rest(&mut host), b"");
    }
}

#[test]
fn credit_that_lies_stops_only_its_own_connection() {
    let mut rig = rig();
    let (mut host, ports) = rig.host_connects(52);
    let mut lie = packet(ports, Op::CreditUpdate);
    lie.fwd_cnt = u32::MAX.into();
    lie.buf_alloc = u32::MAX.into();
    rig.send(lie, &[]);
    lie.fwd_cnt = 1.into();
    lie.buf_alloc = 0.into();
    rig.send(lie, &[]);
    host.write_all(b"no room").unwrap();
    assert!(rig.received().iter().all(|(_, data)| data.is_empty()));
    let (mut other, _) = rig.host_connects(53);
    other.write_all(b"here").unwrap();
    assert_eq!(rig.one().1, b"here");
}

#[test]
fn a_guest_that_takes_no_answers_is_heard_no_more_until_it_does() {
    let mut rig = idle();
    rig.guest.start(0);
    let nowhere = packet(Ports { host: 1, guest: 2 }, Op::Data);
    rig.guest.poke(SENT, nowhere.as_bytes());
    let mut taken = 0;
    for _ in 0..2 {
        for _ in 0..200 {
            rig.guest.queues[1].add(&[Buffer::Readable(SENT, 44)]);
        }
        rig.turn();
        taken += rig.guest.queues[1].take_used().len();
    }
    assert_eq!(taken, 256);
    let mut answers = 0;
    for _ in 0..40 {
        rig.offer(16);
        rig.turn();
        answers += rig.guest.queues[0].take_used().len();
    }
    assert_eq!(answers, 400);
    assert_eq!(rig.guest.queues[1].take_used().len(), 144);
}

#[test]
fn connections_that_came_before_the_driver_are_served_when_it_is_ready() {
    let mut rig = idle();
    let mut host = rig.dial();
    host.write_all(b"CONNECT 5\n").unwrap();
    rig.guest.start(0);
    rig.offer(16);
    assert_eq!(rig.one_op(), Op::Request);
}

#[test]
fn a_pause_keeps_connections_and_what_came_meanwhile() {
    let mut rig = rig();
    let (mut host, ports) = rig.host_connects(52);
    rig.guest.transport.slot().pause();
    host.write_all(b"meanwhile").unwrap();
    let mut late = rig.dial();
    late.write_all(b"CONNECT 6\n").unwrap();
    rig.guest.transport.slot().resume();
    let mut packets = rig.received();
    packets.sort_by_key(|(header, _)| header.op.get());
    assert_eq!(packets[0].0.op(), Some(Op::Request));
    assert_eq!(packets[1].1, b"meanwhile");
    rig.send(packet(ports, Op::Data), b"still here");
    assert_eq!(text(&mut host, 10), "still here");
    // Nor does it think that its connections are elsewhere.
    assert!(rig.guest.queues[2].take_used().is_empty());
}

#[test]
fn a_reset_ends_connections_and_new_ones_can_be_made() {
    let mut rig = rig();
    let (mut host, _) = rig.host_connects(52);
    rig.guest.write(0x70, 0);
    assert_eq!(rest(&mut host), b"");
    assert_eq!(rig.metrics.conns_removed.get(), 1);
    rig.guest.start(0);
    rig.offered = 0;
    rig.offer(16);
    let (mut host, _) = rig.host_connects(52);
    host.write_all(b"again").unwrap();
    assert_eq!(rig.one().1, b"again");
}

#[test]
fn a_guest_that_does_not_answer_is_given_two_seconds() {
    let mut rig = rig();
    let mut host = rig.dial();
    host.write_all(b"CONNECT 52\n").unwrap();
    assert_eq!(rig.one_op(), Op::Request);
    std::thread::sleep(Duration::from_millis(1500));
    // A pause starts the wait anew.
    rig.guest.transport.slot().pause();
    rig.guest.transport.slot().resume();
    std::thread::sleep(Duration::from_millis(1000));
    assert!(rig.received().is_empty());
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(rig.one_op(), Op::Reset);
    assert_eq!(rest(&mut host), b"");
    assert_eq!(rig.metrics.conns_killed.get(), 1);
}

#[test]
fn a_driver_that_is_restored_elsewhere_hears_that_its_connections_are_gone() {
    let mut rig = rig();
    let (_host, _) = rig.host_connects(52);
    rig.guest.queues[2].add(&[Buffer::Writable(0x3000, 4)]);
    rig.guest.poke(0x3000, &[0xff; 4]);
    rig.guest.transport.slot().pause();
    let saved = rig.guest.transport.state().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let memory = rig.guest.memory.clone();
    let copy = FakeGuest::with_memory(Box::new(device(&folder)), memory);
    copy.transport.restore(saved).unwrap();
    copy.transport.slot().resume();
    copy.kick().unwrap();
    assert_eq!(rig.guest.queues[2].take_used(), [(0, 4)]);
    assert_eq!(rig.guest.peek(0x3000, 4), [0; 4]);
}

#[test]
fn churn_leaves_no_place_taken() {
    let mut rig = rig();
    for round in 0..50 {
        let (host, ports) = rig.host_connects(round);
        let mut end = packet(ports, Op::Shutdown);
        if round % 2 == 0 {
            drop(host);
            rig.received();
            rig.send(packet(ports, Op::Reset), &[]);
        } else {
            end.flags = BOTH.into();
            rig.send(end, &[]);
            assert_eq!(rig.one_op(), Op::Reset);
        }
    }
    assert_eq!(rig.metrics.conns_added.get(), 50);
    assert_eq!(rig.metrics.conns_removed.get(), 50);
    let again = rig.dial();
    again.set_nonblocking(true).unwrap();
    rig.turn();
    let kind = (&again).read(&mut [0]).unwrap_err().kind();
    assert_eq!(kind, ErrorKind::WouldBlock);
}

#[test]
fn packets_allocate_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut vsock = device(&folder);
    let mut bench = Bench::new(&mut vsock, 0);
    let ports = Ports {
        host: 77,
        guest: 88,
    };
    let listener = UnixListener::bind(folder.path().join("v_77")).unwrap();
    let room = |drivers: &mut Vec<FakeDriver>| {
        drivers[0].add(&[Buffer::Writable(ROOM, ROOM_LEN)]);
    };
    let send = |bench: &mut Bench, header: Header| {
        let poked = vm_memory::Bytes::write_slice(
            &*bench.memory,
            header.as_bytes(),
            vm_memory::GuestAddress(SENT),
        );
        poked.unwrap();
        bench.drivers[1].add(&[Buffer::Readable(SENT, 44 + header.len.get())]);
    };
    room(&mut bench.drivers);
    send(&mut bench, packet(ports, Op::Request));
    bench.allocations_of(KICK.0);
    let mut host = listener.accept().unwrap().0;
    let mut data = packet(ports, Op::Data);
    data.len = 100.into();
    let mut allocations = 0;
    for round in 0..8 {
        room(&mut bench.drivers);
        send(&mut bench, data);
        let count = bench.allocations_of(KICK.0);
        host.read_exact(&mut [0; 100]).unwrap();
        host.write_all(&[1; 100]).unwrap();
        let more = bench.allocations_of(SOCKETS.0);
        if round > 0 {
            allocations += count + more;
        }
    }
    assert_eq!(allocations, 0);
    assert_eq!(bench.drivers[0].take_used().len(), 9);
}

/// Keeps the folder of a device's socket as long as the process; the socket goes with the device.
fn kept() -> Vsock {
    let folder = tempfile::tempdir().unwrap();
    let vsock = device(&folder);
    let _ = folder.keep();
    vsock
}

device_suite!(Box::new(kept()));
