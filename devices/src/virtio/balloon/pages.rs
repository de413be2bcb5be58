//! Turns an inflate chain into ranges of guest memory (virtio 1.2 §5.5.6). Knows no file and no host address.

#![deny(clippy::arithmetic_side_effects)]

use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::GuestMemory;
use crate::virtio::chain::Segments;

/// Bytes of a balloon page, whatever pages the guest has (virtio 1.2 §5.5.6).
pub const PAGE: u32 = 1 << VIRTIO_BALLOON_PFN_SHIFT;
const VIRTIO_BALLOON_PFN_SHIFT: u32 = 12;

/// The most page numbers in one chain. Drivers send 256.
pub const MAX_FRAMES: usize = 4096;

/// Bytes of a page number.
const FRAME: usize = size_of::<u32>();

/// A chain that holds no list of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// No bytes, or a chain that broke a rule.
    Empty,
    /// Not whole page numbers.
    Ragged,
    /// More than [`MAX_FRAMES`].
    TooLong,
}

/// Page numbers that a driver sent, sorted, each once, all of them guest memory. Keeps its storage.
#[derive(Debug, Default)]
pub struct Frames(Vec<u32>);

impl Frames {
    /// Reads the page numbers in `from`, in place of those it held. Returns how many name no guest memory; these
    /// are left out.
    ///
    /// # Errors
    /// [`Malformed`] when the driver broke a rule; it then holds none.
    pub fn read(&mut self, from: &Segments, memory: &GuestMemory) -> Result<usize, Malformed> {
        self.0.clear();
        match from.len() {
            0 => return Err(Malformed::Empty),
            len if !len.is_multiple_of(FRAME) => return Err(Malformed::Ragged),
            len if len > FRAME.saturating_mul(MAX_FRAMES) => return Err(Malformed::TooLong),
            _ => {}
        }
        let mut bytes = [0; 256 * FRAME];
        let mut done = 0;
        while done < from.len() {
            let count = from.copy_to(done, &mut bytes);
            let (words, _) = bytes.get(..count).unwrap_or_default().as_chunks();
            self.0
                .extend(words.iter().map(|word| u32::from_le_bytes(*word)));
            done = done.saturating_add(count);
            if count == 0 {
                break;
            }
        }
        let sent = self.0.len();
        self.0
            .retain(|frame| memory.check_range(address(*frame), PAGE as usize));
        let outside = sent.saturating_sub(self.0.len());
        self.0.sort_unstable();
        self.0.dedup();
        Ok(outside)
    }

    /// The pages as ranges, address and bytes; neighbours are one range.
    pub fn ranges(&self) -> impl Iterator<Item = (GuestAddress, u32)> {
        let is_next = |a: &u32, b: &u32| a.checked_add(1) == Some(*b);
        self.0.chunk_by(is_next).filter_map(|run| {
            let count = u32::try_from(run.len()).ok()?;
            Some((address(*run.first()?), count.checked_mul(PAGE)?))
        })
    }
}

fn address(frame: u32) -> GuestAddress {
    GuestAddress(u64::from(frame) << VIRTIO_BALLOON_PFN_SHIFT)
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    reason = "small numbers of the test's own"
)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::guest_memory;

    /// 16 pages of memory; the list lies in the last.
    const PAGES: u32 = 16;
    const LIST: u64 = 15 << 12;

    fn read(frames: &[u32], len: u32) -> (Frames, Result<usize, Malformed>) {
        let memory = guest_memory((PAGES * PAGE) as usize);
        let mut list = Segments::new(Arc::clone(&memory));
        if len > 0 {
            list.push(GuestAddress(LIST), len).unwrap();
        }
        let bytes: Vec<u8> = frames.iter().flat_map(|f| f.to_le_bytes()).collect();
        list.copy_from(0, &bytes);
        let mut found = Frames::default();
        let result = found.read(&list, &memory);
        (found, result)
    }

    #[test]
    fn neighbours_are_one_range_in_whatever_order_they_come() {
        let (frames, result) = read(&[7, 3, 5, 4, 9, 4], 24);
        assert_eq!(result, Ok(0));
        let ranges: Vec<_> = frames.ranges().map(|(at, len)| (at.0, len)).collect();
        assert_eq!(ranges, [(0x3000, 3 * PAGE), (0x7000, PAGE), (0x9000, PAGE)]);
    }

    #[test]
    fn pages_outside_memory_are_left_out_and_counted() {
        let (frames, result) = read(&[PAGES, u32::MAX, 0, PAGES - 1, 0x10_0000], 20);
        assert_eq!(result, Ok(3));
        assert_eq!(frames.0, [0, PAGES - 1]);
    }

    #[test]
    fn lists_that_are_none_are_refused() {
        assert_eq!(read(&[], 0).1, Err(Malformed::Empty));
        assert_eq!(read(&[1, 2], 7).1, Err(Malformed::Ragged));
        let memory = guest_memory(1 << 20);
        let mut list = Segments::new(Arc::clone(&memory));
        for _ in 0..=MAX_FRAMES / 1024 {
            list.push(GuestAddress(0), PAGE).unwrap();
        }
        let refused = Frames::default().read(&list, &memory);
        assert_eq!(refused, Err(Malformed::TooLong));
    }

    proptest! {
        #[test]
        fn ranges_hold_exactly_the_pages_that_are_memory(
            sent in proptest::collection::vec(0..2 * PAGES, 1..200),
        ) {
            let (frames, _) = read(&sent, u32::try_from(sent.len() * FRAME).unwrap());
            let mut wanted: Vec<_> = sent.into_iter().filter(|f| *f < PAGES).collect();
            wanted.sort_unstable();
            wanted.dedup();
            let found: Vec<_> = frames
                .ranges()
                .flat_map(|(at, len)| (0..len / PAGE).map(move |n| u32::try_from(at.0 >> 12).unwrap() + n))
                .collect();
            prop_assert_eq!(found, wanted);
        }
    }
}
