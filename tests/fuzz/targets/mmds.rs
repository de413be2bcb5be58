//! Frames of a guest at the metadata service: some made of any bytes, some of a guest that knows how to speak and does it
//! wrong. What comes back is whole and bounded. And requests, straight to where they are taken apart.
#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use devices::mmds::http::{MAX_REQUEST, Parsed, parse};
use devices::mmds::packet::{MAX_ANSWER, PORT, START_LEN, flags, parse_segment};
use devices::mmds::stack::{MAX_CONNECTIONS, MAX_LOOK};
use devices::mmds::testing::{ADDRESS, Header, arp_request, segment};
use devices::mmds::{Mmds, Rules, Stack};
use fuzz::bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::json;
use vm_config::MmdsVersion;

/// Frames that one frame can be answered with before its sender says more: all windows are shut by then.
const MOST_ANSWERS: usize = 40_000;

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes::new(input);
    match bytes.byte() {
        Some(b'h') => request(bytes.rest()),
        Some(how) => Guest::new(how).run(bytes),
        None => {}
    }
});

fn service() -> Arc<Mmds> {
    let mmds = Mmds::default();
    let long = "m".repeat(9000);
    mmds.put(json!({"name": "vm", "list": [1, "two"], "long": long}))
        .expect("it fits");
    Arc::new(mmds)
}

fn rules(how: u8) -> Rules {
    Rules {
        version: if how & 1 == 0 {
            MmdsVersion::V1
        } else {
            MmdsVersion::V2
        },
        is_imds_only: how & 2 != 0,
    }
}

/// A request is answered by HTTP that says its length.
fn request(bytes: &[u8]) {
    let Parsed::Whole(request, len) = parse(bytes) else {
        return;
    };
    assert!(len <= bytes.len() && len <= MAX_REQUEST);
    let mut answer = Vec::new();
    service().answer(rules(0), &request, 0, &mut answer);
    assert!(answer.starts_with(b"HTTP/1.1 "));
    let text = String::from_utf8(answer).expect("answers are text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head ends");
    let said = head.split("Content-Length: ").nth(1);
    let said = said.and_then(|rest| rest.lines().next()?.parse().ok());
    let has_body = request.method != "HEAD";
    assert!(!has_body || said == Some(body.len()), "{head}");
}

/// What a guest knows of its end of a connection.
#[derive(Clone, Copy, Default)]
struct End {
    next: u32,
    expected: u32,
}

struct Guest {
    stack: Stack,
    mmds: Arc<Mmds>,
    now: u64,
    ends: BTreeMap<u16, End>,
}

impl Guest {
    fn new(how: u8) -> Self {
        let mmds = service();
        Self {
            stack: Stack::new(Arc::clone(&mmds), rules(how), ADDRESS),
            mmds,
            now: 0,
            ends: BTreeMap::new(),
        }
    }

    fn run(mut self, mut bytes: Bytes<'_>) {
        while self.step(&mut bytes).is_some() {
            self.check();
        }
        self.stack.clear();
        assert!(!self.stack.is_ready() && self.stack.deadline().is_none());
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        match bytes.byte()? % 8 {
            0 => self.raw(bytes),
            1 => {
                self.give(&arp_request(ADDRESS));
                Some(())
            }
            2 => {
                self.now = self.now.saturating_add(u64::from(bytes.byte()?) << 26);
                self.stack.on_time(self.now);
                Some(())
            }
            3 | 4 => {
                self.take();
                Some(())
            }
            _ => self.speak(bytes),
        }
    }

    /// A frame of any bytes, behind the addresses that lead to the service.
    fn raw(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        let mut frame = arp_request(ADDRESS);
        let from = usize::from(bytes.byte()?);
        let run = bytes.run()?;
        frame.resize(frame.len().max(from + run.len()), 0);
        frame[from..from + run.len()].copy_from_slice(run);
        self.give(&frame);
        Some(())
    }

    /// A segment of a connection, with odd numbers and flags now and then.
    fn speak(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        let (port, set, odd, window) = (bytes.byte()?, bytes.byte()?, bytes.byte()?, bytes.half()?);
        let repeat = usize::from(bytes.byte()? & 31);
        let data = bytes.run()?.repeat(repeat.max(1));
        let port = u16::from(port & 63);
        let end = self.ends.entry(port).or_default();
        let shift = u32::from(odd & 15).wrapping_sub(if odd & 16 == 0 { 0 } else { 16 });
        let flags = if set == 0 { flags::ACK } else { set };
        let header = Header {
            ports: (port, if odd & 128 == 0 { PORT } else { 81 }),
            numbers: (
                end.next.wrapping_add(shift),
                end.expected.wrapping_add(u32::from(odd >> 5 & 3)),
            ),
            flags,
            window,
        };
        let frame = segment(&header, &data);
        if flags & (flags::SYN | flags::FIN) != 0 {
            end.next = end.next.wrapping_add(1);
        }
        self.give(&frame);
        Some(())
    }

    /// As the device does it.
    fn give(&mut self, frame: &[u8]) {
        let start = &frame[..frame.len().min(START_LEN)];
        if self.stack.takes(start) {
            let look = &frame[..frame.len().min(MAX_LOOK)];
            self.stack.receive(look, frame.len(), self.now);
        }
    }

    /// Takes all that comes, and learns how far its connections are.
    fn take(&mut self) {
        let mut count = 0;
        while let Some((port, end, is_reset)) = self.next() {
            count += 1;
            assert!(count < MOST_ANSWERS, "answers without end");
            match port {
                Some(port) if is_reset => drop(self.ends.remove(&port)),
                Some(port) => drop(self.ends.insert(port, end)),
                None => {}
            }
        }
        assert!(
            !self.stack.is_ready(),
            "nothing came, and is said to be there"
        );
    }

    fn next(&mut self) -> Option<(Option<u16>, End, bool)> {
        let was_ready = self.stack.is_ready();
        let mut frame = [0; MAX_ANSWER];
        let sent = self.stack.send(self.now, &mut frame);
        assert_eq!(was_ready, sent.is_some());
        let len = sent?;
        if frame[12..14] == [8, 6] {
            return Some((None, End::default(), false));
        }
        let segment = parse_segment(&frame[..len], len).expect("a whole segment");
        assert_eq!(segment.data.len(), segment.data_len);
        let ends = segment.flags & (flags::SYN | flags::FIN) != 0;
        let len = u32::try_from(segment.data_len).expect("a frame is short");
        let end = End {
            next: segment.acknowledgement,
            expected: segment.sequence.wrapping_add(len + u32::from(ends)),
        };
        let is_reset = segment.flags & flags::RST != 0;
        Some((Some(segment.port), end, is_reset))
    }

    fn check(&self) {
        let metrics = self.mmds.metrics();
        let made = metrics.connections_created.get();
        let open = made - metrics.connections_destroyed.get();
        assert!(open <= MAX_CONNECTIONS as u64);
        assert!(open > 0 || self.stack.deadline().is_none());
    }
}
