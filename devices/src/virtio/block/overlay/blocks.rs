//! A set of blocks: one bit a block.

#![deny(clippy::arithmetic_side_effects)]

use std::sync::atomic::{AtomicU64, Ordering};

use zerocopy::FromZeros;

use super::super::medium::Medium;
use super::OverlayError;
use super::layout::{BITMAP_AT, Layout};

/// Bytes that are loaded and committed at once.
pub(super) const PAGE_LEN: usize = 4096;
pub(super) const WORD_LEN: usize = 8;
pub(super) const PAGE_WORDS: usize = PAGE_LEN / WORD_LEN;

/// Blocks that follow each other and are all there, or all not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// They are in the overlay.
    pub(super) is_present: bool,
    /// The block behind the last.
    pub(super) end: u64,
}

/// The blocks that an overlay holds. Used by one thread at a time; atomics are its only way to change behind a shared
/// reference.
#[derive(Debug)]
pub(super) struct Blocks {
    words: Vec<AtomicU64>,
}

impl Blocks {
    /// None.
    pub(super) fn empty(layout: Layout) -> Result<Self, OverlayError> {
        let words = usize::try_from(layout.blocks().div_ceil(64));
        let words = words.map_err(|_| OverlayError::TooLarge)?;
        Ok(Self {
            words: zeroed(words.next_multiple_of(PAGE_WORDS))?,
        })
    }

    /// What the file has.
    pub(super) fn load(medium: &impl Medium, layout: Layout) -> Result<Self, OverlayError> {
        let blocks = Self::empty(layout)?;
        let mut page = [0; PAGE_LEN];
        for (index, words) in (0..).zip(blocks.words.chunks(PAGE_WORDS)) {
            medium
                .read_bytes(page_at(index), &mut page)
                .map_err(OverlayError::Io)?;
            let (bytes, _) = page.as_chunks::<WORD_LEN>();
            for (word, bytes) in words.iter().zip(bytes) {
                set(word, u64::from_le_bytes(*bytes));
            }
        }
        let bits = (blocks.words.len() as u64).saturating_mul(64);
        let rest = blocks.run(layout.blocks(), bits);
        if rest.is_present || rest.end < bits {
            return Err(OverlayError::Damaged("it holds blocks beyond its end"));
        }
        Ok(blocks)
    }

    /// The blocks from `first` on, before `end`, that are as `first` is.
    pub(super) fn run(&self, first: u64, end: u64) -> Run {
        let is_present = self.has(first);
        let mut block = first;
        while block < end {
            let word = self.word(block);
            let differs = if is_present { !word } else { word } >> (block % 64);
            if differs != 0 {
                block = block.saturating_add(differs.trailing_zeros().into());
                break;
            }
            block = (block | 63).saturating_add(1);
        }
        Run {
            is_present,
            end: block.min(end),
        }
    }

    /// The block is there.
    pub(super) fn has(&self, block: u64) -> bool {
        self.word(block) >> (block % 64) & 1 == 1
    }

    /// The 64 blocks that `block` is one of, the first in the lowest bit.
    pub(super) fn word(&self, block: u64) -> u64 {
        self.place(block)
            .map_or(0, |(_, word)| word.load(Ordering::Relaxed))
    }

    /// Where that word is.
    pub(super) fn place(&self, block: u64) -> Option<(usize, &AtomicU64)> {
        let index = usize::try_from(block / 64).ok()?;
        Some((index, self.words.get(index)?))
    }

    /// All words, whole pages of them.
    pub(super) fn words(&self) -> &[AtomicU64] {
        &self.words
    }
}

/// Pages of the kernel that are zero until they are used.
pub(super) fn zeroed(len: usize) -> Result<Vec<AtomicU64>, OverlayError> {
    AtomicU64::new_vec_zeroed(len).map_err(|_| OverlayError::TooLarge)
}

/// Stores `value` over what was less: what stays zero costs no memory.
pub(super) fn set(word: &AtomicU64, value: u64) {
    if value != 0 {
        word.store(value, Ordering::Relaxed);
    }
}

/// Where a page lies in the file.
pub(super) fn page_at(page: usize) -> u64 {
    BITMAP_AT.saturating_add((page as u64).saturating_mul(PAGE_LEN as u64))
}
