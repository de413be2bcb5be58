//! The network device (virtio 1.2 §5.1): joins two queues to a tap.
//!
//! Frames move in one system call each, straight between guest memory and the tap, with the header that both
//! sides share. Which unfinished frames the tap hands over follows from what the driver accepted.

pub mod frame;
mod receive;
pub mod tap;
mod transmit;

use std::os::fd::AsRawFd;
use std::sync::Arc;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net as bit;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_config::{NetworkInterface, NetworkInterfacePatch};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;
use zerocopy::{Immutable, IntoBytes};

use receive::{Receiver, Turn};
pub use tap::NetError;
use tap::{Offloads, Tap};
use transmit::Transmitter;

use super::queue::Queue;
use super::{
    ActivateError, Activation, Changed, Interrupt, QueueError, Source, Token, Traits, VirtioDevice,
    Worker,
};
use crate::limiter::{Limiter, LimitsAtHome};
use crate::metrics::NetMetrics;

/// Entries of each queue.
const QUEUE_SIZE: u16 = 256;
/// The smallest MTU (virtio 1.2 §5.1.4.1).
const MIN_MTU: u16 = 68;

// Queues (virtio 1.2 §5.1.2).
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

const KICK: Token = Token(0);
const TAP: Token = Token(1);
const RECEIVE_LIMIT: Token = Token(2);
const TRANSMIT_LIMIT: Token = Token(3);

/// A network interface that no driver runs.
pub struct Net {
    // Fixed configuration.
    features: u64,
    mac: Option<[u8; 6]>,
    mtu: Option<u16>,
    config: ConfigSpace,
    // Runtime glue.
    tap: Arc<Tap>,
    receive_limits: LimitsAtHome,
    transmit_limits: LimitsAtHome,
    metrics: Arc<NetMetrics>,
}

/// `struct virtio_net_config` up to the MTU (virtio 1.2 §5.1.4), little-endian.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
struct ConfigSpace {
    mac: [u8; 6],
    status: [u8; 2],
    max_virtqueue_pairs: [u8; 2],
    mtu: [u8; 2],
}

impl Net {
    /// Attaches to the interface's tap, and makes it if it does not exist.
    ///
    /// # Errors
    /// [`NetError`] says what is wrong with the interface and what to do.
    pub fn open(interface: &NetworkInterface) -> Result<Self, NetError> {
        Self::check(interface)?;
        let tap = Tap::open(&interface.host_dev_name)?;
        Ok(Self::on(tap, interface))
    }

    /// Checks all of `interface` but its tap.
    ///
    /// # Errors
    /// What cannot be, or is not supported.
    pub fn check(interface: &NetworkInterface) -> Result<(), NetError> {
        if let Some(mtu) = interface.mtu.filter(|mtu| *mtu < MIN_MTU) {
            return Err(NetError::Mtu(mtu));
        }
        Ok(())
    }

    fn on(tap: Tap, interface: &NetworkInterface) -> Self {
        let mac = interface.guest_mac.map(|mac| mac.0);
        let config = ConfigSpace {
            mac: mac.unwrap_or_default(),
            status: [0; 2],
            max_virtqueue_pairs: [0; 2],
            mtu: interface.mtu.unwrap_or_default().to_le_bytes(),
        };
        let optional = [
            (mac.is_some(), bit::VIRTIO_NET_F_MAC),
            (interface.mtu.is_some(), bit::VIRTIO_NET_F_MTU),
        ];
        let mut features = offered(tap.offloads());
        for (_, bit) in optional.into_iter().filter(|(is_offered, _)| *is_offered) {
            features |= 1 << bit;
        }
        Self {
            features,
            mac,
            mtu: interface.mtu,
            config,
            tap: Arc::new(tap),
            receive_limits: LimitsAtHome::new(interface.rx_rate_limiter),
            transmit_limits: LimitsAtHome::new(interface.tx_rate_limiter),
            metrics: Arc::default(),
        }
    }

    /// Takes on `patch`; a worker that is made later works with it.
    pub fn change(&mut self, patch: &NetworkInterfacePatch) -> Changed<()> {
        for (limits, patch) in [
            (&self.receive_limits, patch.rx_rate_limiter),
            (&self.transmit_limits, patch.tx_rate_limiter),
        ] {
            if let Some(patch) = patch {
                limits.patch(patch);
            }
        }
        Changed::Inside(())
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<NetMetrics> {
        Arc::clone(&self.metrics)
    }

    fn start(&self, with: Activation) -> Result<NetWorker, ActivateError> {
        let accepted = accepted(with.features);
        let set = self.tap.set_offloads(accepted);
        set.map_err(|source| ActivateError {
            what: "the tap's offloads",
            source,
        })?;
        let Ok([receive, transmit]) = <[Queue; 2]>::try_from(with.queues) else {
            return Err(ActivateError {
                what: "two queues",
                source: std::io::ErrorKind::NotFound.into(),
            });
        };
        let needed = if accepted.tso4 || accepted.tso6 || accepted.ufo {
            frame::MAX_FRAME
        } else {
            frame::max_len(self.mtu.unwrap_or(frame::DEFAULT_MTU))
        };
        let limiter = |home| {
            Limiter::new(home).map_err(|source| ActivateError {
                what: "a timer for its rate limits",
                source,
            })
        };
        let is_mergeable = with.features & (1 << bit::VIRTIO_NET_F_MRG_RXBUF) != 0;
        Ok(NetWorker {
            receiver: Receiver::new(
                receive,
                limiter(&self.receive_limits)?,
                needed,
                is_mergeable,
            ),
            transmitter: Transmitter::new(transmit, limiter(&self.transmit_limits)?, self.mac),
            tap: Arc::clone(&self.tap),
            metrics: Arc::clone(&self.metrics),
            kick: with.kick,
            interrupt: with.interrupt,
        })
    }
}

impl VirtioDevice for Net {
    fn traits(&self) -> Traits {
        Traits {
            device_type: VIRTIO_ID_NET,
            features: self.features,
            queue_sizes: vec![QUEUE_SIZE; 2],
        }
    }

    fn config_space(&self) -> &[u8] {
        self.config.as_bytes()
    }

    fn activate(&mut self, with: Activation) -> Result<Box<dyn Worker>, ActivateError> {
        match self.start(with) {
            Ok(worker) => Ok(Box::new(worker)),
            Err(error) => {
                self.metrics.activate_fails.increment();
                Err(error)
            }
        }
    }
}

/// A network interface that a driver runs.
struct NetWorker {
    receiver: Receiver,
    transmitter: Transmitter,
    tap: Arc<Tap>,
    metrics: Arc<NetMetrics>,
    kick: EventFd,
    interrupt: Arc<dyn Interrupt>,
}

impl Worker for NetWorker {
    fn sources(&self) -> Vec<Source> {
        let tap = Source {
            fd: self.tap.as_raw_fd(),
            token: TAP,
            events: EventSet::IN | EventSet::OUT,
        };
        let mut sources = vec![super::kick_source(&self.kick, KICK), tap];
        sources.extend(self.receiver.limiter.source(RECEIVE_LIMIT));
        sources.extend(self.transmitter.limiter.source(TRANSMIT_LIMIT));
        sources
    }

    fn on_event(&mut self, token: Token) -> Result<(), QueueError> {
        let metrics = &self.metrics;
        match token {
            TAP => {
                metrics.rx_tap_event_count.increment();
                self.receiver.wake();
                self.transmitter.wake();
            }
            RECEIVE_LIMIT => {
                let is_news = self.receiver.limiter.is_shut();
                metrics.rx_event_rate_limiter_count.add(is_news.into());
            }
            TRANSMIT_LIMIT => {
                let is_news = self.transmitter.limiter.is_shut();
                metrics.tx_rate_limiter_event_count.add(is_news.into());
            }
            _ => {
                metrics.rx_queue_event_count.increment();
                metrics.tx_queue_event_count.increment();
            }
        }
        let worked = self.turn();
        if worked.is_err() {
            self.metrics.event_fails.increment();
        }
        worked
    }

    fn stop(self: Box<Self>) -> Vec<Queue> {
        vec![self.receiver.stop(), self.transmitter.stop()]
    }
}

impl NetWorker {
    fn turn(&mut self) -> Result<(), QueueError> {
        let sent = self.transmitter.turn(&self.tap, &self.metrics)?;
        if self.transmitter.needs_interrupt()? {
            self.interrupt.queue(TRANSMIT);
        }
        let received = self.receiver.turn(&self.tap, &self.metrics)?;
        if self.receiver.needs_interrupt()? {
            self.interrupt.queue(RECEIVE);
        }
        if sent == Turn::More || received == Turn::More {
            super::kick_again(&self.kick);
        }
        Ok(())
    }
}

/// Features offered on a tap that can hand over `offloads` (virtio 1.2 §5.1.3).
fn offered(offloads: Offloads) -> u64 {
    let always = [
        VIRTIO_F_VERSION_1,
        VIRTIO_RING_F_EVENT_IDX,
        bit::VIRTIO_NET_F_MRG_RXBUF,
        bit::VIRTIO_NET_F_CSUM,
    ];
    // Sending unfinished frames needs nothing of the tap that receiving them does not.
    let if_able = [
        (offloads.csum, bit::VIRTIO_NET_F_GUEST_CSUM),
        (offloads.tso4, bit::VIRTIO_NET_F_GUEST_TSO4),
        (offloads.tso6, bit::VIRTIO_NET_F_GUEST_TSO6),
        (offloads.ufo, bit::VIRTIO_NET_F_GUEST_UFO),
        (offloads.tso4, bit::VIRTIO_NET_F_HOST_TSO4),
        (offloads.tso6, bit::VIRTIO_NET_F_HOST_TSO6),
        (offloads.ufo, bit::VIRTIO_NET_F_HOST_UFO),
    ];
    let able = if_able.into_iter().filter(|(is_able, _)| *is_able);
    let bits = always.into_iter().chain(able.map(|(_, bit)| bit));
    bits.fold(0, |features, bit| features | 1 << bit)
}

/// What the tap may hand over to a driver that accepted `features`.
fn accepted(features: u64) -> Offloads {
    let has = |bit: u32| features & (1 << bit) != 0;
    Offloads {
        csum: has(bit::VIRTIO_NET_F_GUEST_CSUM),
        tso4: has(bit::VIRTIO_NET_F_GUEST_TSO4),
        tso6: has(bit::VIRTIO_NET_F_GUEST_TSO6),
        ufo: has(bit::VIRTIO_NET_F_GUEST_UFO),
    }
}

#[cfg(test)]
mod tests;
