//! A network interface whose frames the host's kernel moves between the driver's rings and the tap
//! (`/dev/vhost-net`, Linux `drivers/vhost/net.c`).
//!
//! ```text
//!  driver --kick, ioeventfd--------------------> kernel <--> tap
//!  driver <--interrupt-- worker <--call event--- kernel
//! ```
//!
//! The queues are the kernel's while the worker lives. Calls pass through the worker because the transport may have to
//! say why it interrupts. Rings that make no sense come as an error event.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_config::NetworkInterface;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::features::has;
use super::tap::{NetError, Tap};
use crate::metrics::NetMetrics;
use crate::sys::vhost::{RINGS, Ring, Vhost};
use crate::virtio::queue::Queue;
use crate::virtio::{ActivateError, Activation, Interrupt, QueueError, Source, Token, Worker};

/// The kernel's node.
pub(super) const NODE: &str = "/dev/vhost-net";

/// Features that are about the rings, which the kernel must know; all others are about the tap.
const OF_RINGS: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_NET_F_MRG_RXBUF
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// Tokens below this are rings that call.
const ERROR: Token = Token(2);

/// The kernel's half of an interface; the device and its worker have it by turns.
#[derive(Clone)]
pub(super) struct Kernel {
    vhost: Arc<Mutex<Vhost>>,
    features: u64,
}

/// Refuses what the kernel's path cannot have.
pub(super) fn check(interface: &NetworkInterface) -> Result<(), NetError> {
    if let Some(count) = interface.num_queues.filter(|count| *count > 1) {
        return Err(NetError::VhostQueues(count));
    }
    let has_limits = interface.rx_rate_limiter.is_some() || interface.tx_rate_limiter.is_some();
    if has_limits {
        return Err(NetError::VhostLimits);
    }
    Ok(())
}

impl Kernel {
    /// Opens the node, and asks what the kernel can.
    pub(super) fn open(node: &str) -> Result<Self, NetError> {
        let refuse = |error| NetError::Vhost {
            node: node.to_owned(),
            error,
        };
        let vhost = Vhost::open(Path::new(node)).map_err(refuse)?;
        let features = vhost.features().map_err(refuse)?;
        if !has(features, VIRTIO_F_VERSION_1) {
            return Err(NetError::VhostLacks("VIRTIO_F_VERSION_1"));
        }
        Ok(Self {
            vhost: Arc::new(Mutex::new(vhost)),
            features,
        })
    }

    /// Of what a tap can be offered with, what the kernel can do; and chains with tables of their own, which are its
    /// business.
    pub(super) fn offered(&self, features: u64) -> u64 {
        (features | 1 << VIRTIO_RING_F_INDIRECT_DESC) & (self.features | !OF_RINGS)
    }

    /// Hands the driver's queues and `tap` over.
    pub(super) fn start(
        &self,
        with: Activation,
        tap: &Tap,
        metrics: Arc<NetMetrics>,
    ) -> Result<VhostWorker, ActivateError> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let refuse = |source| ActivateError {
            what: "an event for the host's kernel",
            source,
        };
        let worker = VhostWorker {
            calls: [event().map_err(refuse)?, event().map_err(refuse)?],
            error: event().map_err(refuse)?,
            queues: with.queues,
            kernel: self.clone(),
            metrics,
            interrupt: with.interrupt,
        };
        let rings = worker.queues.iter().zip(&worker.calls).enumerate();
        let rings: Vec<_> = rings
            .filter(|(_, (queue, _))| queue.is_ready())
            .map(|(index, (queue, call))| Ring {
                index,
                state: queue.state(),
                kick: &with.kick,
                call,
                error: &worker.error,
                tap: tap.lend(),
            })
            .collect();
        let features = with.features & OF_RINGS;
        let started = self.lock().start(features, &with.memory, &rings);
        started.map_err(|source| ActivateError {
            what: "the driver's queues in the host's kernel",
            source,
        })?;
        // Kicks may have come before the kernel had the rings. Fails only when the counter is full, and then they did.
        let _ = with.kick.write(1);
        Ok(worker)
    }

    fn lock(&self) -> MutexGuard<'_, Vhost> {
        self.vhost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An interface that a driver runs, and the kernel serves.
pub(super) struct VhostWorker {
    /// The kernel's, if they are ready.
    queues: Vec<Queue>,
    calls: [EventFd; RINGS],
    /// The rings make no sense.
    error: EventFd,
    kernel: Kernel,
    metrics: Arc<NetMetrics>,
    interrupt: Arc<dyn Interrupt>,
}

impl Worker for VhostWorker {
    fn sources(&self) -> Vec<Source> {
        let events = self.calls.iter().chain([&self.error]);
        let source = |(token, event): (u32, &EventFd)| Source {
            fd: event.as_raw_fd(),
            token: Token(token),
            events: EventSet::IN,
        };
        (0..).zip(events).map(source).collect()
    }

    fn on_event(&mut self, token: Token) -> Result<(), QueueError> {
        if token != ERROR {
            self.pass_on(token.0);
        } else if self.error.read().is_ok() {
            self.metrics.event_fails.increment();
            self.take_back();
            return Err(QueueError::Host);
        }
        Ok(())
    }

    fn stop(mut self: Box<Self>) -> Vec<Queue> {
        self.take_back();
        (0..).take(RINGS).for_each(|ring| self.pass_on(ring));
        std::mem::take(&mut self.queues)
    }
}

impl VhostWorker {
    /// Interrupts the driver if the kernel called. The first look comes whether it did or not.
    fn pass_on(&self, ring: u32) {
        let call = usize::try_from(ring).ok();
        let call = call.and_then(|index| self.calls.get(index));
        if let Some(call) = call
            && call.read().is_ok()
        {
            self.interrupt.queue(u16::try_from(ring).unwrap_or(0));
        }
    }

    /// Takes the queues out of the kernel's hands, those that it has. Without its answer nothing can go on.
    fn take_back(&mut self) {
        let stopped = self.kernel.lock().stop();
        let taken = stopped.and_then(|next| {
            let mut queues = self.queues.iter_mut().zip(next);
            queues.try_for_each(|(queue, next)| match next {
                Some(next) => queue.take_over(next).map_err(io::Error::other),
                None => Ok(()),
            })
        });
        if let Err(error) = taken {
            self.metrics.event_fails.increment();
            tracing::error!("{NODE} does not give a network interface's queues back: {error}");
            self.interrupt.needs_reset();
        }
    }
}

impl Drop for VhostWorker {
    /// Whoever ends a worker without stopping it lets go of guest memory too.
    fn drop(&mut self) {
        let _ = self.kernel.lock().stop();
    }
}

#[cfg(test)]
mod tests;
