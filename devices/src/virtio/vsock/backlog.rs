//! Bytes of the guest that a socket did not take yet: a ring of fixed size, made when it is first needed.

use std::io;
use std::os::unix::net::UnixStream;

use rustix::net::{SendFlags, send};

use crate::virtio::chain::Segments;

/// A ring of bytes.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Box<[u8]>,
    start: usize,
    len: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Forgets what is in it.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Copies the front of `from`, `count` bytes of it. `capacity` is the ring's size for good, and the caller sees to
    /// it that no more is in it.
    pub(super) fn push(&mut self, from: &Segments, count: usize, capacity: usize) {
        if self.bytes.is_empty() {
            self.bytes = vec![0; capacity].into_boxed_slice();
        }
        let mut done = 0;
        // In two pieces where the ring wraps.
        while done < count && self.len < self.bytes.len() {
            let end = self.start.saturating_add(self.len) % self.bytes.len();
            let room = if end >= self.start {
                self.bytes.len()
            } else {
                self.start
            };
            let room = room.min(end.saturating_add(count.saturating_sub(done)));
            let Some(piece) = self.bytes.get_mut(end..room) else {
                return;
            };
            let copied = from.copy_to(done, piece);
            if copied == 0 {
                return;
            }
            done = done.saturating_add(copied);
            self.len = self.len.saturating_add(copied);
        }
    }

    /// Sends what lies in one piece at the front. Returns how much the socket took.
    pub(super) fn send(&mut self, to: &UnixStream) -> io::Result<usize> {
        let end = self.start.saturating_add(self.len).min(self.bytes.len());
        let piece = self.bytes.get(self.start..end).unwrap_or_default();
        let sent = send(to, piece, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        self.len = self.len.saturating_sub(sent);
        self.start = if self.len == 0 {
            0
        } else {
            self.start.saturating_add(sent) % self.bytes.len()
        };
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use vm_memory::GuestAddress;

    use super::*;
    use crate::testing::guest_memory;

    #[test]
    fn bytes_come_out_in_the_order_they_went_in_across_the_end_of_the_ring() {
        const CAPACITY: usize = 100;
        let memory = guest_memory(0x1000);
        let (ours, mut host) = UnixStream::pair().unwrap();
        let mut backlog = Backlog::default();
        let mut next = 0u8;
        for round in 0..50 {
            let count = round % 37 + 20;
            let bytes: Vec<u8> = (0..count)
                .map(|_| {
                    next = next.wrapping_add(1);
                    next
                })
                .collect();
            let mut from = Segments::new(memory.clone());
            for (at, len) in [(0x10, 7), (0x200, 0x200)] {
                from.push(GuestAddress(at), len).unwrap();
            }
            from.copy_from(0, &bytes);
            backlog.push(&from, count, CAPACITY);
            // A piece stays, so that the ring turns.
            let mut received = vec![0; count];
            while !backlog.is_empty() {
                backlog.send(&ours).unwrap();
            }
            host.read_exact(&mut received).unwrap();
            assert_eq!(received, bytes);
        }
    }

    #[test]
    fn no_more_goes_in_than_there_is_room_for() {
        let memory = guest_memory(0x1000);
        let mut from = Segments::new(memory);
        from.push(GuestAddress(0), 0x1000).unwrap();
        let mut backlog = Backlog::default();
        backlog.push(&from, 60, 100);
        backlog.push(&from, 60, 100);
        assert_eq!(backlog.len(), 100);
        backlog.clear();
        assert!(backlog.is_empty());
    }
}
