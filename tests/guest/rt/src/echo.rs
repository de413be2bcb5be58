//! Answers for one IPv4 address: ARP requests, ICMP echo requests, and UDP datagrams to port 7.
//!
//! Sources: RFC 826 (ARP), RFC 791 (IPv4), RFC 792 (ICMP), RFC 768 (UDP), RFC 862 (echo).

use crate::boot::BootInfo;
use crate::virtio::net::{Frame, Nic};

const ETHERNET_DESTINATION: usize = 0;
const ETHERNET_SOURCE: usize = 6;
const ETHERNET_TYPE: usize = 12;
const PAYLOAD: usize = 14;
const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const TYPE_ARP: [u8; 2] = [0x08, 0x06];

/// Ethernet and IPv4, request.
const ARP_REQUEST: [u8; 8] = [0, 1, 0x08, 0, 6, 4, 0, 1];
const ARP_OPERATION: usize = PAYLOAD + 6;
const ARP_SENDER_MAC: usize = PAYLOAD + 8;
const ARP_SENDER_IP: usize = PAYLOAD + 14;
const ARP_TARGET_MAC: usize = PAYLOAD + 18;
const ARP_TARGET_IP: usize = PAYLOAD + 24;

const IP_FRAGMENT: usize = PAYLOAD + 6;
const IP_PROTOCOL: usize = PAYLOAD + 9;
const IP_SOURCE: usize = PAYLOAD + 12;
const IP_DESTINATION: usize = PAYLOAD + 16;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_UDP: u8 = 17;

const ICMP_ECHO_REQUEST: u8 = 8;
const ECHO_PORT: [u8; 2] = [0, 7];
const UDP_HEADER_BYTES: usize = 8;

/// What was received, and what of it was answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Frames of any kind.
    pub received: u64,
    /// ARP requests answered.
    pub arp: u64,
    /// ICMP echo requests answered.
    pub icmp: u64,
    /// Datagrams answered.
    pub udp: u64,
    /// Bytes in those datagrams, without headers.
    pub udp_bytes: u64,
    is_asked_to_quit: bool,
}

#[derive(PartialEq, Eq)]
enum Answer {
    /// The frame was turned into its answer.
    Send,
    /// It asks nothing of this kernel.
    None,
}

/// The address that `ip=` gives this kernel. Fails the test if there is none.
pub fn address(boot: &BootInfo) -> [u8; 4] {
    match boot.command_line().value("ip").and_then(parse_ip) {
        Some(ip) => ip,
        None => crate::fail!("the command line has no ip=<a.b.c.d>"),
    }
}

/// Answers for `ip` until a datagram with the text `quit`, which is answered too.
pub fn answer_until_quit(nic: &mut Nic, ip: [u8; 4]) -> Counters {
    let mut counters = Counters::default();
    while !counters.is_asked_to_quit {
        let mut frame = nic.receive();
        counters.received += 1;
        // A frame too short for its fields asks nothing.
        match answer(&mut frame, nic.mac, ip, &mut counters).unwrap_or(Answer::None) {
            Answer::Send => nic.transmit(frame),
            Answer::None => nic.give_back(frame),
        }
    }
    nic.drain();
    counters
}

/// Turns a request into its answer, in place.
fn answer(frame: &mut Frame, mac: [u8; 6], ip: [u8; 4], counters: &mut Counters) -> Option<Answer> {
    let asks = match frame.read(ETHERNET_TYPE)? {
        TYPE_ARP => answer_arp(frame, mac, ip, counters)?,
        TYPE_IPV4 => answer_ip(frame, ip, counters)?,
        _ => Answer::None,
    };
    if asks == Answer::Send {
        let source: [u8; 6] = frame.read(ETHERNET_SOURCE)?;
        frame.write(ETHERNET_DESTINATION, &source);
        frame.write(ETHERNET_SOURCE, &mac);
    }
    Some(asks)
}

fn answer_arp(
    frame: &mut Frame,
    mac: [u8; 6],
    ip: [u8; 4],
    counters: &mut Counters,
) -> Option<Answer> {
    if frame.read(PAYLOAD)? != ARP_REQUEST || frame.read(ARP_TARGET_IP)? != ip {
        return Some(Answer::None);
    }
    let asker: [u8; 10] = frame.read(ARP_SENDER_MAC)?;
    frame.write(ARP_OPERATION, &[0, 2]);
    frame.write(ARP_SENDER_MAC, &mac);
    frame.write(ARP_SENDER_IP, &ip);
    frame.write(ARP_TARGET_MAC, &asker);
    counters.arp += 1;
    Some(Answer::Send)
}

fn answer_ip(frame: &mut Frame, ip: [u8; 4], counters: &mut Counters) -> Option<Answer> {
    let [version_and_len] = frame.read(PAYLOAD)?;
    let [high, low] = frame.read(PAYLOAD + 2)?;
    let total_len = usize::from(u16::from_be_bytes([high, low]));
    let [flags, offset] = frame.read(IP_FRAGMENT)?;
    let is_fragment = flags & 0x3f != 0 || offset != 0;
    if version_and_len >> 4 != 4 || is_fragment || frame.read(IP_DESTINATION)? != ip {
        return Some(Answer::None);
    }
    let inner = PAYLOAD + usize::from(version_and_len & 0xf) * 4;
    let end = PAYLOAD + total_len;
    if end > frame.len() {
        return Some(Answer::None);
    }
    let [protocol] = frame.read(IP_PROTOCOL)?;
    let answer = match protocol {
        PROTOCOL_ICMP => answer_icmp(frame, inner, counters)?,
        PROTOCOL_UDP => answer_udp(frame, inner, end, counters)?,
        _ => Answer::None,
    };
    if answer == Answer::Send {
        // The header's checksum is a sum: it does not see the two addresses change places.
        let source: [u8; 4] = frame.read(IP_SOURCE)?;
        frame.write(IP_DESTINATION, &source);
        frame.write(IP_SOURCE, &ip);
    }
    Some(answer)
}

fn answer_icmp(frame: &mut Frame, icmp: usize, counters: &mut Counters) -> Option<Answer> {
    let [kind, code, high, low] = frame.read(icmp)?;
    if kind != ICMP_ECHO_REQUEST || code != 0 {
        return Some(Answer::None);
    }
    // Type 8 becomes 0, so the complement of the sum grows by as much (RFC 1624).
    let (sum, has_carry) = u16::from_be_bytes([high, low]).overflowing_add(0x0800);
    let [high, low] = (sum + u16::from(has_carry)).to_be_bytes();
    frame.write(icmp, &[0, 0, high, low]);
    counters.icmp += 1;
    Some(Answer::Send)
}

fn answer_udp(
    frame: &mut Frame,
    udp: usize,
    end: usize,
    counters: &mut Counters,
) -> Option<Answer> {
    let source: [u8; 2] = frame.read(udp)?;
    let destination: [u8; 2] = frame.read(udp + 2)?;
    let text = udp + UDP_HEADER_BYTES;
    if destination != ECHO_PORT || end < text {
        return Some(Answer::None);
    }
    // Nor does the checksum of the datagram see addresses and ports change places.
    frame.write(udp, &destination);
    frame.write(udp + 2, &source);
    counters.udp += 1;
    counters.udp_bytes += (end - text) as u64;
    counters.is_asked_to_quit = end - text == 4 && frame.read(text)? == *b"quit";
    Some(Answer::Send)
}

fn parse_ip(text: &str) -> Option<[u8; 4]> {
    let mut ip = [0; 4];
    let mut fields = text.split('.');
    for byte in &mut ip {
        *byte = fields.next()?.parse().ok()?;
    }
    fields.next().is_none().then_some(ip)
}
