//! Which blocks an overlay holds, in memory and on the disk.
//!
//! A bit is set when its block's data is written, and never cleared: what a crash leaves of a half-written bitmap is
//! some of the new bits, each as good as the others. It may reach the disk only after its data is durable. So a commit
//! has two copies: `present`, which requests look at, and `staged`, which holds the bits whose data the sync under way
//! makes durable, and is written after it.

#![deny(clippy::arithmetic_side_effects)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::medium::Medium;
use super::OverlayError;
use super::blocks::{Blocks, PAGE_LEN, PAGE_WORDS, WORD_LEN, page_at, set, zeroed};
use super::layout::{BITMAP_AT, Layout};

/// The blocks of an overlay that is written to.
#[derive(Debug)]
pub(super) struct Bitmap {
    present: Arc<Blocks>,
    /// A part of `present`.
    staged: Vec<AtomicU64>,
    /// A bit a page of `present` that has what `staged` lacks.
    dirty: Vec<AtomicU64>,
    /// A bit a page of `staged` that the disk may lack.
    pending: Vec<AtomicU64>,
}

impl Bitmap {
    /// No block is there.
    pub(super) fn empty(layout: Layout) -> Result<Self, OverlayError> {
        Self::of(Blocks::empty(layout)?)
    }

    /// What the file has.
    pub(super) fn load(medium: &impl Medium, layout: Layout) -> Result<Self, OverlayError> {
        Self::of(Blocks::load(medium, layout)?)
    }

    fn of(present: Blocks) -> Result<Self, OverlayError> {
        let words = present.words().len();
        let page_words = words.div_ceil(PAGE_WORDS).div_ceil(64);
        let staged = zeroed(words)?;
        for (staged, present) in staged.iter().zip(present.words()) {
            set(staged, present.load(Ordering::Relaxed));
        }
        Ok(Self {
            present: Arc::new(present),
            staged,
            dirty: zeroed(page_words)?,
            pending: zeroed(page_words)?,
        })
    }

    /// The blocks that are there.
    pub(super) fn present(&self) -> &Arc<Blocks> {
        &self.present
    }

    /// The blocks from `first` on, before `end`, are there now. True when some were not before.
    pub(super) fn set(&self, first: u64, end: u64) -> bool {
        let (mut block, mut is_news) = (first, false);
        while block < end {
            let next = (block | 63).saturating_add(1);
            let last = next.min(end).saturating_sub(1);
            let mask =
                (u64::MAX << (block % 64)) & (u64::MAX >> (63_u64.saturating_sub(last % 64)));
            if let Some((index, word)) = self.present.place(block)
                && word.fetch_or(mask, Ordering::Relaxed) & mask != mask
            {
                is_news = true;
                set_bit(&self.dirty, index / PAGE_WORDS);
            }
            block = next;
        }
        is_news
    }

    /// Puts what is known of the blocks from `first` on, before `end`, into the file, with no commit.
    pub(super) fn write_through(
        &self,
        medium: &impl Medium,
        first: u64,
        end: u64,
    ) -> io::Result<()> {
        let mut page = [0; PAGE_LEN];
        let mut block = first & !63;
        while block < end {
            let Some((index, _)) = self.present.place(block) else {
                break;
            };
            let left = end.saturating_sub(block).div_ceil(64);
            let count = usize::try_from(left).map_or(PAGE_WORDS, |left| left.min(PAGE_WORDS));
            let bytes = copy_words(self.present.words(), index, count, &mut page);
            // A commit under way must not take them back.
            self.stage_words(index, count);
            let at = BITMAP_AT.saturating_add((index as u64).saturating_mul(WORD_LEN as u64));
            medium.write_bytes(at, bytes)?;
            block = block.saturating_add((count as u64).saturating_mul(64));
        }
        Ok(())
    }

    /// Begins a commit of the bits that are set now. False when the disk has them all.
    ///
    /// The caller makes the data durable, then calls [`Bitmap::write_staged`], makes that durable, and ends with
    /// [`Bitmap::committed`]. One at a time.
    pub(super) fn stage(&self) -> bool {
        each_bit(&self.dirty, |page| {
            self.stage_words(page.saturating_mul(PAGE_WORDS), PAGE_WORDS);
            clear_bit(&self.dirty, page);
            set_bit(&self.pending, page);
            Ok(())
        })
        .is_ok()
            && any(&self.pending)
    }

    fn stage_words(&self, first: usize, count: usize) {
        let words = |all| words_of(all, first, count);
        for (present, staged) in words(self.present.words()).iter().zip(words(&self.staged)) {
            set(staged, present.load(Ordering::Relaxed));
        }
    }

    /// Writes what was staged.
    pub(super) fn write_staged(&self, medium: &impl Medium) -> io::Result<()> {
        let mut bytes = [0; PAGE_LEN];
        each_bit(&self.pending, |page| {
            let first = page.saturating_mul(PAGE_WORDS);
            let bytes = copy_words(&self.staged, first, PAGE_WORDS, &mut bytes);
            medium.write_bytes(page_at(page), bytes)
        })
    }

    /// What was staged is durable.
    pub(super) fn committed(&self) {
        for word in &self.pending {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// The disk lacks some bits.
    pub(super) fn is_dirty(&self) -> bool {
        any(&self.dirty) || any(&self.pending)
    }
}

fn words_of(all: &[AtomicU64], first: usize, count: usize) -> &[AtomicU64] {
    let rest = all.get(first..).unwrap_or_default();
    rest.get(..count).unwrap_or(rest)
}

/// Copies words as the file has them; gives the bytes.
fn copy_words<'a>(
    all: &[AtomicU64],
    first: usize,
    count: usize,
    into: &'a mut [u8; PAGE_LEN],
) -> &'a [u8] {
    let words = words_of(all, first, count);
    let (places, _) = into.as_chunks_mut::<WORD_LEN>();
    for (place, word) in places.iter_mut().zip(words) {
        *place = word.load(Ordering::Relaxed).to_le_bytes();
    }
    let len = words.len().saturating_mul(WORD_LEN);
    into.get(..len).unwrap_or_default()
}

fn set_bit(bits: &[AtomicU64], index: usize) {
    if let Some(word) = bits.get(index / 64) {
        word.fetch_or(1 << (index % 64), Ordering::Relaxed);
    }
}

fn clear_bit(bits: &[AtomicU64], index: usize) {
    if let Some(word) = bits.get(index / 64) {
        word.fetch_and(!(1 << (index % 64)), Ordering::Relaxed);
    }
}

fn any(bits: &[AtomicU64]) -> bool {
    bits.iter().any(|word| word.load(Ordering::Relaxed) != 0)
}

fn each_bit(bits: &[AtomicU64], mut visit: impl FnMut(usize) -> io::Result<()>) -> io::Result<()> {
    for (index, word) in bits.iter().enumerate() {
        let mut left = word.load(Ordering::Relaxed);
        while left != 0 {
            let bit = left.trailing_zeros() as usize;
            visit(index.saturating_mul(64).saturating_add(bit))?;
            left &= left.wrapping_sub(1);
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects)]
mod tests {
    use proptest::prelude::*;

    use super::super::blocks::Run;
    use super::*;

    const BLOCKS: u64 = 200;

    fn bitmap() -> Bitmap {
        Bitmap::empty(Layout::of(BLOCKS * 4096).unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn runs_are_those_of_a_plain_list(
            sets in proptest::collection::vec((0..BLOCKS, 0..BLOCKS), 0..8),
            first in 0..BLOCKS,
            end in 0..=BLOCKS,
        ) {
            let bitmap = bitmap();
            let mut model = vec![false; usize::try_from(BLOCKS).unwrap()];
            for (from, to) in sets {
                let is_news = bitmap.set(from, to);
                let blocks = usize::try_from(from).unwrap()..usize::try_from(to).unwrap();
                let range = model.get_mut(blocks).unwrap_or_default();
                prop_assert_eq!(is_news, range.contains(&false));
                range.fill(true);
            }
            prop_assert_eq!(bitmap.is_dirty(), model.contains(&true));
            let is_present = model[usize::try_from(first).unwrap()];
            let same = (first..end).take_while(|b| model[usize::try_from(*b).unwrap()] == is_present);
            let run = Run { is_present, end: first.min(end) + same.count() as u64 };
            prop_assert_eq!(bitmap.present().run(first, end), run);
        }
    }

    #[test]
    fn bits_that_come_during_a_commit_wait_for_the_next() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 16).unwrap();
        let on_disk = || {
            let mut byte = [0];
            file.read_bytes(BITMAP_AT, &mut byte).unwrap();
            byte[0]
        };
        let bitmap = bitmap();
        assert!(!bitmap.stage());
        bitmap.set(0, 1);
        assert!(bitmap.stage());
        bitmap.set(1, 2);
        bitmap.write_staged(&file).unwrap();
        assert_eq!(on_disk(), 1);
        bitmap.committed();
        assert!(bitmap.stage());
        bitmap.write_staged(&file).unwrap();
        assert_eq!(on_disk(), 3);
        bitmap.committed();
        assert!(!bitmap.stage());
    }
}
