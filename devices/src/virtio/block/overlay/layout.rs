//! Where things lie in an overlay file.
//!
//! ```text
//!  0        4096                     data_at
//!  | header | bitmap, one bit a block | data: byte n of the disk is byte data_at + n |
//! ```

#![deny(clippy::arithmetic_side_effects)]

use super::blocks::PAGE_LEN;
use super::header::HEADER_PAGE;

/// The smallest block, bytes: a page of the guest, which then writes whole blocks.
const MIN_BLOCK_LEN: u32 = 4096;
/// The largest block, bytes.
const MAX_BLOCK_LEN: u32 = 1 << 20;
/// The most blocks: 32 MiB of bitmap.
const MAX_BLOCKS: u64 = 1 << 28;
/// Where the data may start: what file systems like.
const DATA_ALIGN: u64 = 1 << 16;

/// Where the bitmap starts.
pub(super) const BITMAP_AT: u64 = HEADER_PAGE as u64;

/// Lengths that fit together. Nothing computed from them overflows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    disk_len: u64,
    block_shift: u32,
}

impl Layout {
    /// That of a new overlay over `disk_len` bytes: the smallest block that does. `None` for a disk too large.
    pub(super) fn of(disk_len: u64) -> Option<Self> {
        let shifts = MIN_BLOCK_LEN.trailing_zeros()..=MAX_BLOCK_LEN.trailing_zeros();
        let mut all = shifts.filter_map(|shift| Self::checked(disk_len, 1 << shift));
        all.next()
    }

    /// That of an overlay whose header says so; `None` when it is impossible.
    pub(super) fn checked(disk_len: u64, block_len: u32) -> Option<Self> {
        let is_block = (MIN_BLOCK_LEN..=MAX_BLOCK_LEN).contains(&block_len)
            && block_len.is_power_of_two()
            && disk_len.is_multiple_of(512);
        let layout = Self {
            disk_len,
            block_shift: block_len.trailing_zeros(),
        };
        (is_block && layout.blocks() <= MAX_BLOCKS).then_some(layout)
    }

    /// Bytes of the disk, whole sectors.
    pub(super) fn disk_len(self) -> u64 {
        self.disk_len
    }

    /// Bytes of a block, a power of two.
    pub(super) fn block_len(self) -> u32 {
        1 << self.block_shift
    }

    /// Blocks of the disk; the last may be shorter.
    pub(super) fn blocks(self) -> u64 {
        self.disk_len.div_ceil(self.block_len().into())
    }

    /// The block that byte `at` of the disk is in.
    pub(super) fn block_of(self, at: u64) -> u64 {
        at >> self.block_shift
    }

    /// The first byte of a block; no further than the disk's end.
    pub(super) fn start_of(self, block: u64) -> u64 {
        let len = u64::from(self.block_len());
        block.saturating_mul(len).min(self.disk_len)
    }

    /// Whether a block starts or the disk ends at byte `at`.
    pub(super) fn is_edge(self, at: u64) -> bool {
        at == self.disk_len || at.is_multiple_of(self.block_len().into())
    }

    /// Where byte `at` of the disk lies in the file.
    pub(super) fn data_at(self, at: u64) -> u64 {
        let bitmap = self.blocks().div_ceil(8).next_multiple_of(PAGE_LEN as u64);
        let align = DATA_ALIGN.max(self.block_len().into());
        let end = BITMAP_AT.saturating_add(bitmap);
        end.next_multiple_of(align).saturating_add(at)
    }

    /// Bytes of the whole file, most of them a hole.
    pub(super) fn file_len(self) -> u64 {
        self.data_at(self.disk_len.next_multiple_of(self.block_len().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_grow_with_the_disk_and_end() {
        const TIB: u64 = 1 << 40;
        let block_len = |len| Layout::of(len).map(Layout::block_len);
        assert_eq!(block_len(0), Some(4096));
        assert_eq!(block_len(TIB), Some(4096));
        assert_eq!(block_len(TIB + 512), Some(8192));
        assert_eq!(block_len(256 * TIB), Some(1 << 20));
        assert_eq!(block_len(256 * TIB + 512), None);
        assert_eq!(block_len(u64::MAX - 511), None);
    }

    #[test]
    fn parts_of_the_file_do_not_touch() {
        for disk_len in [0, 512, 4096, 1 << 20, (1 << 27) + 512, 1 << 40] {
            let layout = Layout::of(disk_len).unwrap();
            let bitmap_end = BITMAP_AT + layout.blocks().div_ceil(8);
            assert!(layout.data_at(0) >= bitmap_end.next_multiple_of(4096));
            assert!(layout.file_len() >= layout.data_at(disk_len));
            assert!(layout.data_at(0).is_multiple_of(1 << 16));
        }
    }
}
