//! Virtio 1.2 devices, on any transport.

pub mod balloon;
pub mod block;
pub mod chain;
pub mod console;
pub mod device;
pub mod mem;
pub mod net;
pub mod pmem;
pub mod queue;
pub mod rng;
pub mod transport;
pub mod vhost_user;
pub mod vsock;

use std::os::fd::AsRawFd;

use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

pub use balloon::Balloon;
pub use block::Block;
pub use console::Console;
pub use device::{
    ActivateError, Activation, Changed, Interrupt, QueueError, Source, Token, Traits, VirtioDevice,
    Worker, WorkerId, WorkerLoop,
};
pub use mem::Mem;
pub use net::Net;
pub use pmem::Pmem;
pub use rng::Rng;
pub use transport::MmioTransport;
pub use virtio_bindings::virtio_ids::{VIRTIO_ID_BLOCK, VIRTIO_ID_NET, VIRTIO_ID_PMEM};
pub use vsock::Vsock;

/// The source that reports the driver's kicks. The counter is never read: the loop watches for edges, and
/// every write is one, so reading would only cost a system call per kick.
fn kick_source(kick: &EventFd, token: Token) -> Source {
    Source {
        fd: kick.as_raw_fd(),
        token,
        events: EventSet::IN,
    }
}

/// Asks the loop for another turn, after the neighbours had theirs.
fn kick_again(kick: &EventFd) {
    // Fails only when the counter is full, which takes 2^64 kicks.
    let _ = kick.write(1);
}
