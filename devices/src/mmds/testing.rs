//! Frames as a guest sends them, for tests and fuzz targets.

use std::net::Ipv4Addr;

use super::packet::{MAC, flags};

/// The guest's hardware address.
pub const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The guest's address.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
/// The service's.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// A segment's numbers.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// From and to which port.
    pub ports: (u16, u16),
    /// Sequence and acknowledgement.
    pub numbers: (u32, u32),
    /// [`flags`].
    pub flags: u8,
    /// What the guest takes.
    pub window: u16,
}

/// A frame with a segment of the guest. What follows the header of a SYN is an option of four bytes, or nothing.
///
/// # Panics
/// When it is too long for a packet.
#[must_use]
pub fn segment(header: &Header, rest: &[u8]) -> Vec<u8> {
    let has_option = header.flags & flags::SYN != 0 && rest.len() == 4;
    let words = if has_option { 6 } else { 5 };
    let total = u16::try_from(40 + rest.len()).expect("no packet is longer");
    let total = total.to_be_bytes();
    let mut frame = [MAC, GUEST_MAC].concat();
    frame.extend([
        8, 0, 0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6, 0, 0,
    ]);
    frame.extend(GUEST.octets());
    frame.extend(ADDRESS.octets());
    frame.extend(header.ports.0.to_be_bytes());
    frame.extend(header.ports.1.to_be_bytes());
    frame.extend(header.numbers.0.to_be_bytes());
    frame.extend(header.numbers.1.to_be_bytes());
    frame.extend([words << 4, header.flags]);
    frame.extend(header.window.to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(rest);
    frame
}

/// A frame in which the guest asks who has `address`.
#[must_use]
pub fn arp_request(address: Ipv4Addr) -> Vec<u8> {
    let mut frame = [[0xff; 6], GUEST_MAC].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(GUEST_MAC);
    frame.extend(GUEST.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}
