//! Ranges of guest memory, in and out of bounds.

use vm_memory::Bytes;

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

#[test]
fn ranges_that_follow_each_other_are_one_entry() {
    let mut segments = list(&[(0x100, 4), (0x104, 4), (0x109, 4), (0x105, 4)]);
    assert_eq!(segments.entries().len(), 3);
    assert_eq!(segments.len(), 16);
    segments.advance(6);
    let mark = segments.mark();
    segments.push(GuestAddress(0x109), 8).unwrap();
    assert!(!segments.is_at(mark));
    assert_eq!(segments.entries().len(), 3);
    segments.go_back(mark);
    assert!(segments.is_at(mark));
    assert_eq!(segments.len(), 10);
    assert_eq!(segments.copy_from(0, &[7; 20]), 10);
    assert_eq!(segments.split_last_byte(), Some(GuestAddress(0x108)));
}

#[test]
fn a_range_behind_a_used_up_one_is_an_entry_of_its_own() {
    let mut segments = list(&[(0x100, 4)]);
    segments.advance(4);
    segments.push(GuestAddress(0x104), 4).unwrap();
    assert_eq!(segments.len(), 4);
    segments.copy_from(0, b"abcd");
    let mut back = [0; 8];
    let address = GuestAddress(0x100);
    segments.memory.read_slice(&mut back, address).unwrap();
    assert_eq!(&back, b"\0\0\0\0abcd");
}

#[test]
fn a_truncated_list_keeps_its_front() {
    let mut segments = list(&[(0x100, 4), (0x200, 4), (0x300, 4)]);
    segments.advance(2);
    segments.truncate(7);
    segments.truncate(9);
    assert_eq!(segments.len(), 7);
    segments.copy_from(0, b"abcdefghij");
    let mut bytes = [0; 10];
    assert_eq!(segments.copy_to(0, &mut bytes), 7);
    assert_eq!(&bytes, b"abcdefg\0\0\0");
    segments.truncate(0);
    assert!(segments.is_empty());
}

#[test]
fn streams_carry_a_part_of_the_list() {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut source = list(&[(0x100, 3), (0x200, 3), (0x300, 3)]);
    source.copy_from(0, b"abcdefghi");
    source.advance(1);
    assert_eq!(source.send_stream(theirs.as_fd(), 6).unwrap(), 6);
    let mut target = list(&[(0x400, 4), (0x500, 4)]);
    assert_eq!(
        target
            .read_stream(ours.as_fd(), [usize::MAX], 3, 2)
            .unwrap(),
        2
    );
    assert_eq!(
        target
            .read_stream(ours.as_fd(), [usize::MAX], 5, 100)
            .unwrap(),
        3
    );
    let mut bytes = [0; 8];
    assert_eq!(target.copy_to(0, &mut bytes), 8);
    assert_eq!(&bytes, b"\0\0\0bcdef");
    // What was consumed of neither list is there still, and a receiver that is gone is an error.
    assert_eq!((source.len(), target.len()), (8, 8));
    drop(ours);
    assert!(source.send_stream(theirs.as_fd(), 1).is_err());
}

#[test]
fn whole_pages_are_given_back_and_no_others() {
    let mut segments = list(&[]);
    let memory = Arc::clone(&segments.memory);
    let is_kept = |page: u64| memory.read_obj::<u8>(GuestAddress(page << 12)).unwrap() == 7;
    memory.write_slice(&[7; 0x1_0000], GuestAddress(0)).unwrap();
    for (address, len) in [
        // Two halves that meet are a page; a page and a half are one.
        (0x1000, 0x800),
        (0x1800, 0x800),
        (0x3800, 0x1800),
        (0x6000, 0x800),
        (0x8000, 0x2000),
    ] {
        segments.push(GuestAddress(address), len).unwrap();
    }
    assert_eq!(segments.discard(usize::MAX).unwrap(), 0x4000);
    let given_back: Vec<u64> = (0..16).filter(|page| !is_kept(*page)).collect();
    assert_eq!(given_back, [1, 4, 8, 9]);
}

#[test]
fn no_more_is_given_back_than_was_said() {
    let segments = list(&[(0, 0x2000), (0x4000, 0x8000)]);
    assert_eq!(segments.discard(0x5800).unwrap(), 0x5000);
    assert_eq!(list(&[]).discard(usize::MAX).unwrap(), 0);
}
