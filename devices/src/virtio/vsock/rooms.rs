//! Buffers of the driver for packets to it, several at a time: a stream that has much to say fills them all in one
//! system call, a packet in each (virtio 1.2 §5.10.6.4: each buffer holds one packet, its header in front).

use super::packet::HEADER_LEN;
use crate::virtio::QueueError;
use crate::virtio::chain::{Chain, Segments};
use crate::virtio::queue::{Completion, Queue};

/// Buffers at a time: as many as 64 KiB need where a driver offers them in pages, as Linux does.
const ROOMS: usize = 17;

/// Buffers that were popped and not yet given back.
pub(super) struct Rooms {
    /// All of them, in order, in `writable`.
    chain: Chain,
    held: Vec<Completion>,
    /// Bytes of each.
    lens: Vec<usize>,
}

/// What buffers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gathered {
    /// One at least, each longer than a header.
    Some,
    /// One that is no longer than a header went back; there may be others.
    Refused,
    /// None.
    None,
}

impl Rooms {
    pub(super) fn new(queue: &Queue) -> Self {
        Self {
            chain: queue.new_chain(),
            held: Vec::with_capacity(ROOMS),
            lens: Vec::with_capacity(ROOMS),
        }
    }

    /// Pops buffers until `wanted` bytes of data fit, one at least, as far as there are some.
    pub(super) fn gather(
        &mut self,
        queue: &mut Queue,
        wanted: usize,
    ) -> Result<Gathered, QueueError> {
        self.chain.clear();
        self.lens.clear();
        let mut room = 0;
        while room < wanted && self.held.len() < ROOMS {
            let before = self.chain.writable.len();
            let Some(done) = queue.pop_more(&mut self.chain)? else {
                break;
            };
            // A driver has nothing to say here.
            self.chain.readable.clear();
            let len = self.chain.writable.len() - before;
            if len > HEADER_LEN {
                room += len - HEADER_LEN;
                self.held.push(done);
                self.lens.push(len);
            } else if self.held.is_empty() {
                queue.give_back(done, 0)?;
                return Ok(Gathered::Refused);
            } else {
                // It comes first the next time.
                queue.put_back(done);
                self.chain.writable.truncate(before);
                break;
            }
        }
        Ok(if self.held.is_empty() {
            Gathered::None
        } else {
            Gathered::Some
        })
    }

    /// The buffers, and how long each is.
    pub(super) fn as_parts(&mut self) -> (&mut Segments, &[usize]) {
        (&mut self.chain.writable, &self.lens)
    }

    /// Gives the driver the buffers that `data` bytes and a header for each fill, one at least, and puts back the
    /// others. Says how many were given.
    pub(super) fn give_back(
        &mut self,
        queue: &mut Queue,
        data: usize,
    ) -> Result<usize, QueueError> {
        let mut left = data;
        let mut filled = 0;
        for len in &mut self.lens {
            let part = left.min(*len - HEADER_LEN);
            left -= part;
            *len = HEADER_LEN + part;
            filled += 1;
            if left == 0 {
                break;
            }
        }
        while self.held.len() > filled
            && let Some(done) = self.held.pop()
        {
            queue.put_back(done);
        }
        let lens = self.lens.iter();
        let lens = lens.map(|len| u32::try_from(*len).unwrap_or(u32::MAX));
        queue.give_back_all(self.held.drain(..).zip(lens))?;
        Ok(filled)
    }

    /// Puts all of them back.
    pub(super) fn put_back(&mut self, queue: &mut Queue) {
        while let Some(done) = self.held.pop() {
            queue.put_back(done);
        }
    }
}
