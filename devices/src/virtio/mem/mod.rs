//! The memory device (virtio 1.2 §5.15): a guest plugs memory into itself in blocks, and gives it back, as the
//! host requests.
//!
//! ```text
//!  requested size --config interrupt--> driver --PLUG, UNPLUG--> Plugging --> Blocks: what devices may touch
//!                                                                        +--> BlockSource: what vCPUs may touch
//! ```
//!
//! The state is shared between the device and its worker, and outlives a reset of the device: what is plugged stays
//! (virtio 1.2 §5.15.5).

mod region;
mod request;

use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_MEM;
use vm_config::{Explain, FaultCode, FaultKind, MemoryHotplugStatus};
use vmm_sys_util::eventfd::EventFd;

use region::Plugging;
pub use region::{BlockSource, Region};
use request::{Request, parse};

use super::chain::Chain;
use super::queue::Queue;
use super::{
    ActivateError, Activation, Interrupt, QueueError, Source, Token, Traits, VirtioDevice, Worker,
};
use crate::metrics::{Group, Latency, MemMetrics};

/// The driver does not touch what is not plugged (virtio 1.2 §5.15.3).
const VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE: u32 = 1;

/// Entries of the one queue.
const QUEUE_SIZE: u16 = 256;
/// Bytes of the configuration space.
const CONFIG_LEN: usize = 56;
/// Requests served in one turn: the host may take its time for each.
const TURN: usize = 8;

const MIB: u64 = 1 << 20;
const KICK: Token = Token(0);

/// What cannot be requested. The wording is what existing clients look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemError {
    /// No driver runs it.
    #[error("Device is not active")]
    NotActive,
    /// Not whole blocks, or more than there are.
    #[error(
        "Size {bytes} is invalid: it must be a multiple of block size and less than the total size"
    )]
    Size {
        /// What was requested.
        bytes: u64,
    },
}

impl Explain for MemError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::NotActive => FaultCode::DeviceNotActive,
            Self::Size { .. } => FaultCode::HotplugMemorySize,
        })
    }
}

/// A memory device that no driver runs.
pub struct Mem {
    // Runtime glue.
    metrics: Arc<MemMetrics>,
    slot_size: u64,
    // Guest-visible state.
    plugging: Arc<Mutex<Plugging>>,
    /// As it was when it was last refreshed.
    config: [u8; CONFIG_LEN],
}

impl Mem {
    /// A device over `region`, of which nothing is plugged.
    #[must_use]
    pub fn new(region: Region) -> Self {
        let metrics = Arc::<MemMetrics>::default();
        let slot_size = region.slot_size;
        let plugging = Plugging::new(region, Arc::clone(&metrics));
        let mut mem = Self {
            metrics,
            slot_size,
            plugging: Arc::new(Mutex::new(plugging)),
            config: [0; CONFIG_LEN],
        };
        mem.refresh_config();
        mem
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<MemMetrics> {
        Arc::clone(&self.metrics)
    }

    /// Sets how much memory the guest is to plug; whoever calls then tells the driver.
    ///
    /// # Errors
    /// [`MemError::Size`].
    pub fn request(&mut self, size_mib: u32) -> Result<(), MemError> {
        let bytes = u64::from(size_mib) * MIB;
        if !lock(&self.plugging).request(bytes) {
            return Err(MemError::Size { bytes });
        }
        Ok(())
    }

    /// What is requested and what is there.
    #[must_use]
    pub fn status(&self) -> MemoryHotplugStatus {
        let plugging = lock(&self.plugging);
        MemoryHotplugStatus {
            block_size_mib: plugging.block_size() / MIB,
            total_size_mib: plugging.len() / MIB,
            slot_size_mib: self.slot_size / MIB,
            plugged_size_mib: plugging.plugged() / MIB,
            requested_size_mib: plugging.requested() / MIB,
        }
    }
}

fn lock(plugging: &Mutex<Plugging>) -> MutexGuard<'_, Plugging> {
    plugging.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VirtioDevice for Mem {
    fn traits(&self) -> Traits {
        Traits {
            device_type: VIRTIO_ID_MEM,
            features: 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE,
            queue_sizes: vec![QUEUE_SIZE],
        }
    }

    fn counters(&self) -> Arc<dyn Group> {
        self.metrics()
    }

    fn config_space(&self) -> &[u8] {
        &self.config
    }

    fn refresh_config(&mut self) {
        lock(&self.plugging).describe(&mut self.config);
    }

    fn activate(&mut self, with: Activation) -> Result<Box<dyn Worker>, ActivateError> {
        let Some(queue) = with.queues.into_iter().next() else {
            self.metrics.activate_fails.increment();
            return Err(ActivateError {
                what: "a queue",
                source: ErrorKind::NotFound.into(),
            });
        };
        Ok(Box::new(MemWorker {
            chain: queue.new_chain(),
            queue,
            plugging: Arc::clone(&self.plugging),
            metrics: Arc::clone(&self.metrics),
            kick: with.kick,
            interrupt: with.interrupt,
        }))
    }
}

/// A memory device that a driver runs.
struct MemWorker {
    queue: Queue,
    /// Reused by every request.
    chain: Chain,
    plugging: Arc<Mutex<Plugging>>,
    metrics: Arc<MemMetrics>,
    kick: EventFd,
    interrupt: Arc<dyn Interrupt>,
}

impl Worker for MemWorker {
    fn sources(&self) -> Vec<Source> {
        vec![super::kick_source(&self.kick, KICK)]
    }

    fn on_event(&mut self, _token: Token) -> Result<(), QueueError> {
        self.metrics.queue_event_count.increment();
        let worked = self.turn();
        if worked.is_err() {
            self.metrics.queue_event_fails.increment();
        }
        worked
    }

    /// Nothing is in flight between two events.
    fn stop(self: Box<Self>) -> Vec<Queue> {
        vec![self.queue]
    }
}

impl MemWorker {
    /// Serves what is queued, up to [`TURN`], then tells the driver.
    fn turn(&mut self) -> Result<(), QueueError> {
        self.queue.disable_kicks()?;
        let mut served = 0;
        while let Some(done) = self.queue.pop_or_wait(&mut self.chain)? {
            served += 1;
            let len = self.serve();
            self.queue.give_back(done, len)?;
            if served >= TURN {
                super::kick_again(&self.kick);
                break;
            }
        }
        if self.queue.needs_interrupt()? {
            self.interrupt.queue(0);
        }
        Ok(())
    }

    /// Does the request in the chain; says how many bytes the answer has.
    fn serve(&mut self) -> u32 {
        let Some(request) = parse(&mut self.chain) else {
            self.metrics.queue_event_fails.increment();
            return 0;
        };
        let (start, latency) = (Instant::now(), latency(&self.metrics, &request));
        let mut plugging = lock(&self.plugging);
        let done = plugging.serve(request);
        let written = (self.chain.writable).copy_from(0, &done.response.to_bytes());
        if let Some(range) = done.unplugged {
            plugging.give_back(range);
        }
        drop(plugging);
        if let Some(latency) = latency {
            latency.record(start.elapsed());
        }
        if done.is_config_changed {
            self.interrupt.config();
        }
        u32::try_from(written).unwrap_or_default()
    }
}

/// Where it counts how long `request` takes.
fn latency<'a>(metrics: &'a MemMetrics, request: &Request) -> Option<&'a Latency> {
    match request {
        Request::Plug(_) => Some(&metrics.plug_agg),
        Request::Unplug(_) => Some(&metrics.unplug_agg),
        Request::UnplugAll => Some(&metrics.unplug_all_agg),
        Request::State(_) => Some(&metrics.state_agg),
        Request::Unknown => None,
    }
}

#[cfg(test)]
mod tests;
