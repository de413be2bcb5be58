//! Ranges of guest memory, in and out of bounds.

use super::*;
use crate::testing::guest_memory;

fn list(ranges: &[(u64, u32)]) -> Segments {
    let mut segments = Segments::new(guest_memory(0x1_0000));
    for &(address, len) in ranges {
        segments.push(GuestAddress(address), len).unwrap();
    }
    segments
}

#[test]
fn bytes_cross_ranges_both_ways() {
    let segments = list(&[(0x100, 3), (0x200, 2)]);
    assert_eq!(segments.copy_from(1, b"abcdef"), 4);
    let mut back = [0; 8];
    assert_eq!(segments.copy_to(2, &mut back), 3);
    assert_eq!(&back[..3], b"bcd");
}

#[test]
fn head_may_be_split_over_ranges() {
    let mut segments = list(&[(0x100, 3), (0x200, 9)]);
    segments.copy_from(0, &7u64.to_le_bytes());
    assert_eq!(segments.read_head::<u64>(), Some(7));
    assert_eq!(segments.len(), 4);
    assert_eq!(segments.read_head::<u64>(), None);
    assert_eq!(segments.len(), 4);
}

#[test]
fn last_byte_is_split_off_once() {
    let mut segments = list(&[(0x100, 4), (0x200, 1)]);
    assert_eq!(segments.split_last_byte(), Some(GuestAddress(0x200)));
    assert_eq!(segments.len(), 4);
    assert_eq!(segments.split_last_byte(), None);
}

#[test]
fn ranges_outside_memory_are_refused() {
    let mut segments = list(&[]);
    for (address, len) in [(0xffff, 2), (0x1_0000, 1), (u64::MAX, 2), (u64::MAX - 1, 2)] {
        let pushed = segments.push(GuestAddress(address), len);
        assert_eq!(pushed, Err(PushError::OutsideMemory), "{address:#x} {len}");
        segments.clear();
    }
}

#[test]
fn going_back_forgets_what_was_pushed_since() {
    let mut segments = list(&[(0x100, 4), (0x200, 4)]);
    segments.advance(6);
    let mark = segments.mark();
    segments.push(GuestAddress(0x300), 8).unwrap();
    segments.go_back(mark);
    assert_eq!(segments.len(), 2);
    assert_eq!(segments.split_last_byte(), Some(GuestAddress(0x203)));
}
