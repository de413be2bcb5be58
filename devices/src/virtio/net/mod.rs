//! The network device (virtio 1.2 §5.1): joins pairs of queues to a tap.
//!
//! Frames move in one system call each, straight between guest memory and the tap, with the header that both
//! sides share. Which unfinished frames the tap hands over follows from what the driver accepted. With `backend` Vhost the
//! host's kernel moves them instead (`vhost`).

mod control;
mod features;
pub mod frame;
mod metadata;
mod receive;
pub mod tap;
mod taps;
mod transmit;
mod vhost;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net as bit;
use vm_config::{MmdsConfig, NetworkBackend, NetworkInterface, NetworkInterfacePatch};
use zerocopy::{Immutable, IntoBytes};

use control::Control;
use metadata::Metadata;
use receive::Receiver;
pub use tap::NetError;
use tap::{MAX_QUEUES, Offloads, Tap};
use taps::Taps;
use transmit::Transmitter;
use vhost::Kernel;
use worker::{NetWorker, Pair, Queues};

use super::{ActivateError, Activation, Changed, Traits, VirtioDevice, Worker};
use crate::limiter::{Limiter, LimitsAtHome};
use crate::metrics::{Group, NetMetrics};
use crate::mmds::{Mmds, Rules};

/// Entries of each queue.
const QUEUE_SIZE: u16 = 256;
/// The smallest MTU (virtio 1.2 §5.1.4.1).
const MIN_MTU: u16 = 68;

/// A network interface that no driver runs.
pub struct Net {
    // Fixed configuration.
    features: u64,
    mac: Option<[u8; 6]>,
    mtu: Option<u16>,
    config: ConfigSpace,
    // Runtime glue.
    taps: Arc<[Tap]>,
    /// Moves the frames in our place.
    kernel: Option<Kernel>,
    /// What the guest can read about itself, if it can on this interface.
    metadata: Option<Metadata>,
    receive_limits: LimitsAtHome,
    transmit_limits: LimitsAtHome,
    metrics: Arc<NetMetrics>,
    // Guest-visible state: pairs of queues in use.
    used_pairs: Arc<AtomicU16>,
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
        let kernel = match interface.backend {
            NetworkBackend::Tap => None,
            NetworkBackend::Vhost => Some(Kernel::open(vhost::NODE)?),
        };
        let taps = Tap::open(&interface.host_dev_name, interface.num_queues.unwrap_or(1))?;
        let net = Self::on(taps, interface);
        Ok(match kernel {
            None => net,
            Some(kernel) => Self {
                features: kernel.offered(net.features),
                kernel: Some(kernel),
                ..net
            },
        })
    }

    /// Checks all of `interface` but its tap.
    ///
    /// # Errors
    /// What cannot be, or is not supported.
    pub fn check(interface: &NetworkInterface) -> Result<(), NetError> {
        if let Some(mtu) = interface.mtu.filter(|mtu| *mtu < MIN_MTU) {
            return Err(NetError::Mtu(mtu));
        }
        let queues = interface.num_queues.unwrap_or(1);
        if !(1..=MAX_QUEUES).contains(&queues) {
            return Err(NetError::Queues(queues));
        }
        match interface.backend {
            NetworkBackend::Tap => Ok(()),
            NetworkBackend::Vhost => vhost::check(interface),
        }
    }

    /// On the queues of one tap, at least one.
    /// A device on what stands for taps, such as ends of pairs of sockets that keep datagrams apart.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn on_fake(
        ends: Vec<impl Into<std::os::fd::OwnedFd>>,
        interface: &NetworkInterface,
    ) -> Self {
        Self::on(ends.into_iter().map(Tap::fake).collect(), interface)
    }

    fn on(taps: Vec<Tap>, interface: &NetworkInterface) -> Self {
        let mac = interface.guest_mac.map(|mac| mac.0);
        let pairs = u16::try_from(taps.len()).unwrap_or(MAX_QUEUES);
        let has_many = pairs > 1;
        let config = ConfigSpace {
            mac: mac.unwrap_or_default(),
            status: [0; 2],
            max_virtqueue_pairs: if has_many { pairs } else { 0 }.to_le_bytes(),
            mtu: interface.mtu.unwrap_or_default().to_le_bytes(),
        };
        let optional = [
            (mac.is_some(), bit::VIRTIO_NET_F_MAC),
            (interface.mtu.is_some(), bit::VIRTIO_NET_F_MTU),
            (has_many, bit::VIRTIO_NET_F_MQ),
            (has_many, bit::VIRTIO_NET_F_CTRL_VQ),
        ];
        let offloads = taps.first().map_or_else(Offloads::default, Tap::offloads);
        let mut features = features::offered(offloads);
        for (_, bit) in optional.into_iter().filter(|(is_offered, _)| *is_offered) {
            features |= 1 << bit;
        }
        Self {
            features,
            mac,
            mtu: interface.mtu,
            config,
            taps: taps.into(),
            kernel: None,
            metadata: None,
            receive_limits: LimitsAtHome::new(interface.rx_rate_limiter),
            transmit_limits: LimitsAtHome::new(interface.tx_rate_limiter),
            metrics: Arc::default(),
            used_pairs: Arc::new(AtomicU16::new(1)),
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

    /// Lets the guest read `mmds` here, as `config` says. With `backend` Vhost nothing of a frame is seen here, and so it
    /// cannot.
    pub fn serve_metadata(&mut self, mmds: Arc<Mmds>, config: &MmdsConfig) {
        self.metadata = Some(Metadata::new(mmds, Rules::of(config), config.address()));
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<NetMetrics> {
        Arc::clone(&self.metrics)
    }

    fn start(&self, with: Activation) -> Result<Box<dyn Worker>, ActivateError> {
        let accepted = features::accepted(with.features);
        let refused = |what| move |source| ActivateError { what, source };
        let used = usize::from(self.used_pairs.load(Ordering::Relaxed));
        let taps = Taps::new(Arc::clone(&self.taps), used).map_err(refused("the tap's queues"))?;
        let set = taps.queue(0).set_offloads(accepted);
        set.map_err(refused("the tap's offloads"))?;
        if let Some(kernel) = &self.kernel {
            let metrics = Arc::clone(&self.metrics);
            return Ok(Box::new(kernel.start(with, taps.queue(0), metrics)?));
        }
        let needed = if accepted.hands_over_long_frames() {
            frame::MAX_FRAME
        } else {
            frame::max_len(self.mtu.unwrap_or(frame::DEFAULT_MTU))
        };
        let limiter = |home| Limiter::new(home).map_err(refused("a timer for its rate limits"));
        let is_mergeable = features::has(with.features, bit::VIRTIO_NET_F_MRG_RXBUF);
        let queues = Queues::of(with.queues, with.features);
        let pair = |(index, (receive, transmit))| {
            let receiver = Receiver::new(receive, needed, is_mergeable);
            Pair::new(index, receiver, Transmitter::new(transmit, self.mac))
        };
        let metadata = self.metadata.as_ref().map(Metadata::branch).transpose();
        Ok(Box::new(NetWorker {
            metadata: metadata.map_err(refused("a timer for the metadata service"))?,
            pairs: (0..).step_by(2).zip(queues.pairs).map(pair).collect(),
            control: queues.control.map(Control::new),
            unused: queues.unused,
            taps,
            first: 0,
            receive_limiter: limiter(&self.receive_limits)?,
            transmit_limiter: limiter(&self.transmit_limits)?,
            used_pairs: Arc::clone(&self.used_pairs),
            metrics: Arc::clone(&self.metrics),
            kick: with.kick,
            interrupt: with.interrupt,
        }))
    }
}

impl VirtioDevice for Net {
    fn traits(&self) -> Traits {
        Traits {
            device_type: VIRTIO_ID_NET,
            features: self.features,
            queue_sizes: vec![QUEUE_SIZE; queues(self.taps.len())],
        }
    }

    fn counters(&self) -> Arc<dyn Group> {
        self.metrics()
    }

    fn config_space(&self) -> &[u8] {
        self.config.as_bytes()
    }

    fn activate(&mut self, with: Activation) -> Result<Box<dyn Worker>, ActivateError> {
        match self.start(with) {
            Ok(worker) => Ok(worker),
            Err(error) => {
                self.metrics.activate_fails.increment();
                Err(error)
            }
        }
    }

    /// One pair is in use until the next driver says otherwise (virtio 1.2 §5.1.5.1).
    fn reset(&mut self) {
        self.used_pairs.store(1, Ordering::Relaxed);
        if let Some(metadata) = &self.metadata {
            metadata.forget();
        }
    }
}

/// Queues with `pairs` pairs: more than one also have the control queue.
fn queues(pairs: usize) -> usize {
    if pairs > 1 { 2 * pairs + 1 } else { 2 }
}

#[cfg(test)]
mod tests;
