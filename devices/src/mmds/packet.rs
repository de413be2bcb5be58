//! Ethernet, ARP, IPv4 and TCP as bytes (IEEE 802.3, RFC 826, RFC 791, RFC 9293 §3.1). Knows no connection.
//!
//! ```text
//!  destination 6, source 6, type 2 | ARP 28
//!                                  | IPv4 20.. | TCP 20.. | data
//! ```
//!
//! Checksums of what a guest sends are not looked at: there is no wire on the way, and a driver may leave them to the
//! device (VIRTIO_NET_F_CSUM). Those of answers are there.

#![deny(clippy::arithmetic_side_effects)]

use std::net::Ipv4Addr;

/// The service's hardware address.
pub const MAC: [u8; 6] = [0x06, 0x01, 0x23, 0x45, 0x67, 0x01];
/// Where the service listens.
pub const PORT: u16 = 80;
/// The longest part of a stream in one frame.
pub const MAX_SEGMENT: usize = 1460;
/// The longest frame that the service sends.
pub const MAX_ANSWER: usize = DATA_AT + MAX_SEGMENT;
/// What [`Kind::of`] looks at.
pub const START_LEN: usize = 42;

const ETHERNET_LEN: usize = 14;
const IP_LEN: usize = 20;
const TCP_LEN: usize = 20;
const TCP_AT: usize = ETHERNET_LEN + IP_LEN;
const DATA_AT: usize = TCP_AT + TCP_LEN;
/// The option that says how long a segment may be: kind 2, length 4, value (RFC 9293 §3.2).
const MSS_OPTION_LEN: usize = 4;

const TYPE_AT: usize = 12;
const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const TYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Ethernet and IPv4 addresses.
const ARP_KIND: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
const ARP_REQUEST: [u8; 2] = [0, 1];
const ARP_ANSWER: [u8; 2] = [0, 2];
const ARP_LEN: usize = ETHERNET_LEN + 28;
const PROTOCOL_TCP: u8 = 6;

/// Bits of a segment (RFC 9293 §3.1).
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 1 << 1;
    /// Reset the connection.
    pub const RST: u8 = 1 << 2;
    /// Hand the data over.
    pub const PSH: u8 = 1 << 3;
    /// The acknowledgement number means something.
    pub const ACK: u8 = 1 << 4;
}

/// What a frame is, if it is for the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ARP for its address.
    Arp,
    /// IPv4 to its address.
    Ip,
}

/// A frame for the service that breaks a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// Lengths that contradict each other, or a part of a packet.
    Malformed,
    /// Nothing that the service speaks.
    Unknown,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Address.
    pub ip: Ipv4Addr,
    /// Port.
    pub port: u16,
}

/// A segment that a guest sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Who sent it.
    pub from: Peer,
    /// To which port.
    pub port: u16,
    /// Sequence number of its first byte.
    pub sequence: u32,
    /// The next byte that its sender expects.
    pub acknowledgement: u32,
    /// [`flags`].
    pub flags: u8,
    /// Bytes from there on that its sender takes.
    pub window: u16,
    /// The longest segment that its sender takes, if it says so.
    pub max_segment: Option<u16>,
    /// The start of its data.
    pub data: &'a [u8],
    /// Bytes of its data: more than there are in `data` when the frame was longer than it was copied.
    pub data_len: usize,
}

/// A segment to send.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// To whom.
    pub to: Peer,
    /// From which port.
    pub port: u16,
    /// Sequence number of its first byte.
    pub sequence: u32,
    /// The next byte that is expected.
    pub acknowledgement: u32,
    /// [`flags`].
    pub flags: u8,
    /// Bytes from there on that are taken.
    pub window: u16,
    /// The longest segment that is taken, in a SYN.
    pub max_segment: Option<u16>,
    /// At most [`MAX_SEGMENT`] bytes.
    pub data: &'a [u8],
}

impl Kind {
    /// What the frame that starts with `start` is to the service at `address`; `None` when it is for somebody else.
    #[must_use]
    pub fn of(start: &[u8], address: Ipv4Addr) -> Option<Self> {
        let target = |at| array(start, at) == Some(address.octets());
        match array(start, TYPE_AT)? {
            TYPE_ARP if array(start, ETHERNET_LEN) == Some(ARP_KIND) && target(38) => {
                Some(Self::Arp)
            }
            TYPE_IPV4 if target(30) => Some(Self::Ip),
            _ => None,
        }
    }
}

/// Who asks for the service's hardware address in `frame`.
///
/// # Errors
/// When nobody does.
pub fn parse_arp(frame: &[u8]) -> Result<Peer, Odd> {
    let operation = array(frame, 20).ok_or(Odd::Malformed)?;
    if operation != ARP_REQUEST {
        return Err(Odd::Unknown);
    }
    Ok(Peer {
        mac: array(frame, 22).ok_or(Odd::Malformed)?,
        ip: array(frame, 28).map(Ipv4Addr::from).ok_or(Odd::Malformed)?,
        port: 0,
    })
}

/// The segment in `frame`, the start of a frame of `len` bytes.
///
/// # Errors
/// When there is none, or only a part of one.
pub fn parse_segment(frame: &[u8], len: usize) -> Result<Segment<'_>, Odd> {
    let odd = Odd::Malformed;
    let [version_and_len] = array(frame, ETHERNET_LEN).ok_or(odd)?;
    let ip_len = usize::from(version_and_len & 0xf).saturating_mul(4);
    let total = usize::from(half(frame, 16).ok_or(odd)?);
    // All but the bit that forbids to cut it: a part of a packet.
    let is_part = half(frame, 20).ok_or(odd)? & 0xbfff != 0;
    let is_there = total <= len.saturating_sub(ETHERNET_LEN);
    if version_and_len >> 4 != 4 || ip_len < IP_LEN || is_part || !is_there {
        return Err(odd);
    }
    if array(frame, 23) != Some([PROTOCOL_TCP]) {
        return Err(Odd::Unknown);
    }
    let tcp_at = ETHERNET_LEN.saturating_add(ip_len);
    let tcp = frame.get(tcp_at..).ok_or(odd)?;
    let [len_byte, flags] = array(tcp, 12).ok_or(odd)?;
    let tcp_len = usize::from(len_byte >> 4).saturating_mul(4);
    let headers = ip_len.saturating_add(tcp_len);
    let data_len = total.checked_sub(headers).ok_or(odd)?;
    let options = tcp.get(TCP_LEN..tcp_len).ok_or(odd)?;
    let data = tcp.get(tcp_len..).unwrap_or_default();
    let max_segment = if flags & flags::SYN != 0 {
        max_segment(options)
    } else {
        None
    };
    Ok(Segment {
        from: Peer {
            mac: array(frame, 6).ok_or(odd)?,
            ip: array(frame, 26).map(Ipv4Addr::from).ok_or(odd)?,
            port: half(tcp, 0).ok_or(odd)?,
        },
        port: half(tcp, 2).ok_or(odd)?,
        sequence: array(tcp, 4).map(u32::from_be_bytes).ok_or(odd)?,
        acknowledgement: array(tcp, 8).map(u32::from_be_bytes).ok_or(odd)?,
        flags,
        window: half(tcp, 14).ok_or(odd)?,
        max_segment,
        // A short frame has a tail that belongs to nobody.
        data: data.get(..data_len).unwrap_or(data),
        data_len,
    })
}

/// What the options of a SYN say of long segments.
fn max_segment(mut options: &[u8]) -> Option<u16> {
    loop {
        match *options {
            [0, ..] | [] => return None,
            [1, ref rest @ ..] => options = rest,
            [2, 4, high, low, ..] => return Some(u16::from_be_bytes([high, low])),
            [_, len, ..] if len >= 2 => options = options.get(usize::from(len)..)?,
            _ => return None,
        }
    }
}

/// Writes the answer to `asker`: who has `address`. Gives the frame's length.
pub fn write_arp(asker: &Peer, address: Ipv4Addr, into: &mut [u8; MAX_ANSWER]) -> usize {
    put(into, 0, &asker.mac);
    put(into, 6, &MAC);
    put(into, TYPE_AT, &TYPE_ARP);
    put(into, ETHERNET_LEN, &ARP_KIND);
    put(into, 20, &ARP_ANSWER);
    put(into, 22, &MAC);
    put(into, 28, &address.octets());
    put(into, 32, &asker.mac);
    put(into, 38, &asker.ip.octets());
    ARP_LEN
}

/// Writes `segment` from `address`. Gives the frame's length.
pub fn write_segment(
    segment: &Outgoing<'_>,
    address: Ipv4Addr,
    into: &mut [u8; MAX_ANSWER],
) -> usize {
    let options_len = segment.max_segment.map_or(0, |_| MSS_OPTION_LEN);
    let tcp_len = TCP_LEN.saturating_add(options_len);
    let data = segment.data.get(..MAX_SEGMENT).unwrap_or(segment.data);
    let tcp_total = tcp_len.saturating_add(data.len());
    let total = IP_LEN.saturating_add(tcp_total);

    put(into, 0, &segment.to.mac);
    put(into, 6, &MAC);
    put(into, TYPE_AT, &TYPE_IPV4);

    // IPv4: no options, not to be cut, one hop, no checksum yet.
    let [high, low] = u16::try_from(total).unwrap_or(u16::MAX).to_be_bytes();
    let fixed = [0x45, 0, high, low, 0, 0, 0x40, 0, 1, PROTOCOL_TCP, 0, 0];
    put(into, ETHERNET_LEN, &fixed);
    put(into, 26, &address.octets());
    put(into, 30, &segment.to.ip.octets());
    let sum = checksum([into.get(ETHERNET_LEN..TCP_AT).unwrap_or_default()]);
    put(into, 24, &sum);

    // TCP, no checksum yet.
    put(into, TCP_AT, &segment.port.to_be_bytes());
    put(into, 36, &segment.to.port.to_be_bytes());
    put(into, 38, &segment.sequence.to_be_bytes());
    put(into, 42, &segment.acknowledgement.to_be_bytes());
    let words = if options_len > 0 { 6 } else { 5 };
    put(into, 46, &[words << 4, segment.flags]);
    put(into, 48, &segment.window.to_be_bytes());
    put(into, 50, &[0; 4]);
    if let Some(max) = segment.max_segment {
        let [high, low] = max.to_be_bytes();
        put(into, DATA_AT, &[2, 4, high, low]);
    }
    let data_at = TCP_AT.saturating_add(tcp_len);
    put(into, data_at, data);
    let len = ETHERNET_LEN.saturating_add(total);
    let tcp_total = u16::try_from(tcp_total).unwrap_or(u16::MAX).to_be_bytes();
    let sum = checksum([
        into.get(26..TCP_AT).unwrap_or_default(),
        &[0, PROTOCOL_TCP],
        &tcp_total,
        into.get(TCP_AT..len).unwrap_or_default(),
    ]);
    put(into, 50, &sum);
    len
}

/// The Internet checksum over `parts`, each but the last of even length (RFC 1071).
fn checksum<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 2] {
    let mut sum = 0_u32;
    for part in parts {
        let (pairs, rest) = part.as_chunks::<2>();
        let pairs = pairs.iter().map(|pair| u16::from_be_bytes(*pair));
        let last = rest.first().map(|byte| u16::from_be_bytes([*byte, 0]));
        for half in pairs.chain(last) {
            // A frame has too few halves to overflow this.
            sum = sum.wrapping_add(half.into());
        }
    }
    let folded = (sum >> 16).wrapping_add(sum & 0xffff);
    let folded = (folded >> 16).wrapping_add(folded & 0xffff);
    let [_, _, high, low] = folded.to_be_bytes();
    [!high, !low]
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Copies `bytes` to `at`; every frame has room for what it is made of.
fn put(into: &mut [u8; MAX_ANSWER], at: usize, bytes: &[u8]) {
    let rest = into.get_mut(at..);
    if let Some(place) = rest.and_then(|rest| rest.get_mut(..bytes.len())) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests;
