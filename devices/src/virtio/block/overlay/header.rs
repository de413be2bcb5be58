//! The first sector of an overlay: what it is, and over what.
//!
//! ```text
//!  0 magic | 8 version | 12 state | 16 block_len | 20 base_kind | 24 disk_len | 32 base_mtime_s
//!  40 base_mtime_ns | 44 zero | 48 id | 64 base_id | 80 base_name | 336 zero | 508 checksum
//! ```
//!
//! Numbers are little-endian. The checksum is the CRC-32 of IEEE 802.3 over all before it. The rest of the first page
//! is zero. A disk writes a sector whole or not at all, so a state follows another with nothing between.

#![deny(clippy::arithmetic_side_effects)]

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::OverlayError;
use super::layout::Layout;

/// Bytes of the header.
pub(super) const HEADER_LEN: usize = 512;
/// Bytes before the bitmap: the header, and zeros.
pub(super) const HEADER_PAGE: usize = 4096;

const MAGIC: [u8; 8] = *b"\x8aCLOVL\r\n";
/// The one that this build reads and makes.
pub(super) const VERSION: u32 = 2;
const STATE_BEING_MADE: u32 = 0;
const STATE_OPEN: u32 = 1;
const STATE_SEALED: u32 = 2;
const KIND_FILE: u32 = 0;
const KIND_DEVICE: u32 = 1;
const KIND_OVERLAY: u32 = 2;
const NAME_LEN: usize = 256;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: [u8; 4],
    state: [u8; 4],
    block_len: [u8; 4],
    base_kind: [u8; 4],
    disk_len: [u8; 8],
    base_mtime_s: [u8; 8],
    base_mtime_ns: [u8; 4],
    zero: [u8; 4],
    id: [u8; 16],
    base_id: [u8; 16],
    base_name: [u8; NAME_LEN],
    reserved: [u8; HEADER_LEN - 340],
    checksum: [u8; 4],
}

const _: () = assert!(size_of::<Raw>() == HEADER_LEN);

/// An overlay, as its header states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) state: State,
    pub(super) layout: Layout,
    /// Random; overlays over this one name it.
    pub(super) id: [u8; 16],
    pub(super) base: Base,
    /// The base's file name when the overlay was made, for messages alone.
    pub(super) base_name: String,
}

/// How far an overlay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Left by a monitor that ended while it made the file: no guest used it.
    BeingMade,
    /// One drive writes to it.
    Open,
    /// Nobody writes to it any more, and any number of drives read it.
    Sealed,
}

/// What an overlay knows that which is below it by, besides its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// A regular file, and when it was last changed.
    File {
        /// Seconds since 1970.
        mtime_s: i64,
        /// Nanoseconds on top.
        mtime_ns: u32,
    },
    /// A block device of the host, which tells of no change.
    Device,
    /// A sealed overlay.
    Overlay {
        /// Its own.
        id: [u8; 16],
        /// When its file was last changed: as it was sealed. Seconds since 1970.
        mtime_s: i64,
        /// Nanoseconds on top.
        mtime_ns: u32,
    },
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let (kind, base_id, mtime_s, mtime_ns) = match self.base {
            Base::File { mtime_s, mtime_ns } => (KIND_FILE, [0; 16], mtime_s, mtime_ns),
            Base::Device => (KIND_DEVICE, [0; 16], 0, 0),
            Base::Overlay {
                id,
                mtime_s,
                mtime_ns,
            } => (KIND_OVERLAY, id, mtime_s, mtime_ns),
        };
        let state = match self.state {
            State::BeingMade => STATE_BEING_MADE,
            State::Open => STATE_OPEN,
            State::Sealed => STATE_SEALED,
        };
        let mut raw = Raw {
            magic: MAGIC,
            version: VERSION.to_le_bytes(),
            state: state.to_le_bytes(),
            block_len: self.layout.block_len().to_le_bytes(),
            base_kind: kind.to_le_bytes(),
            disk_len: self.layout.disk_len().to_le_bytes(),
            base_mtime_s: mtime_s.to_le_bytes(),
            base_mtime_ns: mtime_ns.to_le_bytes(),
            id: self.id,
            base_id,
            ..Raw::new_zeroed()
        };
        for (byte, character) in raw.base_name.iter_mut().zip(self.base_name.bytes()) {
            *byte = character;
        }
        raw.checksum = checksum(&raw).to_le_bytes();
        zerocopy::transmute!(raw)
    }

    /// What a file's first page says; every byte of it may be hostile.
    pub(super) fn decode(page: &[u8; HEADER_PAGE]) -> Result<Self, OverlayError> {
        let (header, rest) = page
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(OverlayError::Unknown)?;
        let raw: Raw = zerocopy::transmute!(*header);
        if raw.magic != MAGIC {
            return Err(OverlayError::Unknown);
        }
        // The version stands where it stands in every version; what follows it may not.
        let version = u32::from_le_bytes(raw.version);
        if version != VERSION {
            return Err(OverlayError::Version(version));
        }
        if u32::from_le_bytes(raw.checksum) != checksum(&raw) {
            return Err(OverlayError::Damaged("its checksum does not match"));
        }
        if rest.iter().any(|byte| *byte != 0) {
            return Err(OverlayError::Damaged(
                "there is something behind its header",
            ));
        }
        let state = match u32::from_le_bytes(raw.state) {
            STATE_BEING_MADE => State::BeingMade,
            STATE_OPEN => State::Open,
            STATE_SEALED => State::Sealed,
            _ => return Err(OverlayError::Damaged("its state is none there is")),
        };
        let mtime_s = i64::from_le_bytes(raw.base_mtime_s);
        let mtime_ns = u32::from_le_bytes(raw.base_mtime_ns);
        let base = match u32::from_le_bytes(raw.base_kind) {
            KIND_FILE => Base::File { mtime_s, mtime_ns },
            KIND_DEVICE => Base::Device,
            KIND_OVERLAY => Base::Overlay {
                id: raw.base_id,
                mtime_s,
                mtime_ns,
            },
            _ => return Err(OverlayError::Damaged("its base is of no kind there is")),
        };
        let block_len = u32::from_le_bytes(raw.block_len);
        let disk_len = u64::from_le_bytes(raw.disk_len);
        let layout = Layout::checked(disk_len, block_len)
            .ok_or(OverlayError::Damaged("its lengths are impossible"))?;
        let name = raw.base_name.split(|byte| *byte == 0).next();
        Ok(Self {
            state,
            layout,
            id: raw.id,
            base,
            base_name: String::from_utf8_lossy(name.unwrap_or_default()).into_owned(),
        })
    }
}

/// CRC-32 of all but the checksum itself; once per open, so a bit at a time.
fn checksum(raw: &Raw) -> u32 {
    let bytes = raw.as_bytes();
    let end = bytes.len().saturating_sub(4);
    let crc = bytes.iter().take(end).fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    });
    !crc
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header {
            state: State::Open,
            layout: Layout::of(1 << 30).unwrap(),
            id: [7; 16],
            base: Base::File {
                mtime_s: 1_700_000_000,
                mtime_ns: 999_999_999,
            },
            base_name: "root fs.ext4".to_owned(),
        }
    }

    /// The first page of a file with this header.
    fn page(header: [u8; HEADER_LEN]) -> [u8; HEADER_PAGE] {
        let mut page = [0; HEADER_PAGE];
        page[..HEADER_LEN].copy_from_slice(&header);
        page
    }

    /// A page with `bytes` at `at` of the header and a checksum that fits.
    fn forged(at: usize, bytes: &[u8]) -> [u8; HEADER_PAGE] {
        let mut forged = header().encode();
        forged[at..at + bytes.len()].copy_from_slice(bytes);
        let sum = checksum(&zerocopy::transmute!(forged));
        forged[HEADER_LEN - 4..].copy_from_slice(&sum.to_le_bytes());
        page(forged)
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let overlay = Base::Overlay {
            id: [9; 16],
            mtime_s: -1,
            mtime_ns: 1,
        };
        for base in [header().base, Base::Device, overlay] {
            for state in [State::BeingMade, State::Open, State::Sealed] {
                let header = Header {
                    base,
                    state,
                    ..header()
                };
                assert_eq!(Header::decode(&page(header.encode())).unwrap(), header);
            }
        }
    }

    #[test]
    fn checksum_is_the_crc_32_of_ieee_802_3() {
        // From zlib: `python3 -c 'import zlib; print(hex(zlib.crc32(bytes(508))))'`.
        assert_eq!(checksum(&Raw::new_zeroed()), 0x0fbb_6d54);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = page(header().encode());
        for bit in 0..HEADER_PAGE * 8 {
            let mut damaged = good;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn hostile_fields_are_refused_by_name() {
        let cases: &[(usize, &[u8], &str)] = &[
            (0, b"QFI\xfb", "not an overlay"),
            (8, &[1], "version 1"),
            (12, &[3], "state"),
            (16, &[0, 0, 0, 0], "lengths"),
            (16, &[1], "lengths"),
            (16, &[0xff; 4], "lengths"),
            (20, &[3], "kind"),
            (24, &[0xff; 8], "lengths"),
            (24, &[1], "lengths"),
        ];
        for (at, bytes, words) in cases {
            let error = Header::decode(&forged(*at, bytes)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_decoded_or_refused(at in 0..HEADER_LEN - 68, bytes: [u8; 64]) {
            let _ = Header::decode(&forged(at, &bytes));
        }
    }
}
