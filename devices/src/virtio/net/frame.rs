//! Ethernet frames as they lie in a chain (virtio 1.2 §5.1.6). Knows no tap.
//!
//! ```text
//!  flags u8, gso_type u8, hdr_len u16, gso_size u16, csum_start u16, csum_offset u16, num_buffers u16 | frame
//! ```
//!
//! The header is the one a tap takes and gives when its length is set to 12, so it is not taken apart here:
//! the kernel checks what a guest writes into it, before it believes it.

#![deny(clippy::arithmetic_side_effects)]

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::sys::segments::Segments;

/// `struct virtio_net_hdr_v1`.
pub const HEADER_LEN: usize = 12;
/// Where `num_buffers` is in it.
pub const NUM_BUFFERS_AT: usize = 10;
/// Destination, source, type.
const ETHERNET_LEN: usize = 14;
/// The longest frame with its header (virtio 1.2 §5.1.6.3.1).
pub const MAX_FRAME: usize = 65562;
/// The MTU when nobody says otherwise.
pub const DEFAULT_MTU: u16 = 1500;
/// A VLAN tag, which an MTU does not count.
const VLAN_LEN: usize = 4;

/// A frame that is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// No whole header and Ethernet header; a chain that is itself malformed is empty.
    Short,
    /// Longer than [`MAX_FRAME`].
    Long,
}

/// What the device wants to know of a frame to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes, header included.
    pub len: usize,
    /// Who claims to send it.
    pub source: [u8; 6],
}

/// The start of every frame.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Start {
    header: [u8; HEADER_LEN],
    destination: [u8; 6],
    source: [u8; 6],
    kind: [u8; 2],
}

/// Looks at a frame that a driver wants to send. Consumes nothing.
///
/// # Errors
/// [`Malformed`] when there is no frame in it; the caller counts it and gives it back.
pub fn parse(frame: &Segments) -> Result<Frame, Malformed> {
    if frame.len() > MAX_FRAME {
        return Err(Malformed::Long);
    }
    let mut start = Start::new_zeroed();
    if frame.copy_to(0, start.as_mut_bytes()) < size_of::<Start>() {
        return Err(Malformed::Short);
    }
    Ok(Frame {
        len: frame.len(),
        source: start.source,
    })
}

/// Room for the longest frame that carries `mtu` bytes, header included.
#[must_use]
pub fn max_len(mtu: u16) -> usize {
    usize::from(mtu).saturating_add(HEADER_LEN + ETHERNET_LEN + VLAN_LEN)
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;
    use crate::testing::guest_memory;

    fn frame(parts: &[u32]) -> Segments {
        let mut segments = Segments::new(guest_memory(0x4_0000));
        let mut address = 0x100;
        for len in parts {
            segments.push(GuestAddress(address), *len).unwrap();
            address += 0x1_0000;
        }
        let start: Vec<u8> = (0..26).collect();
        segments.copy_from(0, &start);
        segments
    }

    #[test]
    fn source_is_found_however_the_frame_is_cut() {
        for parts in [&[60][..], &[12, 48], &[1, 59], &[20, 2, 38]] {
            let parsed = parse(&frame(parts)).unwrap();
            assert_eq!(parsed.source, [18, 19, 20, 21, 22, 23]);
            assert_eq!(parsed.len, 60);
        }
    }

    #[test]
    fn length_has_both_limits() {
        assert_eq!(parse(&frame(&[])), Err(Malformed::Short));
        assert_eq!(parse(&frame(&[25])), Err(Malformed::Short));
        assert!(parse(&frame(&[26])).is_ok());
        assert!(parse(&frame(&[65000, 562])).is_ok());
        assert_eq!(parse(&frame(&[65000, 563])), Err(Malformed::Long));
    }
}
