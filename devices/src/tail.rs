//! The last of what a guest wrote, for whoever has to find out why it stopped.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that are kept.
pub const TAIL_BYTES: usize = 8 << 10;

/// Keeps the last [`TAIL_BYTES`] that were written. Its memory is taken with the first byte.
#[derive(Debug, Default)]
pub struct Tail(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    /// Grows up to [`TAIL_BYTES`], and then goes round.
    bytes: Vec<u8>,
    /// Where the oldest byte is, once it goes round.
    next: usize,
    written: u64,
}

/// What a guest wrote, as far as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The last bytes, oldest first.
    pub tail: Vec<u8>,
    /// How many there were in all.
    pub count: u64,
}

impl Tail {
    /// Keeps `bytes`.
    pub fn push(&self, bytes: &[u8]) {
        self.push_last(bytes.len(), bytes);
    }

    /// Keeps `last`, which is the end of `count` bytes.
    pub fn push_last(&self, count: usize, last: &[u8]) {
        let mut ring = self.lock();
        ring.written = ring.written.saturating_add(count as u64);
        let skip = last.len().saturating_sub(TAIL_BYTES);
        for byte in last.iter().skip(skip) {
            ring.push(*byte);
        }
    }

    /// What was written so far.
    #[must_use]
    pub fn written(&self) -> Written {
        let ring = self.lock();
        let (newer, older) = ring.bytes.split_at(ring.next.min(ring.bytes.len()));
        Written {
            tail: [older, newer].concat(),
            count: ring.written,
        }
    }

    /// A panic elsewhere does not make plain bytes wrong.
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn push(&mut self, byte: u8) {
        if self.bytes.len() < TAIL_BYTES {
            if self.bytes.is_empty() {
                self.bytes.reserve_exact(TAIL_BYTES);
            }
            self.bytes.push(byte);
            return;
        }
        if let Some(oldest) = self.bytes.get_mut(self.next) {
            *oldest = byte;
        }
        self.next = (self.next + 1) % TAIL_BYTES;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_bytes_are_all_there() {
        let tail = Tail::default();
        assert_eq!(tail.written(), Written::default());
        tail.push(b"ab");
        tail.push(b"");
        tail.push(b"c");
        let written = tail.written();
        assert_eq!((written.tail.as_slice(), written.count), (&b"abc"[..], 3));
    }

    #[test]
    fn the_oldest_bytes_give_way_and_the_count_goes_on() {
        let all: Vec<u8> = (0..=u8::MAX).cycle().take(3 * TAIL_BYTES + 77).collect();
        for piece in [1, 7, TAIL_BYTES - 1, TAIL_BYTES, 2 * TAIL_BYTES + 5] {
            let tail = Tail::default();
            for bytes in all.chunks(piece) {
                tail.push(bytes);
            }
            let written = tail.written();
            assert_eq!(written.tail, all[all.len() - TAIL_BYTES..], "{piece}");
            assert_eq!(written.count, all.len() as u64);
        }
        let tail = Tail::default();
        tail.push(&all);
        assert_eq!(tail.lock().bytes.capacity(), TAIL_BYTES);
    }
}
