//! Unpacks the kernel inside a bzImage, as a stream.
//!
//! LZ4 and gzip are undone here because that is as fast as the guest's own unpacker or faster. The others are slower in
//! pure Rust than in the guest (Zstandard by three times, measured on a 53 MB kernel), so the guest keeps them.

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;

/// `lz4 -l`: blocks that unpack to 8 MiB each (lz4 `doc/lz4_Frame_format.md`, "Legacy frame").
const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const LZ4_BLOCK: usize = 8 << 20;
/// The longest a block can be when its content does not compress.
const LZ4_PACKED_BLOCK_MAX: usize = LZ4_BLOCK + LZ4_BLOCK / 255 + 16;
/// RFC 1952 §2.3.1, with deflate as the method.
const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 0x08];
const BUFFER: usize = 256 << 10;

/// How a kernel is packed, where the host undoes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// LZ4 legacy frame.
    Lz4,
    /// gzip.
    Gzip,
}

impl Packing {
    /// Recognises a payload by its first bytes. `None` is left to the guest: Zstandard, xz, bzip2, lzma, lzo, or plain.
    #[must_use]
    pub fn detect(start: &[u8]) -> Option<Self> {
        if start.starts_with(&LZ4_LEGACY_MAGIC) {
            Some(Self::Lz4)
        } else if start.starts_with(&GZIP_MAGIC) {
            Some(Self::Gzip)
        } else {
            None
        }
    }

    /// What `payload` unpacks to. Takes a fixed amount of memory, whatever the payload says.
    ///
    /// Reading fails with [`io::ErrorKind::InvalidData`] or [`io::ErrorKind::UnexpectedEof`] when it is damaged.
    pub fn unpack<'a>(self, payload: impl Read + 'a) -> Box<dyn BufRead + 'a> {
        let payload = BufReader::with_capacity(BUFFER, payload);
        match self {
            Self::Lz4 => Box::new(Lz4Blocks::new(payload)),
            Self::Gzip => {
                let unpacker = flate2::bufread::GzDecoder::new(payload);
                Box::new(BufReader::with_capacity(BUFFER, unpacker))
            }
        }
    }
}

/// An LZ4 legacy frame: the magic, then blocks of a length and as many bytes, to the end. The magic may come again
/// between blocks, where frames were joined.
struct Lz4Blocks<R> {
    payload: R,
    packed: Vec<u8>,
    unpacked: Vec<u8>,
    /// What of `unpacked` has not been consumed.
    left: Range<usize>,
}

impl<R: Read> Lz4Blocks<R> {
    fn new(payload: R) -> Self {
        Self {
            payload,
            packed: Vec::new(),
            unpacked: vec![0; LZ4_BLOCK],
            left: 0..0,
        }
    }

    /// Unpacks the next block; `false` at the end.
    fn next_block(&mut self) -> io::Result<bool> {
        let Some(head) = self.read_head()? else {
            return Ok(false);
        };
        if head == LZ4_LEGACY_MAGIC {
            return Ok(true);
        }
        let len = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
        if len > LZ4_PACKED_BLOCK_MAX {
            return Err(invalid(format!("an LZ4 block of {len} bytes")));
        }
        self.packed.resize(len, 0);
        self.payload.read_exact(&mut self.packed)?;
        let len =
            lz4_flex::block::decompress_into(&self.packed, &mut self.unpacked).map_err(invalid)?;
        self.left = 0..len;
        Ok(true)
    }

    /// The next 4 bytes; `None` at the end.
    fn read_head(&mut self) -> io::Result<Option<[u8; 4]>> {
        let mut head = Vec::with_capacity(4);
        self.payload.by_ref().take(4).read_to_end(&mut head)?;
        if head.is_empty() {
            return Ok(None);
        }
        let head = <[u8; 4]>::try_from(head).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        Ok(Some(head))
    }
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl<R: Read> BufRead for Lz4Blocks<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.left.is_empty() && self.next_block()? {}
        Ok(&self.unpacked[self.left.clone()])
    }

    fn consume(&mut self, len: usize) {
        self.left.start = self.left.end.min(self.left.start + len);
    }
}

impl<R: Read> Read for Lz4Blocks<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(into)?;
        self.consume(len);
        Ok(len)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    const PLAIN: &[u8] = b"hello hello hello hello\n";
    const ALL: [Packing; 2] = [Packing::Lz4, Packing::Gzip];

    /// An LZ4 legacy frame whose blocks hold literals only; each of at least 15 bytes.
    pub(crate) fn lz4(plain: &[u8]) -> Vec<u8> {
        let mut frame = LZ4_LEGACY_MAGIC.to_vec();
        for piece in plain.chunks(LZ4_BLOCK) {
            let mut block = vec![0xf0];
            let mut rest = piece.len() - 15;
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
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(plain).unwrap();
        packer.finish().unwrap()
    }

    fn pack(packing: Packing, plain: &[u8]) -> Vec<u8> {
        match packing {
            Packing::Lz4 => lz4(plain),
            Packing::Gzip => gzip(plain),
        }
    }

    fn unpack(packing: Packing, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut unpacked = Vec::new();
        packing.unpack(bytes).read_to_end(&mut unpacked)?;
        Ok(unpacked)
    }

    #[test]
    fn each_packing_is_recognised_and_undone() {
        let long: Vec<u8> = (0..=u8::MAX).cycle().take(LZ4_BLOCK + 5001).collect();
        for plain in [PLAIN, &long] {
            for packing in ALL {
                let bytes = pack(packing, plain);
                assert_eq!(Packing::detect(&bytes), Some(packing));
                assert!(unpack(packing, &bytes).unwrap() == plain, "{packing:?}");
            }
        }
    }

    #[test]
    fn what_lz4_makes_of_repetition_is_undone() {
        // 6 literals, 13 bytes from 6 back, then 5 literals: the format ends on those.
        let mut frame = LZ4_LEGACY_MAGIC.to_vec();
        let block = b"\x69hello \x06\x00\x50ello\n";
        frame.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
        frame.extend_from_slice(block);
        assert_eq!(unpack(Packing::Lz4, &frame).unwrap(), PLAIN);
    }

    #[test]
    fn joined_lz4_frames_are_one_stream() {
        let frames = [lz4(PLAIN), lz4(PLAIN)].concat();
        assert_eq!(unpack(Packing::Lz4, &frames).unwrap(), PLAIN.repeat(2));
    }

    #[test]
    fn a_block_of_absurd_length_is_refused_before_it_is_read() {
        let mut frame = LZ4_LEGACY_MAGIC.to_vec();
        frame.extend_from_slice(&[0xff; 8]);
        let refused = unpack(Packing::Lz4, &frame).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_payload_that_ends_early_is_refused() {
        for packing in ALL {
            let bytes = pack(packing, PLAIN);
            assert!(unpack(packing, &bytes[..bytes.len() - 3]).is_err());
        }
    }

    #[test]
    fn other_packings_are_left_to_the_guest() {
        let zstd = &b"\x28\xb5\x2f\xfd"[..];
        for start in [zstd, b"\xfd7zXZ\0", b"BZh9", b"\x89LZO", b"]\0\0", b""] {
            assert_eq!(Packing::detect(start), None);
        }
    }

    proptest! {
        #[test]
        fn damage_never_panics_or_overruns(
            which in 0_usize..2,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            keep in any::<prop::sample::Index>(),
        ) {
            let mut bytes = pack(ALL[which], &PLAIN.repeat(20));
            for (at, value) in changes {
                let len = bytes.len();
                bytes[at.index(len)] = value;
            }
            bytes.truncate(keep.index(bytes.len() + 1));
            let mut unpacked = Vec::new();
            let _ = ALL[which].unpack(&bytes[..]).take(1 << 20).read_to_end(&mut unpacked);
        }
    }
}
