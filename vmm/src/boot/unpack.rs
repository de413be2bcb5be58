//! Unpacks the kernel inside a bzImage.
//!
//! Linux stores the length of what is packed in the payload's last 4 bytes (`scripts/Makefile.lib`, `size_append`), so
//! nothing here grows past what was announced and checked.

use std::io::{self, BufReader, Read};

use ruzstd::decoding::StreamingDecoder;

/// `lz4 -l`: blocks that unpack to 8 MiB each (lz4 `doc/lz4_Frame_format.md`, "Legacy frame").
const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const LZ4_BLOCK: usize = 8 << 20;
/// The longest a block can be when its content does not compress.
const LZ4_PACKED_BLOCK_MAX: usize = LZ4_BLOCK + LZ4_BLOCK / 255 + 16;
/// RFC 1952 §2.3.1, with deflate as the method.
const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 0x08];
/// RFC 8878 §3.1.1.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How a kernel is packed, as far as the host can undo it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// LZ4 legacy frame.
    Lz4,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Why a packed kernel does not unpack.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The unpacker stumbled.
    #[error("its {packing:?} payload does not unpack; the file is damaged, copy or build it again")]
    Damaged {
        /// How it is packed.
        packing: Packing,
        /// What the unpacker says.
        source: io::Error,
    },
    /// The payload ends early or goes on for too long.
    #[error(
        "its payload unpacks to {found} bytes or more where {announced} are announced; the file is damaged, copy or build it again"
    )]
    Length {
        /// What came out.
        found: usize,
        /// What the image says of itself.
        announced: usize,
    },
    /// The host has no memory for it.
    #[error("no memory to unpack {0} bytes of kernel; free some on the host")]
    OutOfMemory(usize),
}

impl Packing {
    /// Recognises a payload by its first bytes. `None` is left to the guest: xz, bzip2, lzma, lzo, or plain.
    #[must_use]
    pub fn detect(start: &[u8]) -> Option<Self> {
        if start.starts_with(&LZ4_LEGACY_MAGIC) {
            Some(Self::Lz4)
        } else if start.starts_with(&GZIP_MAGIC) {
            Some(Self::Gzip)
        } else if start.starts_with(&ZSTD_MAGIC) {
            Some(Self::Zstd)
        } else {
            None
        }
    }

    /// Unpacks `payload`, which is to become exactly `announced` bytes.
    ///
    /// # Errors
    /// [`UnpackError`]: the payload is damaged, or the host is out of memory.
    pub fn unpack(self, payload: impl Read, announced: usize) -> Result<Vec<u8>, UnpackError> {
        let mut unpacked = Vec::new();
        unpacked
            .try_reserve_exact(announced)
            .map_err(|_| UnpackError::OutOfMemory(announced))?;
        self.unpack_into(&mut unpacked, payload, announced)
            .map_err(|source| UnpackError::Damaged {
                packing: self,
                source,
            })?;
        if unpacked.len() != announced {
            return Err(UnpackError::Length {
                found: unpacked.len(),
                announced,
            });
        }
        Ok(unpacked)
    }

    fn unpack_into(self, out: &mut Vec<u8>, payload: impl Read, len: usize) -> io::Result<()> {
        let payload = BufReader::with_capacity(256 << 10, payload);
        match self {
            Self::Lz4 => unpack_lz4(out, payload, len),
            Self::Gzip => fill(out, flate2::bufread::GzDecoder::new(payload), len),
            Self::Zstd => {
                let decoder = StreamingDecoder::new(payload).map_err(io::Error::other)?;
                fill(out, decoder, len)
            }
        }
    }
}

/// Reads up to `len` bytes, and one more if there is one, so that the caller sees the excess.
fn fill(out: &mut Vec<u8>, from: impl Read, len: usize) -> io::Result<()> {
    let most = u64::try_from(len).unwrap_or(u64::MAX).saturating_add(1);
    from.take(most).read_to_end(out).map(drop)
}

/// Blocks of a length and as many bytes, up to the end; the magic may come again between them.
fn unpack_lz4(out: &mut Vec<u8>, mut payload: impl Read, len: usize) -> io::Result<()> {
    let mut block = Vec::new();
    let mut head = [0; 4];
    payload.read_exact(&mut head)?;
    while read_head(&mut payload, &mut head)? {
        if head == LZ4_LEGACY_MAGIC {
            continue;
        }
        let packed = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
        if packed > LZ4_PACKED_BLOCK_MAX {
            return Err(io::Error::other(format!("a block of {packed} bytes")));
        }
        block.resize(packed, 0);
        payload.read_exact(&mut block)?;
        let start = out.len();
        out.resize(len.min(start.saturating_add(LZ4_BLOCK)), 0);
        let unpacked = lz4_flex::block::decompress_into(&block, &mut out[start..])
            .map_err(io::Error::other)?;
        out.truncate(start + unpacked);
    }
    Ok(())
}

/// Fills `head`; `false` at the end of the payload.
fn read_head(payload: &mut impl Read, head: &mut [u8; 4]) -> io::Result<bool> {
    let mut start = Vec::with_capacity(head.len());
    payload.by_ref().take(4).read_to_end(&mut start)?;
    match <[u8; 4]>::try_from(start.as_slice()) {
        Ok(whole) => {
            *head = whole;
            Ok(true)
        }
        Err(_) if start.is_empty() => Ok(false),
        Err(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: &[u8] = b"hello hello hello hello\n";

    /// An LZ4 legacy frame whose blocks hold literals only.
    pub(crate) fn lz4(plain: &[u8]) -> Vec<u8> {
        let mut frame = LZ4_LEGACY_MAGIC.to_vec();
        for piece in plain.chunks(LZ4_BLOCK) {
            let mut block = vec![0xf0];
            let mut rest = piece.len().checked_sub(15).expect("at least 15 bytes");
            while rest >= 255 {
                block.push(255);
                rest -= 255;
            }
            block.push(u8::try_from(rest).unwrap());
            block.extend_from_slice(piece);
            frame.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
            frame.extend_from_slice(&block);
        }
        frame
    }

    /// A gzip member.
    pub(crate) fn gzip(plain: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    /// A Zstandard frame (RFC 8878): no checksum, 8 MiB window, raw blocks of 64 KiB.
    pub(crate) fn zstd(plain: &[u8]) -> Vec<u8> {
        let mut frame = ZSTD_MAGIC.to_vec();
        frame.extend_from_slice(&[0x00, 13 << 3]);
        let last = plain.chunks(1 << 16).count() - 1;
        for (index, piece) in plain.chunks(1 << 16).enumerate() {
            let header = u32::from(index == last) | u32::try_from(piece.len()).unwrap() << 3;
            frame.extend_from_slice(&header.to_le_bytes()[..3]);
            frame.extend_from_slice(piece);
        }
        frame
    }

    fn packed(packing: Packing, plain: &[u8]) -> Vec<u8> {
        match packing {
            Packing::Lz4 => lz4(plain),
            Packing::Gzip => gzip(plain),
            Packing::Zstd => zstd(plain),
        }
    }

    const ALL: [Packing; 3] = [Packing::Lz4, Packing::Gzip, Packing::Zstd];

    #[test]
    fn each_packing_is_recognised_and_undone() {
        let long: Vec<u8> = (0..=u8::MAX).cycle().take(200_001).collect();
        for plain in [PLAIN, &long] {
            for packing in ALL {
                let bytes = packed(packing, plain);
                assert_eq!(Packing::detect(&bytes), Some(packing));
                let unpacked = packing.unpack(bytes.as_slice(), plain.len()).unwrap();
                assert!(unpacked == plain, "{packing:?}");
            }
        }
    }

    #[test]
    fn what_lz4_makes_of_repetition_is_undone() {
        // Token 6 literals, then 17 - 4 bytes from 6 back; the last 5 are literals by the format's rule.
        let mut frame = LZ4_LEGACY_MAGIC.to_vec();
        frame.extend_from_slice(&[16, 0, 0, 0]);
        frame.extend_from_slice(b"\x69hello \x06\x00\x50ello\n");
        frame[4] = u8::try_from(frame.len() - 8).unwrap();
        let unpacked = Packing::Lz4.unpack(frame.as_slice(), 24).unwrap();
        assert_eq!(unpacked, PLAIN);
    }

    #[test]
    fn more_or_less_than_announced_is_refused() {
        for packing in ALL {
            let bytes = packed(packing, PLAIN);
            for announced in [0, PLAIN.len() - 1, PLAIN.len() + 1, 1 << 20] {
                assert!(packing.unpack(bytes.as_slice(), announced).is_err());
            }
        }
    }

    #[test]
    fn a_block_of_absurd_length_is_refused_before_it_is_read() {
        let mut frame = LZ4_LEGACY_MAGIC.to_vec();
        frame.extend_from_slice(&[0xff; 8]);
        let refused = Packing::Lz4.unpack(frame.as_slice(), 100).unwrap_err();
        assert!(matches!(refused, UnpackError::Damaged { .. }));
    }

    #[test]
    fn an_impossible_length_is_an_error_not_an_abort() {
        let refused = Packing::Gzip.unpack(&[][..], usize::MAX).unwrap_err();
        assert!(matches!(refused, UnpackError::OutOfMemory(usize::MAX)));
    }

    #[test]
    fn other_packings_are_left_to_the_guest() {
        for start in [&b"\xfd7zXZ\0"[..], b"BZh9", b"\x89LZO", b"]\0\0", b""] {
            assert_eq!(Packing::detect(start), None);
        }
    }

    proptest! {
        #[test]
        fn damage_never_panics_or_overruns(
            which in 0_usize..3,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            keep in any::<prop::sample::Index>(),
        ) {
            let mut bytes = packed(ALL[which], &PLAIN.repeat(20));
            for (at, value) in changes {
                let len = bytes.len();
                bytes[at.index(len)] = value;
            }
            bytes.truncate(keep.index(bytes.len() + 1));
            let announced = PLAIN.len() * 20;
            if let Ok(unpacked) = ALL[which].unpack(bytes.as_slice(), announced) {
                prop_assert_eq!(unpacked.len(), announced);
            }
        }
    }
}
