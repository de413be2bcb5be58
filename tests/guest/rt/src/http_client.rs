//! A client of one connection that speaks TCP and HTTP by hand, to the metadata service.
//!
//! Sources: RFC 826 (ARP), RFC 791 (IPv4), RFC 9293 (TCP), RFC 9112 (HTTP).

use crate::virtio::net::{Frame, Nic};

/// The service's port.
const PORT: [u8; 2] = [0, 80];
/// The client's addresses, in networks and on the wire.
const OUR_IP: [u8; 4] = [172, 16, 0, 2];
const HEADERS: usize = 14 + 20 + 20;
/// The longest request.
const LONGEST: usize = 600;

const ETHERNET_TYPE: usize = 12;
const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const TYPE_ARP: [u8; 2] = [0x08, 0x06];
const IP_SOURCE: usize = 26;
const TCP_PORTS: usize = 34;
const TCP_NUMBERS: usize = 38;
const TCP_LEN_AND_FLAGS: usize = 46;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    server: [u8; 4],
    server_mac: [u8; 6],
    port: u16,
    next: u32,
    expected: u32,
}

/// An answer in the caller's memory.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The status code.
    pub status: u32,
    /// All behind the head.
    pub body: &'a [u8],
}

/// Asks who has `ip`; gives the hardware address. Fails the test if another answer comes.
pub fn resolve(nic: &mut Nic, ip: [u8; 4]) -> [u8; 6] {
    let mut frame = [0xff; 42];
    frame[6..12].copy_from_slice(&nic.mac);
    frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&nic.mac);
    frame[28..32].copy_from_slice(&OUR_IP);
    frame[32..38].copy_from_slice(&[0; 6]);
    frame[38..42].copy_from_slice(&ip);
    nic.send(&frame);
    loop {
        let frame = nic.receive();
        let is_answer =
            frame.read(ETHERNET_TYPE) == Some(TYPE_ARP) && frame.read(20) == Some([0, 2]);
        let from = frame.read(28).filter(|_| is_answer);
        let mac = frame.read(22);
        nic.give_back(frame);
        if let (Some(from), Some(mac)) = (from, mac) {
            crate::check!(from == ip, "an answer for an address that nobody asked for");
            return mac;
        }
    }
}

impl Connection {
    /// Opens a connection from `port`. Fails the test if it is refused.
    pub fn open(nic: &mut Nic, server: [u8; 4], server_mac: [u8; 6], port: u16) -> Self {
        let mut connection = Self {
            server,
            server_mac,
            port,
            next: u32::MAX - 5,
            expected: 0,
        };
        connection.send(nic, SYN, &[]);
        connection.next = connection.next.wrapping_add(1);
        let frame = connection.receive(nic);
        let [_, flags] = frame.read(TCP_LEN_AND_FLAGS).unwrap_or_default();
        let [sequence, _] = numbers(&frame);
        nic.give_back(frame);
        crate::check!(flags == SYN | ACK, "the connection is refused");
        connection.expected = sequence.wrapping_add(1);
        connection.send(nic, ACK, &[]);
        connection
    }

    /// Sends a request without waiting.
    pub fn ask(&mut self, nic: &mut Nic, request: &str) {
        self.send(nic, PSH | ACK, request.as_bytes());
        let len = u32::try_from(request.len()).unwrap_or(0);
        self.next = self.next.wrapping_add(len);
    }

    /// Waits for the answer to a request. Fails the test if it is none, or longer than `into`.
    pub fn hear<'a>(&mut self, nic: &mut Nic, into: &'a mut [u8]) -> Answer<'a> {
        let mut len = 0;
        let head_len = loop {
            len += self.receive_data(nic, &mut into[len..]);
            if let Some(head) = into[..len]
                .windows(4)
                .position(|bytes| bytes == b"\r\n\r\n")
            {
                break head + 4;
            }
        };
        let head = core::str::from_utf8(&into[..head_len]).unwrap_or_default();
        let field = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().split(' ').next()?.parse::<usize>().ok())
        };
        let (Some(status), Some(body_len)) = (field("HTTP/1.1 "), field("Content-Length:")) else {
            crate::fail!("no answer of HTTP: {head}");
        };
        let whole = head_len + body_len;
        while len < whole {
            len += self.receive_data(nic, &mut into[len..]);
        }
        crate::check!(len == whole, "more than an answer");
        Answer {
            status: u32::try_from(status).unwrap_or(0),
            body: &into[head_len..whole],
        }
    }

    /// Ends the connection from this side, and sees the other end do so too.
    pub fn close(mut self, nic: &mut Nic) {
        self.send(nic, FIN | ACK, &[]);
        self.next = self.next.wrapping_add(1);
        loop {
            let frame = self.receive(nic);
            let [_, flags] = frame.read(TCP_LEN_AND_FLAGS).unwrap_or_default();
            nic.give_back(frame);
            if flags & FIN != 0 {
                break;
            }
        }
        self.expected = self.expected.wrapping_add(1);
        self.send(nic, ACK, &[]);
    }

    /// What the next segment in order has; acknowledged.
    fn receive_data(&mut self, nic: &mut Nic, into: &mut [u8]) -> usize {
        loop {
            let frame = self.receive(nic);
            let [_, flags] = frame.read(TCP_LEN_AND_FLAGS).unwrap_or_default();
            crate::check!(flags & (RST | SYN) == 0, "the connection is reset");
            let [sequence, _] = numbers(&frame);
            let len = frame.len().saturating_sub(HEADERS);
            let is_next = len > 0 && sequence == self.expected;
            if is_next {
                crate::check!(len <= into.len(), "an answer longer than expected");
                frame.copy_out(HEADERS, &mut into[..len]);
                self.expected = self.expected.wrapping_add(u32::try_from(len).unwrap_or(0));
            }
            nic.give_back(frame);
            if is_next {
                self.send(nic, ACK, &[]);
                return len;
            }
        }
    }

    /// The next frame of this connection; others are dropped.
    fn receive(&self, nic: &mut Nic) -> Frame {
        let [high, low] = self.port.to_be_bytes();
        let ports = [PORT[0], PORT[1], high, low];
        loop {
            let frame = nic.receive();
            let is_ours = frame.read(ETHERNET_TYPE) == Some(TYPE_IPV4)
                && frame.read(IP_SOURCE) == Some(self.server)
                && frame.read(TCP_PORTS) == Some(ports);
            if is_ours {
                return frame;
            }
            nic.give_back(frame);
        }
    }

    /// Sends a segment, its checksums left out: no wire is on the way.
    fn send(&self, nic: &mut Nic, flags: u8, data: &[u8]) {
        crate::check!(data.len() <= LONGEST, "a request too long for this client");
        let mut frame = [0; HEADERS + LONGEST];
        let total = u16::try_from(40 + data.len()).unwrap_or(0).to_be_bytes();
        frame[..6].copy_from_slice(&self.server_mac);
        frame[6..12].copy_from_slice(&nic.mac);
        frame[12..14].copy_from_slice(&TYPE_IPV4);
        frame[14..24].copy_from_slice(&[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6]);
        frame[26..30].copy_from_slice(&OUR_IP);
        frame[30..34].copy_from_slice(&self.server);
        frame[34..36].copy_from_slice(&self.port.to_be_bytes());
        frame[36..38].copy_from_slice(&PORT);
        frame[38..42].copy_from_slice(&self.next.to_be_bytes());
        frame[42..46].copy_from_slice(&self.expected.to_be_bytes());
        frame[46..50].copy_from_slice(&[0x50, flags, 0x40, 0]);
        frame[HEADERS..HEADERS + data.len()].copy_from_slice(data);
        nic.send(&frame[..HEADERS + data.len()]);
    }
}

/// Sequence and acknowledgement.
fn numbers(frame: &Frame) -> [u32; 2] {
    let bytes: [u8; 8] = frame.read(TCP_NUMBERS).unwrap_or_default();
    let [a, b, c, d, e, f, g, h] = bytes;
    [[a, b, c, d], [e, f, g, h]].map(u32::from_be_bytes)
}
