//! Frames through a whole device. A pair of sockets that keep datagrams apart plays the tap.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;

use vm_config::{DeviceId, RateLimiter, TokenBucket};

use super::features::{accepted, offered};
use super::worker::{KICK, TAP};
use super::*;
use crate::testing::suite::device_suite;
use crate::testing::{Bench, Buffer, FakeGuest};
use crate::virtio::transport::Transport;

const MRG_RXBUF: u64 = 1 << bit::VIRTIO_NET_F_MRG_RXBUF;
const GUEST_TSO4: u64 = 1 << bit::VIRTIO_NET_F_GUEST_TSO4;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn interface() -> NetworkInterface {
    NetworkInterface {
        iface_id: DeviceId("eth0".to_owned()),
        host_dev_name: "unused".to_owned(),
        guest_mac: Some(vm_config::MacAddress(MAC)),
        mtu: None,
        rx_rate_limiter: None,
        tx_rate_limiter: None,
        num_queues: None,
        backend: vm_config::NetworkBackend::Tap,
    }
}

struct Wire {
    guest: FakeGuest,
    host: UnixDatagram,
    metrics: Arc<NetMetrics>,
}

fn wire(features: u64) -> Wire {
    wire_of(&interface(), features)
}

fn wire_of(interface: &NetworkInterface, features: u64) -> Wire {
    let (host, end) = UnixDatagram::pair().unwrap();
    host.set_nonblocking(true).unwrap();
    let mut net = Net::on(vec![Tap::fake(end)], interface);
    // The sockets cannot say so, but the test may accept it.
    net.features |= GUEST_TSO4;
    let metrics = net.metrics();
    Wire {
        guest: FakeGuest::running(Box::new(net), features),
        host,
        metrics,
    }
}

impl Wire {
    fn offer(&mut self, address: u64, len: u32) -> u16 {
        self.guest.queues[0].add(&[Buffer::Writable(address, len)])
    }

    /// A frame as the tap has it: header, then bytes that count up.
    fn send_from_host(&self, len: usize) -> Vec<u8> {
        let mut frame: Vec<u8> = (0..=255).cycle().take(len).collect();
        frame[..12].fill(0);
        self.host.send(&frame).unwrap();
        frame
    }

    fn turn(&self) {
        self.guest.workers.turn().unwrap();
    }

    fn received(&mut self) -> Vec<(u16, u32)> {
        self.guest.queues[0].take_used()
    }

    fn sent(&mut self) -> Vec<(u16, u32)> {
        self.guest.queues[1].take_used()
    }

    fn num_buffers(&self, at: u64) -> u16 {
        let bytes = self.guest.peek(at + 10, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }
}

#[test]
fn frame_is_sent_whole_with_its_header() {
    let mut wire = wire(0);
    let frame: Vec<u8> = (0..100).collect();
    wire.guest.poke(0x1000, &frame[..30]);
    wire.guest.poke(0x2000, &frame[30..]);
    let head =
        wire.guest.queues[1].add(&[Buffer::Readable(0x1000, 30), Buffer::Readable(0x2000, 70)]);
    wire.guest.kick().unwrap();
    let mut got = [0; 200];
    let len = wire.host.recv(&mut got).unwrap();
    assert_eq!(got[..len], frame);
    assert_eq!(wire.sent(), [(head, 0)]);
    assert_eq!(wire.metrics.tx_packets_count.get(), 1);
    assert!(!wire.metrics.tap_write_agg.sum().is_zero());
    assert_eq!(wire.metrics.tx_spoofed_mac_count.get(), 1);
    assert_eq!(wire.guest.irq.take(), 1);
}

#[test]
fn frames_too_short_or_too_long_are_dropped_and_counted() {
    let mut wire = wire(0);
    wire.guest.queues[1].add(&[Buffer::Readable(0x1000, 25)]);
    wire.guest.queues[1].add(&[Buffer::Readable(0x1000, 65563)]);
    wire.guest.queues[1].add(&[Buffer::Writable(0x1000, 100)]);
    wire.guest.queues[1].add(&[Buffer::Readable(u64::MAX, 100)]);
    wire.guest.kick().unwrap();
    assert_eq!(wire.sent().len(), 4);
    assert_eq!(wire.metrics.tx_malformed_frames.get(), 4);
    let received = wire.host.recv(&mut [0; 10]).unwrap_err();
    assert_eq!(received.kind(), ErrorKind::WouldBlock);
}

#[test]
fn full_tap_keeps_frames_until_it_has_room() {
    let mut wire = wire(0);
    for _ in 0..250 {
        wire.guest.queues[1].add(&[Buffer::Readable(0x1000, 60000)]);
    }
    for _ in 0..4 {
        wire.guest.kick().unwrap();
    }
    let first = wire.sent().len();
    assert!(first > 0 && first < 250, "{first}");
    let mut total = first;
    while total < 250 {
        while wire.host.recv(&mut [0; 100]).is_ok() {}
        wire.turn();
        total += wire.sent().len();
    }
    assert_eq!(wire.metrics.tx_packets_count.get(), 250);
    assert_eq!(wire.metrics.tx_fails.get(), 0);
}

#[test]
fn frame_fills_one_buffer_without_merging() {
    let mut wire = wire(0);
    let head = wire.offer(0x1000, 2000);
    wire.offer(0x2000, 2000);
    let frame = wire.send_from_host(1000);
    wire.turn();
    assert_eq!(wire.received(), [(head, 1000)]);
    assert_eq!(wire.num_buffers(0x1000), 1);
    assert_eq!(wire.guest.peek(0x1000 + 12, 988), frame[12..]);
    assert_eq!(wire.guest.irq.take(), 1);
}

#[test]
fn long_frame_fills_merged_buffers() {
    let mut wire = wire(MRG_RXBUF | GUEST_TSO4);
    let heads: Vec<_> = (0..50)
        .map(|page| wire.offer(0x10_0000 + page * 0x1000, 1500))
        .collect();
    let frame = wire.send_from_host(4000);
    wire.turn();
    assert_eq!(
        wire.received(),
        [(heads[0], 1500), (heads[1], 1500), (heads[2], 1000)]
    );
    assert_eq!(wire.num_buffers(0x10_0000), 3);
    assert_eq!(wire.guest.peek(0x10_1000, 1500), frame[1500..3000]);
    // What is left goes on with the next frame.
    wire.send_from_host(100);
    for page in 0..3 {
        wire.offer(0x10_0000 + page * 0x1000, 1500);
    }
    wire.turn();
    assert_eq!(wire.received(), [(heads[3], 100)]);
}

#[test]
fn driver_that_can_make_room_is_waited_for() {
    let mut wire = wire(MRG_RXBUF | GUEST_TSO4);
    for page in 0..44 {
        wire.offer(0x10_0000 + page * 0x1000, 1500);
    }
    wire.send_from_host(60000);
    wire.send_from_host(60000);
    wire.turn();
    assert_eq!(wire.received().len(), 40);
    assert_eq!(wire.metrics.no_rx_avail_buffer.get(), 2);
    for page in 0..40 {
        wire.offer(0x10_0000 + page * 0x1000, 1500);
    }
    wire.guest.kick().unwrap();
    assert_eq!(wire.received().len(), 40);
    assert_eq!(wire.metrics.rx_fails.get(), 0);
}

#[test]
fn driver_with_little_room_gets_what_fits() {
    let mut wire = wire(MRG_RXBUF | GUEST_TSO4);
    let head = wire.offer(0x1000, 1500);
    wire.send_from_host(3000);
    wire.send_from_host(200);
    wire.turn();
    assert_eq!(wire.received(), [(head, 200)]);
    assert_eq!(wire.metrics.rx_fails.get(), 1);
}

#[test]
fn frames_wait_in_the_tap_while_there_is_no_buffer() {
    let mut wire = wire(0);
    wire.send_from_host(100);
    wire.turn();
    wire.turn();
    assert_eq!(wire.received(), []);
    let head = wire.offer(0x1000, 2000);
    wire.guest.kick().unwrap();
    assert_eq!(wire.received(), [(head, 100)]);
}

#[test]
fn buffers_that_break_a_rule_come_back_empty() {
    let mut wire = wire(0);
    let bad = wire.guest.queues[0].add(&[Buffer::Readable(0x1000, 2000)]);
    let worse = wire.guest.queues[0].add(&[Buffer::Writable(u64::MAX, 2000)]);
    let good = wire.offer(0x1000, 2000);
    wire.send_from_host(100);
    wire.turn();
    assert_eq!(wire.received(), [(bad, 0), (worse, 0), (good, 100)]);
    assert_eq!(wire.metrics.rx_fails.get(), 2);
}

#[test]
fn waiting_buffers_survive_a_pause() {
    let mut wire = wire(MRG_RXBUF);
    let heads = [wire.offer(0x1000, 2000), wire.offer(0x2000, 2000)];
    wire.turn();
    wire.guest.transport.slot().pause();
    wire.guest.transport.slot().resume();
    wire.send_from_host(100);
    wire.send_from_host(100);
    wire.turn();
    assert_eq!(wire.received(), [(heads[0], 100), (heads[1], 100)]);
}

#[test]
fn each_head_comes_back_once_though_one_between_waiting_ones_was_refused() {
    let mut wire = wire(MRG_RXBUF | GUEST_TSO4);
    let first = wire.offer(0x1000, 2000);
    let refused = wire.guest.queues[0].add(&[Buffer::Writable(u64::MAX, 2000)]);
    let last = wire.offer(0x2000, 2000);
    wire.turn();
    assert_eq!(wire.received(), [(refused, 0)]);
    wire.guest.transport.slot().pause();
    wire.guest.transport.slot().resume();
    wire.send_from_host(100);
    wire.turn();
    assert_eq!(wire.received(), [(first, 0), (last, 100)]);
}

/// An event counter refuses a read of fewer than 8 bytes with EINVAL, as a tap does when it cannot hand a frame's
/// header over.
#[test]
fn frames_are_received_after_a_read_that_was_refused() {
    let counter = rustix::event::eventfd(1, rustix::event::EventfdFlags::empty()).unwrap();
    let mut net = Net::on(vec![Tap::fake(counter)], &interface());
    let metrics = net.metrics();
    let mut bench = Bench::new(&mut net, MRG_RXBUF);
    let small = bench.drivers[0].add(&[Buffer::Writable(0x1000, 5)]);
    bench.show(TAP);
    assert_eq!(metrics.tap_read_fails.get(), 64, "one turn");
    let large = bench.drivers[0].add(&[Buffer::Writable(0x2000, 500)]);
    bench.show(KICK);
    assert_eq!(bench.drivers[0].take_used(), [(small, 5), (large, 3)]);
}

#[test]
fn flood_is_taken_in_bounded_turns() {
    let mut wire = wire(0);
    let mut all = 0;
    for _ in 0..200 {
        wire.offer(0x1000, 2000);
    }
    while all < 200 && wire.host.send(&[0; 100]).is_ok() {
        all += 1;
    }
    let mut seen = 0;
    while seen < all {
        wire.guest.workers.turn().unwrap();
        let part = wire.received().len();
        assert!(part > 0 && part <= 2 * 64, "one turn for each source");
        seen += part;
    }
}

#[test]
fn features_follow_the_tap_and_the_interface() {
    let (_host, end) = UnixDatagram::pair().unwrap();
    let plain = NetworkInterface {
        guest_mac: None,
        ..interface()
    };
    let net = Net::on(vec![Tap::fake(end)], &plain);
    let bare = 1 << 32 | 1 << 29 | MRG_RXBUF | 1;
    assert_eq!(net.traits().features, bare);
    assert_eq!(net.config_space(), [0; 12]);
    let (_host, end) = UnixDatagram::pair().unwrap();
    let full = NetworkInterface {
        mtu: Some(9000),
        ..interface()
    };
    let net = Net::on(vec![Tap::fake(end)], &full);
    assert_eq!(net.traits().features, bare | 1 << 5 | 1 << 3);
    assert_eq!(net.config_space(), [2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 40, 35]);
    let able = Offloads {
        csum: true,
        tso4: true,
        tso6: true,
        ufo: true,
        uso: true,
    };
    let all = [1, 7, 8, 10, 11, 12, 14, 54, 55, 56];
    let all = all.iter().fold(bare, |bits, bit| bits | 1 << bit);
    assert_eq!(offered(able), all);
    assert_eq!(accepted(all), able);
    assert!(!accepted(all & !(1 << 55)).uso, "a tap does both or none");
}

#[test]
fn what_is_impossible_or_missing_is_named() {
    let cases = [
        (
            NetworkInterface {
                mtu: Some(67),
                ..interface()
            },
            "MTU 67 is out of range [68, 65535]",
        ),
        (
            NetworkInterface {
                host_dev_name: "x".repeat(16),
                ..interface()
            },
            "Invalid interface name",
        ),
        (
            NetworkInterface {
                num_queues: Some(33),
                ..interface()
            },
            "num_queues 33 is out of range [1, 32]",
        ),
        (
            NetworkInterface {
                num_queues: Some(0),
                ..interface()
            },
            "num_queues 0 is out of range [1, 32]",
        ),
    ];
    for (interface, words) in cases {
        let text = Net::open(&interface).err().unwrap().to_string();
        assert!(text.contains(words), "{text}");
    }
}

fn ops(size: u64, refill_time: u64) -> Option<RateLimiter> {
    let bucket = TokenBucket {
        size,
        one_time_burst: None,
        refill_time,
    };
    Some(RateLimiter {
        bandwidth: None,
        ops: Some(bucket),
    })
}

fn patch(wire: &Wire, patch: &NetworkInterfacePatch) {
    wire.guest.transport.slot().pause();
    let changed = wire.guest.transport.slot().change(|device| {
        let device: &mut dyn std::any::Any = device;
        device.downcast_mut::<Net>().unwrap().change(patch)
    });
    assert!(changed.is_some());
    wire.guest.transport.slot().resume();
}

#[test]
fn each_direction_has_its_own_limit_and_a_patch_lifts_it() {
    const HOUR: u64 = 3_600_000;
    let limited = NetworkInterface {
        rx_rate_limiter: ops(2, HOUR),
        tx_rate_limiter: ops(3, HOUR),
        ..interface()
    };
    let mut wire = wire_of(&limited, 0);
    for _ in 0..5 {
        wire.offer(0x1000, 2000);
        wire.guest.queues[1].add(&[Buffer::Readable(0x8000, 100)]);
        wire.send_from_host(60);
    }
    for _ in 0..3 {
        wire.guest.kick().unwrap();
    }
    assert_eq!((wire.received().len(), wire.sent().len()), (2, 3));
    assert_eq!(wire.metrics.rx_rate_limiter_throttled.get(), 1);
    assert_eq!(wire.metrics.tx_rate_limiter_throttled.get(), 1);
    let mut lift = NetworkInterfacePatch {
        iface_id: DeviceId("eth0".to_owned()),
        rx_rate_limiter: ops(0, 0),
        tx_rate_limiter: None,
    };
    patch(&wire, &lift);
    wire.guest.kick().unwrap();
    assert_eq!((wire.received().len(), wire.sent().len()), (3, 0));
    lift.tx_rate_limiter = ops(0, 0);
    patch(&wire, &lift);
    wire.guest.kick().unwrap();
    assert_eq!(wire.sent().len(), 2);
}

#[test]
fn limit_that_is_used_up_with_no_frame_left_arms_nothing() {
    let limited = NetworkInterface {
        rx_rate_limiter: ops(2, 3_600_000),
        ..interface()
    };
    let mut wire = wire_of(&limited, 0);
    for _ in 0..4 {
        wire.offer(0x1000, 2000);
    }
    for _ in 0..2 {
        wire.send_from_host(60);
    }
    wire.turn();
    assert_eq!(wire.received().len(), 2);
    assert_eq!(wire.metrics.rx_rate_limiter_throttled.get(), 0);
}

#[test]
fn frames_do_not_allocate() {
    // A limit that is there and never reached costs no allocation either.
    let never = RateLimiter {
        bandwidth: Some(TokenBucket {
            size: u64::MAX,
            one_time_burst: None,
            refill_time: 1,
        }),
        ops: None,
    };
    let limited = NetworkInterface {
        rx_rate_limiter: Some(never),
        tx_rate_limiter: Some(never),
        ..interface()
    };
    for interface in [interface(), limited] {
        // One buffer for the frame, or four of those it is merged from.
        frames_of_do_not_allocate(&interface, 0, 2000);
        frames_of_do_not_allocate(&interface, MRG_RXBUF, 500);
    }
}

fn frames_of_do_not_allocate(interface: &NetworkInterface, features: u64, room: u32) {
    let (host, end) = UnixDatagram::pair().unwrap();
    host.set_nonblocking(true).unwrap();
    let mut bench = Bench::new(&mut Net::on(vec![Tap::fake(end)], interface), features);
    let mut once = || {
        for _ in 0..4 {
            bench.drivers[0].add(&[Buffer::Writable(0x1000, room)]);
            bench.drivers[1].add(&[Buffer::Readable(0x2000, 60), Buffer::Readable(0x3000, 60)]);
        }
        host.send(&[0; 1500]).unwrap();
        let allocations = bench.allocations_of(TAP.0) + bench.allocations_of(KICK.0);
        let sent = std::iter::from_fn(|| host.recv(&mut [0; 200]).ok());
        assert_eq!(sent.count(), 4);
        assert!(!bench.drivers[0].take_used().is_empty());
        bench.drivers[1].take_used();
        allocations
    };
    for _ in 0..32 {
        once();
    }
    for _ in 0..100 {
        assert_eq!(once(), 0);
    }
}

device_suite!({
    let (_host, end) = UnixDatagram::pair().unwrap();
    Box::new(Net::on(vec![Tap::fake(end)], &interface()))
});

#[test]
fn refused_buffers_end_a_turn_like_frames() {
    let mut wire = wire(0);
    for _ in 0..QUEUE_SIZE {
        wire.guest.queues[0].add(&[Buffer::Readable(0x1000, 100)]);
    }
    // Each turn of the loop shows the device its two sources.
    wire.guest.kick().unwrap();
    assert_eq!(wire.received().len(), 2 * 64);
    wire.turn();
    assert_eq!(wire.received().len(), 2 * 64);
    assert_eq!(wire.metrics.rx_fails.get(), u64::from(QUEUE_SIZE));
}

/// An interface with three pairs, on sockets, as a driver sees it that accepted `features`.
struct ManyWires {
    guest: FakeGuest,
    hosts: Vec<UnixDatagram>,
}

const CTRL_VQ: u64 = 1 << bit::VIRTIO_NET_F_CTRL_VQ;
const MQ: u64 = 1 << bit::VIRTIO_NET_F_MQ;
/// Where commands lie, and their answers.
const COMMAND: u64 = 0x9000;

fn many_wires(features: u64) -> ManyWires {
    let (hosts, taps) = (0..3).map(|_| pair_of_ends()).unzip();
    let net = Net::on(taps, &interface());
    ManyWires {
        guest: FakeGuest::running(Box::new(net), features),
        hosts,
    }
}

fn pair_of_ends() -> (UnixDatagram, Tap) {
    let (host, end) = UnixDatagram::pair().unwrap();
    host.set_nonblocking(true).unwrap();
    (host, Tap::fake(end))
}

impl ManyWires {
    /// Sends a command on queue `queue`; its answer.
    fn command(&mut self, queue: usize, command: &[u8]) -> u8 {
        self.guest.poke(COMMAND, command);
        self.guest.poke(COMMAND + 0x100, &[0xee]);
        let len = u32::try_from(command.len()).unwrap();
        let control = &mut self.guest.queues[queue];
        // As Linux does: the header, the data and the answer are apart.
        control.add(&[
            Buffer::Readable(COMMAND, 2),
            Buffer::Readable(COMMAND + 2, len - 2),
            Buffer::Writable(COMMAND + 0x100, 1),
        ]);
        self.guest.kick().unwrap();
        assert_eq!(self.guest.queues[queue].take_used().len(), 1);
        self.guest.peek(COMMAND + 0x100, 1)[0]
    }

    /// The pairs on whose receive queue a frame from each host's end arrives.
    fn reached(&mut self) -> Vec<usize> {
        for (index, host) in self.hosts.iter().enumerate() {
            self.guest.queues[2 * index].add(&[Buffer::Writable(0x1000, 2000)]);
            host.send(&[0; 100]).unwrap();
        }
        self.guest.kick().unwrap();
        let receive = self.guest.queues.iter_mut().step_by(2).take(3);
        let used: Vec<_> = receive.map(|queue| !queue.take_used().is_empty()).collect();
        (0..3).filter(|index| used[*index]).collect()
    }

    /// The hosts' ends that a frame sent from each transmit queue reaches.
    fn sent(&mut self) -> Vec<usize> {
        for index in 0..3 {
            self.guest.queues[2 * index + 1].add(&[Buffer::Readable(0x4000, 100)]);
        }
        self.guest.kick().unwrap();
        let hosts = self.hosts.iter().enumerate();
        let reached = hosts.filter(|(_, host)| host.recv(&mut [0; 200]).is_ok());
        reached.map(|(index, _)| index).collect()
    }
}

#[test]
fn pairs_are_used_as_the_driver_says() {
    let mut wires = many_wires(CTRL_VQ | MQ);
    assert_eq!(wires.guest.queues.len(), 7);
    assert_eq!((wires.reached(), wires.sent()), (vec![0], vec![0]));
    assert_eq!(wires.command(6, &[4, 0, 3, 0]), 0);
    wires.guest.kick().unwrap();
    assert_eq!(wires.sent(), [0, 1, 2]);
    assert_eq!(wires.reached(), [0, 1, 2]);
    assert_eq!(wires.command(6, &[4, 0, 2, 0]), 0);
    assert_eq!(wires.reached(), [0, 1]);
}

#[test]
fn pairs_in_use_outlive_a_pause_and_not_a_reset() {
    let mut wires = many_wires(CTRL_VQ | MQ);
    assert_eq!(wires.command(6, &[4, 0, 2, 0]), 0);
    wires.guest.transport.slot().pause();
    wires.guest.transport.slot().resume();
    assert_eq!(wires.reached(), [0, 1]);
    wires.guest.write(0x70, 0);
    wires.guest.start(CTRL_VQ | MQ);
    for host in &wires.hosts {
        while host.recv(&mut [0; 200]).is_ok() {}
    }
    assert_eq!(wires.reached(), [0]);
}

#[test]
fn commands_that_make_no_sense_are_refused() {
    let mut wires = many_wires(CTRL_VQ | MQ);
    let refused: &[&[u8]] = &[
        &[4, 0, 0, 0],
        &[4, 0, 4, 0],
        &[4, 0, 0, 0x80],
        &[4, 1, 1, 0],
        &[1, 0, 1, 0],
        &[4, 0, 2],
        &[4, 0, 2, 0, 0],
    ];
    for command in refused {
        assert_eq!(wires.command(6, command), 1, "{command:?}");
    }
    assert_eq!(wires.reached(), [0]);
}

#[test]
fn driver_without_mq_has_one_pair_and_its_control_queue_behind_it() {
    let mut wires = many_wires(CTRL_VQ);
    assert_eq!(wires.command(2, &[4, 0, 1, 0]), 0);
    assert_eq!(wires.command(2, &[4, 0, 2, 0]), 1);
    wires.hosts[0].send(&[0; 100]).unwrap();
    wires.guest.queues[0].add(&[Buffer::Writable(0x1000, 2000)]);
    wires.guest.kick().unwrap();
    assert_eq!(wires.guest.queues[0].take_used().len(), 1);
    let mut plain = many_wires(0);
    assert_eq!(plain.reached(), [0]);
}

mod with_many_pairs {
    use super::*;

    device_suite!({
        let (_hosts, taps): (Vec<_>, _) = (0..3).map(|_| pair_of_ends()).unzip();
        Box::new(Net::on(taps, &interface()))
    });
}

#[test]
fn one_pair_does_not_use_up_the_limit_of_all() {
    let limited = NetworkInterface {
        rx_rate_limiter: ops(2, 100),
        ..interface()
    };
    let (hosts, taps): (Vec<_>, _) = (0..2).map(|_| pair_of_ends()).unzip();
    let mut guest = FakeGuest::running(Box::new(Net::on(taps, &limited)), CTRL_VQ | MQ);
    guest.poke(COMMAND, &[4, 0, 2, 0]);
    guest.queues[4].add(&[
        Buffer::Readable(COMMAND, 4),
        Buffer::Writable(COMMAND + 0x100, 1),
    ]);
    guest.kick().unwrap();
    for _ in 0..64 {
        guest.queues[0].add(&[Buffer::Writable(0x1000, 2000)]);
        guest.queues[2].add(&[Buffer::Writable(0x1000, 2000)]);
    }
    let mut received = [0; 2];
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while received.iter().any(|count| *count < 5) {
        assert!(std::time::Instant::now() < deadline, "{received:?}");
        for (index, host) in hosts.iter().enumerate() {
            while host.send(&[0; 60]).is_ok() {}
            received[index] += guest.queues[2 * index].take_used().len();
        }
        guest.kick().unwrap();
    }
}
