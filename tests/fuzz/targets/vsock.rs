//! Packets of a driver, and processes of the host that connect, greet and speak at the same time. What the guest gets
//! are whole packets of the host, each with its data.
#![no_main]

use devices::testing::{Buffer, FakeGuest, Guest, guest_memory};
use devices::virtio::transport::Transport;
use fuzz::bytes::Bytes;
use fuzz::driver::drive;
use fuzz::kinds::{Host, Kind};
use libfuzzer_sys::fuzz_target;

const PACKET: u64 = 0x1000;
const ROOM: u64 = 0x10_0000;
const ROOM_LEN: u32 = 0x2000;
const BUFFERS: u16 = 32;
const GUEST: u64 = 3;
const HOST: u64 = 2;
const HEADER_LEN: usize = 44;
/// `VIRTIO_VSOCK_OP_RST` (virtio 1.2 §5.10.6).
const RESET: u8 = 3;

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes::new(input);
    match bytes.byte() {
        Some(0) => drive(Kind::Vsock, bytes.rest()),
        Some(_) => talk(bytes),
        None => {}
    }
});

fn talk(mut bytes: Bytes<'_>) {
    let mut host = Host::new(Kind::Vsock);
    let mut guest = <FakeGuest as Guest>::with_memory(host.device(), guest_memory(4 << 20));
    guest.start(0);
    for buffer in 0..BUFFERS {
        offer(&mut guest, buffer);
    }
    while step(&mut guest, &mut host, &mut bytes).is_some() {
        for _ in 0..2 {
            guest.kick().expect("the rings are whole");
        }
        let used = guest.queues[0].take_used();
        for (head, len) in used {
            check(&guest, head, len);
            offer(&mut guest, head);
        }
        guest.queues[1].take_used();
    }
    guest.write(0x70, 0);
}

/// Descriptor `index` always names the same buffer.
fn offer(guest: &mut FakeGuest, index: u16) {
    let at = ROOM + u64::from(index) * u64::from(ROOM_LEN);
    guest.queues[0].describe(index, at, ROOM_LEN, 2, 0);
    guest.queues[0].publish(index);
}

fn step(guest: &mut FakeGuest, host: &mut Host, bytes: &mut Bytes<'_>) -> Option<()> {
    if bytes.byte()? & 1 == 0 {
        return host.act(guest.transport.slot(), bytes);
    }
    let (op, ports, flags, odd) = (bytes.byte()?, bytes.byte()?, bytes.byte()?, bytes.byte()?);
    let (allocated, forwarded) = (bytes.half()?, bytes.half()?);
    let data = bytes.run()?;
    // Ports of connections that the guest opens to the service, and of those that the host opens.
    let (ours, theirs) = (u32::from(ports & 7), u32::from(ports >> 4));
    let theirs = if ports & 8 == 0 {
        theirs
    } else {
        (1 << 30) + theirs
    };
    let len = u32::try_from(data.len()).expect("a run is short");
    let mut packet = Vec::new();
    packet.extend(if odd & 1 == 0 { GUEST } else { u64::from(odd) }.to_le_bytes());
    packet.extend(if odd & 2 == 0 { HOST } else { u64::from(odd) }.to_le_bytes());
    packet.extend(ours.to_le_bytes());
    packet.extend(theirs.to_le_bytes());
    packet.extend(
        if odd & 4 == 0 {
            len
        } else {
            u32::MAX >> (odd & 31)
        }
        .to_le_bytes(),
    );
    packet.extend(if odd & 8 == 0 { 1 } else { u16::from(odd) }.to_le_bytes());
    packet.extend(u16::from(op % 9).to_le_bytes());
    packet.extend(u32::from(flags).to_le_bytes());
    packet.extend((u32::from(allocated) << (odd >> 4)).to_le_bytes());
    packet.extend(u32::from(forwarded).to_le_bytes());
    packet.extend(data);
    guest.poke(PACKET, &packet);
    let whole = u32::try_from(packet.len()).expect("a run is short");
    guest.queues[1].add(&[Buffer::Readable(PACKET, whole)]);
    Some(())
}

/// A packet that the guest got.
fn check(guest: &FakeGuest, head: u16, len: u32) {
    let at = ROOM + u64::from(head) * u64::from(ROOM_LEN);
    let packet = guest.peek(at, len as usize);
    let long = |at: usize| u64::from_le_bytes(packet[at..at + 8].try_into().expect("eight"));
    let word = |at: usize| u32::from_le_bytes(packet[at..at + 4].try_into().expect("four"));
    assert!(packet.len() >= HEADER_LEN, "no whole header");
    assert_eq!((long(0), long(8)), (HOST, GUEST));
    assert_eq!(
        word(24) as usize,
        packet.len() - HEADER_LEN,
        "data is missing"
    );
    let (kind, op) = (&packet[28..30], &packet[30..32]);
    assert!((1..=7).contains(&op[0]) && op[1] == 0, "no such operation");
    // What is reset may have been of another type.
    assert!(op[0] == RESET || kind == [1, 0], "not a stream");
}
