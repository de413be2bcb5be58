//! Uses all pairs of queues, then one: each answer of the host must come on the pair that the question left by.

#![no_std]
#![no_main]
use rt::boot::BootInfo;
use rt::device_memory::DeviceMemory;
use rt::virtio::{Device, Part, Queue, Rings, net};
use rt::{clock, echo, println};

/// Pairs that this kernel has room for.
const MAX_PAIRS: usize = 4;
/// Receive buffers of each pair.
const BUFFERS: usize = 8;
const BUFFER_BYTES: usize = 2048;

/// The configuration space says how many pairs there are at most (virtio 1.2 §5.1.4).
const MAX_VIRTQUEUE_PAIRS: u64 = 8;
const VIRTIO_NET_F_CTRL_VQ: u64 = 1 << 17;
const VIRTIO_NET_F_MQ: u64 = 1 << 22;
const VIRTIO_NET_CTRL_MQ: u8 = 4;
const VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: u8 = 0;
const VIRTIO_NET_OK: u8 = 0;

const HEADER: usize = 12;
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
const FRAME: usize = HEADER + ETHERNET + IPV4 + UDP;
/// The first pair's port; the others follow.
const FIRST_PORT: u16 = 1000;

static RINGS: [Rings; 2 * MAX_PAIRS + 1] = [const { Rings::zeroed() }; 2 * MAX_PAIRS + 1];
static RECEIVED: DeviceMemory<{ MAX_PAIRS * BUFFERS * BUFFER_BYTES }> = DeviceMemory::zeroed();
static SENT: DeviceMemory<FRAME> = DeviceMemory::zeroed();
static COMMAND: DeviceMemory<8> = DeviceMemory::zeroed();

struct Pair {
    receive: Queue,
    transmit: Queue,
    /// Which buffer each head has.
    slots: [usize; Rings::MAX_SIZE as usize],
}

rt::kernel!(main);

fn main(boot: &BootInfo) {
    let ip = echo::address(boot);
    let port = boot.command_line().number("port").unwrap_or(0);
    let port = u16::try_from(port).unwrap_or(0);
    let device = Device::find(boot, net::DEVICE_ID, 0);
    let wanted = net::VIRTIO_NET_F_MAC | VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_MQ;
    let features = device.negotiate(wanted);
    rt::check!(features & wanted == wanted, "offered: {features:#x}");
    let config = [0, 1].map(|offset| device.config_byte(MAX_VIRTQUEUE_PAIRS + offset));
    let count = usize::from(u16::from_le_bytes(config));
    println!("pairs={count}");
    rt::check!(count == MAX_PAIRS, "{count} pairs");

    let set_up = |index: usize| {
        let queue = u32::try_from(index).unwrap_or(u32::MAX);
        device.set_up_queue(queue, &RINGS[index], features)
    };
    let mut pairs: [Pair; MAX_PAIRS] = core::array::from_fn(|index| Pair {
        receive: set_up(2 * index),
        transmit: set_up(2 * index + 1),
        slots: [0; Rings::MAX_SIZE as usize],
    });
    let mut control = set_up(2 * count);
    device.start();
    for (index, pair) in pairs.iter_mut().enumerate() {
        (0..BUFFERS).for_each(|buffer| offer(pair, index * BUFFERS + buffer));
    }

    for used in [MAX_PAIRS, 1] {
        use_pairs(&mut control, used);
        for index in 0..MAX_PAIRS {
            let from = index.min(used - 1);
            let own_port = FIRST_PORT + u16::try_from(index).unwrap_or(0);
            ask(&mut pairs[from], ip, own_port, port);
            let came_on = wait_for_answer(&mut pairs, own_port);
            println!("used={used} sent_on={from} came_on={came_on}");
            rt::check!(came_on == from, "an answer came on another pair");
        }
    }
}

/// Gives the device room for a frame.
fn offer(pair: &mut Pair, slot: usize) {
    let buffer_len = u32::try_from(BUFFER_BYTES).unwrap_or(0);
    let part = Part::writable(RECEIVED.address(slot * BUFFER_BYTES), buffer_len);
    let head = pair.receive.add(&[part]);
    pair.slots[usize::from(head)] = slot;
    pair.receive.kick();
}

/// Tells the device how many pairs are used (virtio 1.2 §5.1.6.5.6.1).
fn use_pairs(control: &mut Queue, count: usize) {
    let [low, high] = u16::try_from(count).unwrap_or(0).to_le_bytes();
    let command = [
        VIRTIO_NET_CTRL_MQ,
        VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
        low,
        high,
        0xff,
    ];
    COMMAND.write(0, &command);
    control.add(&[
        Part::readable(COMMAND.address(0), 2),
        Part::readable(COMMAND.address(2), 2),
        Part::writable(COMMAND.address(4), 1),
    ]);
    control.kick();
    let _ = control.wait_used();
    let ack = COMMAND.byte(4);
    rt::check!(ack == VIRTIO_NET_OK, "the device answered {ack}");
}

/// Sends an empty datagram from `own_port` to `port` of the host, the network's address 1.
fn ask(pair: &mut Pair, ip: [u8; 4], own_port: u16, port: u16) {
    let mut frame = [0; FRAME];
    let (ethernet, rest) = frame[HEADER..].split_at_mut(ETHERNET);
    let (header, udp) = rest.split_at_mut(IPV4);
    // To all, from a locally administered address.
    ethernet[..6].fill(0xff);
    ethernet[6] = 2;
    ethernet[12..].copy_from_slice(&[0x08, 0x00]);
    // Version 4, 5 words, 64 hops, UDP (RFC 791).
    header[0] = 0x45;
    header[2..4].copy_from_slice(&length(IPV4 + UDP));
    header[8] = 64;
    header[9] = 17;
    header[12..16].copy_from_slice(&ip);
    header[16..].copy_from_slice(&[ip[0], ip[1], ip[2], 1]);
    let words = header.chunks_exact(2);
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    // No checksum (RFC 768).
    udp[..2].copy_from_slice(&own_port.to_be_bytes());
    udp[2..4].copy_from_slice(&port.to_be_bytes());
    udp[4..6].copy_from_slice(&length(UDP));

    SENT.write(0, &frame);
    let frame_len = u32::try_from(FRAME).unwrap_or(0);
    pair.transmit
        .add(&[Part::readable(SENT.address(0), frame_len)]);
    pair.transmit.kick();
    let _ = pair.transmit.wait_used();
}

/// A length as headers have it.
fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(0).to_be_bytes()
}

/// The pair on which a datagram for `own_port` comes.
fn wait_for_answer(pairs: &mut [Pair], own_port: u16) -> usize {
    let mut found = None;
    clock::spin_until(clock::LONG, || {
        for (index, pair) in pairs.iter_mut().enumerate() {
            let Some(used) = pair.receive.take_used() else {
                continue;
            };
            let slot = pair.slots[usize::from(used.head)];
            let mut frame = [0; FRAME];
            RECEIVED.read(slot * BUFFER_BYTES, &mut frame);
            let ip = &frame[HEADER + ETHERNET..];
            // The host has more to say, of IPv6 for one.
            let is_udp = frame[HEADER + 12..][..2] == [0x08, 0x00] && ip[9] == 17;
            if is_udp && ip[IPV4 + 2..][..2] == own_port.to_be_bytes() {
                found = Some(index);
            }
            offer(pair, slot);
        }
        found.is_some()
    });
    match found {
        Some(index) => index,
        None => rt::fail!("no answer came for port {own_port}"),
    }
}
