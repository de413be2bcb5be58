//! Block requests one after the other, against a model of the disk: what a request says it did is what the next one
//! finds, with either engine.
#![no_main]

use std::time::{Duration, Instant};

use devices::testing::{Buffer, FakeGuest, Guest, guest_memory};
use fuzz::bytes::Bytes;
use fuzz::kinds::{DISK_LEN, Host, Kind};
use libfuzzer_sys::fuzz_target;

const HEADER: u64 = 0x100;
const STATUS: u64 = 0x200;
const DATA: u64 = 0x1_0000;
const SECTOR: u64 = 512;

// Request types (virtio 1.2 §5.2.6).
const IN: u32 = 0;
const OUT: u32 = 1;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
/// Answers (virtio 1.2 §5.2.6).
const OK: u8 = 0;
/// What the status byte holds before the device writes it.
const UNWRITTEN: u8 = 0xee;

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes::new(input);
    let kind = match bytes.byte() {
        Some(engine) if engine & 1 == 0 => Kind::BlockSync,
        Some(_) => Kind::BlockAsync,
        None => return,
    };
    let mut rig = Rig::new(kind);
    while rig.request(&mut bytes).is_some() {}
    rig.guest.write(0x70, 0);
});

struct Rig {
    guest: FakeGuest,
    disk: Vec<u8>,
    _host: Host,
}

/// A request as an input says it.
struct Request<'a> {
    kind: u32,
    sector: u64,
    /// Bytes of each buffer.
    lens: Vec<u32>,
    fill: &'a [u8],
}

impl<'a> Request<'a> {
    fn read(bytes: &mut Bytes<'a>) -> Option<Self> {
        let (kind, sector, count) = (bytes.byte()?, bytes.byte()?, bytes.byte()?);
        let mut lens = Vec::new();
        for _ in 0..=count % 4 {
            // Whole sectors mostly, and in pieces that are none.
            let len = bytes.half()?;
            lens.push(match len >> 14 {
                0 | 1 => u32::from(len % 8) * 512,
                2 => u32::from(len % 8) * 256,
                _ => u32::from(len & 0x3fff),
            });
        }
        lens.retain(|len| *len > 0);
        Some(Self {
            kind: [IN, OUT, 4, 8, DISCARD, WRITE_ZEROES, IN, OUT][usize::from(kind % 8)],
            sector: if sector == 0xff {
                u64::MAX >> 1
            } else {
                u64::from(sector) % 70
            },
            lens,
            fill: bytes.run()?,
        })
    }

    fn len(&self) -> usize {
        self.lens.iter().map(|len| *len as usize).sum()
    }

    /// What it writes.
    fn data(&self) -> Vec<u8> {
        let mut data = match self.kind {
            DISCARD | WRITE_ZEROES => {
                let sectors = u32::from(self.fill.first().copied().unwrap_or(1)) % 70;
                let mut range = self.sector.to_le_bytes().to_vec();
                range.extend(sectors.to_le_bytes());
                range.extend([0; 4]);
                range
            }
            _ => self.fill.iter().copied().cycle().take(self.len()).collect(),
        };
        data.resize(self.len(), 0x11);
        data
    }
}

impl Rig {
    fn new(kind: Kind) -> Self {
        let mut host = Host::new(kind);
        let device = host.device();
        let features = device.traits().features;
        let mut guest = <FakeGuest as Guest>::with_memory(device, guest_memory(4 << 20));
        guest.start(features);
        Self {
            guest,
            disk: vec![0xd5; DISK_LEN],
            _host: host,
        }
    }

    /// One request, its answer, and what must be true after it.
    fn request(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        let request = Request::read(bytes)?;
        let (data, is_read) = (request.data(), matches!(request.kind, IN | 8));
        let before = if is_read {
            vec![0xaa; data.len()]
        } else {
            data.clone()
        };
        self.guest.poke(DATA, &before);
        let (status, used) = self.send(&request, is_read);
        let now = self.guest.peek(DATA, data.len());
        let range = usize::try_from(request.sector.saturating_mul(SECTOR)).unwrap_or(usize::MAX);
        let on_disk = range..range.saturating_add(data.len());
        match (status, request.kind) {
            (OK, IN) => {
                assert_eq!(
                    self.disk.get(on_disk),
                    Some(&now[..]),
                    "read what was not written"
                );
                assert_eq!(used as usize, data.len() + 1);
            }
            (OK, OUT) => {
                let place = self.disk.get_mut(on_disk).expect("wrote outside the disk");
                place.copy_from_slice(&data);
            }
            (OK, DISCARD | WRITE_ZEROES) => self.clear(&data),
            _ => {}
        }
        let is_whole = data.len() % 512 == 0 && range.saturating_add(data.len()) <= DISK_LEN;
        if matches!(request.kind, IN | OUT) {
            assert_eq!(
                status == OK,
                is_whole,
                "type {} status {status}",
                request.kind
            );
        }
        Some(())
    }

    fn clear(&mut self, ranges: &[u8]) {
        for range in ranges.chunks(16) {
            let sector = u64::from_le_bytes(range[..8].try_into().expect("eight"));
            let count = u32::from_le_bytes(range[8..12].try_into().expect("four"));
            let at = usize::try_from(sector * SECTOR).expect("it was accepted");
            let place = self.disk.get_mut(at..at + count as usize * 512);
            place.expect("cleared outside the disk").fill(0);
        }
    }

    /// The status byte and the used length.
    fn send(&mut self, request: &Request<'_>, is_read: bool) -> (u8, u32) {
        let mut header = request.kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(request.sector.to_le_bytes());
        self.guest.poke(HEADER, &header);
        self.guest.poke(STATUS, &[UNWRITTEN]);
        let mut at = DATA;
        let mut buffers = vec![Buffer::Readable(HEADER, 16)];
        for len in &request.lens {
            buffers.push(if is_read {
                Buffer::Writable(at, *len)
            } else {
                Buffer::Readable(at, *len)
            });
            at += u64::from(*len);
        }
        buffers.push(Buffer::Writable(STATUS, 1));
        let head = self.guest.queues[0].add(&buffers);
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            self.guest.kick().expect("the rings are whole");
            let used = self.guest.queues[0].take_used();
            match used[..] {
                [] => assert!(Instant::now() < until, "a request that never comes back"),
                [(back, len)] => {
                    assert_eq!(back, head);
                    let status = self.guest.peek(STATUS, 1)[0];
                    assert_ne!(status, UNWRITTEN);
                    return (status, len);
                }
                _ => panic!("one request came back twice"),
            }
        }
    }
}
