//! Frames both ways: what a driver sends reaches the tap byte by byte, or is dropped; what arrives fills the driver's
//! buffers, byte by byte. Between them, a driver that does whatever it likes.
#![no_main]

use devices::testing::{Buffer, FakeGuest, Guest, guest_memory};
use fuzz::bytes::Bytes;
use fuzz::driver::drive;
use fuzz::kinds::{Host, Kind};
use libfuzzer_sys::fuzz_target;

/// Header and Ethernet header: nothing shorter is a frame (virtio 1.2 §5.1.6).
const SHORTEST: usize = 12 + 14;
/// Where the number of merged buffers lies (virtio 1.2 §5.1.6.1).
const NUM_BUFFERS: std::ops::Range<usize> = 10..12;
const FRAME: u64 = 0x1000;
const ROOM: u64 = 0x1_0000;
const MRG_RXBUF: u64 = 1 << 15;

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes::new(input);
    match bytes.byte() {
        Some(how) if how & 7 == 0 => drive(Kind::Net, bytes.rest()),
        Some(how) if how & 7 == 1 => drive(Kind::NetPairs, bytes.rest()),
        Some(how) => exchange(how & 8 != 0, bytes),
        None => {}
    }
});

/// Sends and receives until the input ends.
fn exchange(is_mergeable: bool, mut bytes: Bytes<'_>) {
    let mut host = Host::new(Kind::Net);
    let mut guest = <FakeGuest as Guest>::with_memory(host.device(), guest_memory(4 << 20));
    guest.start(if is_mergeable { MRG_RXBUF } else { 0 });
    while step(&mut guest, &host, is_mergeable, &mut bytes).is_some() {}
    guest.write(0x70, 0);
}

fn step(
    guest: &mut FakeGuest,
    host: &Host,
    is_mergeable: bool,
    bytes: &mut Bytes<'_>,
) -> Option<()> {
    let (what, cut, frame) = (bytes.byte()?, bytes.byte()?, bytes.run()?);
    if what & 1 == 0 {
        send(guest, host, cut, frame);
    } else if frame.len() >= SHORTEST {
        receive(guest, host, is_mergeable, cut, frame);
    }
    Some(())
}

/// The driver sends a frame in two pieces.
fn send(guest: &mut FakeGuest, host: &Host, cut: u8, frame: &[u8]) {
    let cut = usize::from(cut).min(frame.len());
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a run is short");
    let (head, tail) = frame.split_at(cut);
    guest.poke(FRAME, head);
    guest.poke(FRAME + 0x1000, tail);
    let pieces = [
        Buffer::Readable(FRAME, len(head)),
        Buffer::Readable(FRAME + 0x1000, len(tail)),
    ];
    let pieces: Vec<_> = pieces
        .into_iter()
        .filter(|piece| !matches!(piece, Buffer::Readable(_, 0)))
        .collect();
    if pieces.is_empty() {
        return;
    }
    let chain = guest.queues[1].add(&pieces);
    guest.kick().expect("the rings are whole");
    assert_eq!(guest.queues[1].take_used(), [(chain, 0)]);
    let mut got = [0; 512];
    match host.wires()[0].recv(&mut got) {
        Ok(len) => assert_eq!(&got[..len], frame, "another frame was sent"),
        Err(_) => assert!(frame.len() < SHORTEST, "a frame was lost"),
    }
}

/// A frame arrives, at buffers that hold it: one, or several when they may be merged.
fn receive(guest: &mut FakeGuest, host: &Host, is_mergeable: bool, cut: u8, frame: &[u8]) {
    // Without merging every buffer holds the longest frame of its MTU.
    let room = if is_mergeable {
        u32::from(cut).max(64)
    } else {
        2048
    };
    let count = frame.len().div_ceil(room as usize);
    let mut heads = Vec::new();
    for piece in 0..u64::try_from(count).expect("a few") {
        heads.push(guest.queues[0].add(&[Buffer::Writable(ROOM + piece * u64::from(room), room)]));
    }
    host.wires()[0].send(frame).expect("the tap has room");
    guest.kick().expect("the rings are whole");
    let used = guest.queues[0].take_used();
    let (back, lens): (Vec<u16>, Vec<u32>) = used.into_iter().unzip();
    assert_eq!(back, heads, "a frame was lost");
    assert_eq!(lens.iter().sum::<u32>() as usize, frame.len());
    let mut wanted = frame.to_vec();
    wanted[NUM_BUFFERS].copy_from_slice(&u16::try_from(count).expect("a few").to_le_bytes());
    assert_eq!(
        guest.peek(ROOM, frame.len()),
        wanted,
        "another frame arrived"
    );
}
