//! The vsock device (virtio 1.2 §5.10): streams between processes of the guest and Unix sockets of the host.
//!
//! ```text
//!  transmit queue --packet--> Muxer --> Connection --> socket
//!  receive queue <--packet--- Muxer <-- Connection <-- socket        epoll of the Muxer: the worker's second source
//! ```
//!
//! Data moves in one system call each way, straight between guest memory and a socket. The connections outlive the
//! worker: they wait at the device while the machine is paused, and end when the driver resets it.

mod backlog;
mod connection;
mod muxer;
pub mod packet;
mod rooms;
mod unix;

use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

use virtio_bindings::virtio_config::{VIRTIO_F_IN_ORDER, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use muxer::Muxer;
use packet::TRANSPORT_RESET;
use rooms::{Gathered, Rooms};
use unix::Listener;
pub use unix::VsockError;

use super::chain::Chain;
use super::queue::Queue;
use super::{
    ActivateError, Activation, Interrupt, QueueError, Source, Token, Traits, VirtioDevice, Worker,
};
use crate::metrics::{Group, VsockMetrics};

/// Entries of each queue.
const QUEUE_SIZE: u16 = 256;
/// Packets taken, and packets given, in one turn.
const TURN: usize = 128;
/// Bytes taken, and bytes given, in one turn, about.
const TURN_BYTES: usize = 2 << 20;

// Queues (virtio 1.2 §5.10.2).
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const EVENT: u16 = 2;

const KICK: Token = Token(0);
const SOCKETS: Token = Token(1);

/// Where the connections are while no worker has them. Locked only to move them.
type Home = Arc<Mutex<Option<Muxer>>>;

/// The connections while a worker has them. They go home when it goes, whichever way it does.
struct Lent {
    /// Gone only while this is dropped.
    muxer: Option<Muxer>,
    home: Home,
}

/// A vsock device that no driver runs.
pub struct Vsock {
    // Fixed configuration.
    config: [u8; 8],
    // Runtime glue.
    home: Home,
    metrics: Arc<VsockMetrics>,
    /// A driver ran it here, and has not reset it since.
    has_run: bool,
}

impl Vsock {
    /// Makes the socket on which the host reaches the guest; it goes with the device.
    ///
    /// # Errors
    /// [`VsockError`] says what is wrong with the socket and what to do.
    pub fn open(config: &vm_config::Vsock) -> Result<Self, VsockError> {
        let cid = u64::from(config.guest_cid);
        let listener = Listener::bind(&config.uds_path)?;
        let metrics = Arc::<VsockMetrics>::default();
        let muxer = Muxer::new(cid, listener, Arc::clone(&metrics))?;
        Ok(Self {
            config: cid.to_le_bytes(),
            home: Arc::new(Mutex::new(Some(muxer))),
            metrics,
            has_run: false,
        })
    }

    /// Gives the guest another address; its socket stays. For a device that no driver ran yet.
    pub fn set_guest_cid(&mut self, cid: u32) {
        let cid = u64::from(cid);
        self.config = cid.to_le_bytes();
        let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(muxer) = home.as_mut() {
            muxer.set_cid(cid);
        }
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<VsockMetrics> {
        Arc::clone(&self.metrics)
    }

    fn start(&mut self, with: Activation) -> Result<VsockWorker, ActivateError> {
        let missing = |what| ActivateError {
            what,
            source: std::io::ErrorKind::NotFound.into(),
        };
        let Ok([receive, transmit, event]) = <[Queue; 3]>::try_from(with.queues) else {
            return Err(missing("three queues"));
        };
        let muxer = Lent::take(&self.home).ok_or_else(|| missing("its connections"))?;
        // A driver that used the queues, but not here, believes in connections that are elsewhere.
        let is_used = |queue: &Queue| queue.state().next_available != 0;
        let is_elsewhere = [&receive, &transmit, &event].into_iter().any(is_used);
        let must_announce = is_elsewhere && !self.has_run;
        self.has_run = true;
        Ok(VsockWorker {
            rooms: Rooms::new(&receive),
            chain: transmit.new_chain(),
            receive,
            transmit,
            event,
            is_transmit_held: false,
            must_announce,
            muxer,
            metrics: Arc::clone(&self.metrics),
            kick: with.kick,
            interrupt: with.interrupt,
        })
    }
}

impl VirtioDevice for Vsock {
    fn traits(&self) -> Traits {
        let features = [
            VIRTIO_F_VERSION_1,
            VIRTIO_F_IN_ORDER,
            VIRTIO_RING_F_EVENT_IDX,
        ];
        Traits {
            device_type: VIRTIO_ID_VSOCK,
            features: features.iter().fold(0, |all, bit| all | 1 << bit),
            queue_sizes: vec![QUEUE_SIZE; 3],
        }
    }

    /// The guest's address (virtio 1.2 §5.10.4).
    fn counters(&self) -> Arc<dyn Group> {
        self.metrics()
    }

    fn config_space(&self) -> &[u8] {
        &self.config
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

    /// The driver that knew the connections is gone.
    fn reset(&mut self) {
        self.has_run = false;
        if let Some(mut muxer) = Lent::take(&self.home) {
            muxer.clear();
        }
    }
}

/// A vsock device that a driver runs.
struct VsockWorker {
    receive: Queue,
    transmit: Queue,
    event: Queue,
    /// Reused by every packet of the driver.
    chain: Chain,
    /// Buffers for packets to the driver; none between two events.
    rooms: Rooms,
    /// Packets wait until the driver took what it is answered with.
    is_transmit_held: bool,
    /// The driver is to be told that its connections are gone.
    must_announce: bool,
    muxer: Lent,
    metrics: Arc<VsockMetrics>,
    kick: EventFd,
    interrupt: Arc<dyn Interrupt>,
}

/// Why one direction's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing more to do until an event.
    Idle,
    /// More to do in the next turn.
    More,
}

impl Worker for VsockWorker {
    fn sources(&self) -> Vec<Source> {
        let sockets = Source {
            fd: self.muxer.as_raw_fd(),
            token: SOCKETS,
            events: EventSet::IN,
        };
        vec![super::kick_source(&self.kick, KICK), sockets]
    }

    fn on_event(&mut self, token: Token) -> Result<(), QueueError> {
        if token == SOCKETS {
            self.muxer.poll();
        } else {
            self.metrics.rx_queue_event_count.increment();
            self.metrics.tx_queue_event_count.increment();
        }
        self.turn()
    }

    /// Nothing is held between two events but the connections, which wait for the next worker.
    fn stop(self: Box<Self>) -> Vec<Queue> {
        vec![self.receive, self.transmit, self.event]
    }
}

impl VsockWorker {
    fn turn(&mut self) -> Result<(), QueueError> {
        let metrics = Arc::clone(&self.metrics);
        self.announce()
            .inspect_err(|_| metrics.ev_queue_event_fails.increment())?;
        let has_waiting = self.muxer.accept();
        let taken = self
            .take_packets()
            .inspect_err(|_| metrics.tx_queue_event_fails.increment())?;
        let given = self
            .give_packets()
            .inspect_err(|_| metrics.rx_queue_event_fails.increment())?;
        let can_go_on = self.is_transmit_held && self.muxer.takes_packets();
        if has_waiting || can_go_on || taken == Turn::More || given == Turn::More {
            super::kick_again(&self.kick);
        }
        Ok(())
    }

    /// From the driver: takes what it has, up to [`TURN`] and [`TURN_BYTES`].
    fn take_packets(&mut self) -> Result<Turn, QueueError> {
        self.transmit.disable_kicks()?;
        let (mut count, mut bytes) = (0, 0);
        let turn = loop {
            self.is_transmit_held = !self.muxer.takes_packets();
            if self.is_transmit_held {
                break Turn::Idle;
            }
            if count >= TURN || bytes >= TURN_BYTES {
                break Turn::More;
            }
            let Some(done) = self.transmit.pop_or_wait(&mut self.chain)? else {
                break Turn::Idle;
            };
            count += 1;
            bytes += self.chain.readable.len();
            self.muxer.on_packet(&mut self.chain.readable);
            self.transmit.give_back(done, 0)?;
        };
        if self.transmit.needs_interrupt()? {
            self.interrupt.queue(TRANSMIT);
        }
        Ok(turn)
    }

    /// To the driver: gives what there is and it has buffers for, up to [`TURN`] and [`TURN_BYTES`].
    fn give_packets(&mut self) -> Result<Turn, QueueError> {
        if !self.muxer.has_packets() {
            return Ok(Turn::Idle);
        }
        self.receive.disable_kicks()?;
        let (mut count, mut bytes) = (0, 0);
        let turn = loop {
            if count >= TURN || bytes >= TURN_BYTES {
                break Turn::More;
            }
            let wanted = self.muxer.wanted();
            match self.rooms.gather(&mut self.receive, wanted)? {
                Gathered::Some => {}
                Gathered::Refused => {
                    self.metrics.rx_queue_event_fails.increment();
                    count += 1;
                    continue;
                }
                // The driver may have added buffers before it saw that they are wanted.
                Gathered::None if self.receive.enable_kicks()? => continue,
                Gathered::None => break Turn::Idle,
            }
            let (room, parts) = self.rooms.as_parts();
            let Some(len) = self.muxer.next(room, parts) else {
                self.rooms.put_back(&mut self.receive);
                break Turn::Idle;
            };
            let packets = self.rooms.give_back(&mut self.receive, len)?;
            self.metrics.rx_packets_count.add(packets as u64);
            count += packets;
            bytes += len;
        };
        if self.receive.needs_interrupt()? {
            self.interrupt.queue(RECEIVE);
        }
        Ok(turn)
    }

    /// Tells the driver that its connections are gone, once it has a buffer for that (virtio 1.2 §5.10.6.7).
    fn announce(&mut self) -> Result<(), QueueError> {
        while self.must_announce {
            let Some(done) = self.event.pop_or_wait(&mut self.chain)? else {
                break;
            };
            let written = self.chain.writable.copy_from(0, &TRANSPORT_RESET);
            self.must_announce = written < TRANSPORT_RESET.len();
            let len = u32::try_from(written).unwrap_or(u32::MAX);
            self.event.give_back(done, len)?;
        }
        if self.event.needs_interrupt()? {
            self.interrupt.queue(EVENT);
        }
        Ok(())
    }
}

impl Lent {
    fn take(home: &Home) -> Option<Self> {
        let muxer = home.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut muxer = muxer?;
        muxer.resume();
        Some(Self {
            muxer: Some(muxer),
            home: Arc::clone(home),
        })
    }
}

impl Deref for Lent {
    type Target = Muxer;

    fn deref(&self) -> &Muxer {
        self.muxer.as_ref().expect("there until it is dropped")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Muxer {
        self.muxer.as_mut().expect("there until it is dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(mut muxer) = self.muxer.take() {
            muxer.pause();
            *self.home.lock().unwrap_or_else(PoisonError::into_inner) = Some(muxer);
        }
    }
}

#[cfg(test)]
mod tests;
