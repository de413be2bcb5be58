//! The control queue: how many pairs of queues the driver uses (virtio 1.2 §5.1.6.5, §5.1.6.5.6.1).
//!
//! ```text
//!  class u8, command u8, command-specific data | ack u8
//! ```

#![deny(clippy::arithmetic_side_effects)]

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};

use crate::virtio::QueueError;
use crate::virtio::chain::Chain;
use crate::virtio::queue::{Completion, Queue};

/// Class, command and `virtqueue_pairs`, little-endian.
const COMMAND_LEN: usize = 4;
const OK: u8 = byte(VIRTIO_NET_OK);
const ERR: u8 = byte(VIRTIO_NET_ERR);
const MQ: u8 = byte(VIRTIO_NET_CTRL_MQ);
const VQ_PAIRS_SET: u8 = byte(VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET);

/// A number that is a byte of the protocol.
const fn byte(number: u32) -> u8 {
    assert!(number <= 0xff);
    number.to_le_bytes()[0]
}

/// The control queue.
pub(super) struct Control {
    queue: Queue,
    chain: Chain,
}

/// A command that waits for its answer.
#[must_use = "a command that is not answered stops the driver"]
pub(super) struct Pending {
    done: Completion,
    /// Pairs to use; `None` for a command that does not exist or is malformed.
    pub(super) pairs: Option<u16>,
}

impl Control {
    pub(super) fn new(queue: Queue) -> Self {
        Self {
            chain: queue.new_chain(),
            queue,
        }
    }

    /// The next command; the driver has no more when there is none, and then kicks for the next.
    pub(super) fn next(&mut self) -> Result<Option<Pending>, QueueError> {
        let done = self.queue.pop_or_wait(&mut self.chain)?;
        Ok(done.map(|done| {
            let pairs = parse(&self.chain);
            Pending { done, pairs }
        }))
    }

    /// Answers; true when the driver wants to be told.
    pub(super) fn answer(&mut self, command: Pending, is_done: bool) -> Result<bool, QueueError> {
        let ack = if is_done { OK } else { ERR };
        let written = self.chain.writable.copy_from(0, &[ack]);
        let written = u32::try_from(written).unwrap_or(0);
        self.queue.give_back(command.done, written)?;
        self.queue.needs_interrupt()
    }

    pub(super) fn stop(self) -> Queue {
        self.queue
    }
}

/// Pairs that the command in `chain` wants, if it is one that exists.
fn parse(chain: &Chain) -> Option<u16> {
    let mut command = [0; COMMAND_LEN];
    let copied = chain.readable.copy_to(0, &mut command);
    let has_answer = !chain.writable.is_empty();
    let is_whole = copied == COMMAND_LEN && chain.readable.len() == COMMAND_LEN;
    let [class, command, low, high] = command;
    let is_known = class == MQ && command == VQ_PAIRS_SET;
    (is_whole && has_answer && is_known).then_some(u16::from_le_bytes([low, high]))
}
