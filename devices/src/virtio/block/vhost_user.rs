//! A disk that another process serves, by the vhost-user protocol (`devices::virtio::vhost_user`).
//!
//! The driver's kicks go to the back end, whose calls come to the worker and leave as interrupts: the transport may
//! have to say why. The queue is the back end's while the worker lives, and returns with the answer to GET_VRING_BASE.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_config::{CacheType, Drive};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{DiskError, QUEUE_SIZE};
use crate::metrics::{Group, VhostUserBlockMetrics};
use crate::sys::event::lend;
use crate::sys::poll::is_writable;
use crate::virtio::queue::Queue;
use crate::virtio::vhost_user::{BackEnd, CONFIG_LEN, Ring, SHORT_PATIENCE, VhostUserError};
use crate::virtio::{
    ActivateError, Activation, Changed, Interrupt, QueueError, Source, Token, Traits, VirtioDevice,
    Worker,
};

/// What a back end cannot do without.
const NEEDED: (u64, &str) = (1 << VIRTIO_F_VERSION_1, "VIRTIO_F_VERSION_1");

const CALL: Token = Token(0);
const SOCKET: Token = Token(1);

/// A disk of another process that no driver runs.
pub struct VhostUserBlock {
    // Fixed configuration.
    path: PathBuf,
    features: u64,
    config: [u8; CONFIG_LEN],
    // Runtime glue.
    back_end: Shared,
    metrics: Arc<VhostUserBlockMetrics>,
    /// A worker ran, and the driver has not reset the device since.
    has_run: bool,
}

/// The device and its worker have the back end by turns; locked without waiting.
#[derive(Clone)]
struct Shared(Arc<Mutex<BackEnd>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BackEnd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VhostUserBlock {
    /// Connects to the drive's back end.
    ///
    /// # Errors
    /// [`DiskError`] says what is wrong with the drive or its back end, and what to do.
    pub fn connect(drive: &Drive, patience: Duration) -> Result<Self, DiskError> {
        let path = drive.socket.clone().ok_or(DiskError::NoBackend)?;
        let is_decided = [
            (drive.path_on_host.is_some(), "`path_on_host`"),
            (drive.is_read_only.is_some(), "`is_read_only`"),
            (drive.rate_limiter.is_some(), "`rate_limiter`"),
            (drive.io_engine.is_some(), "`io_engine`"),
            (drive.serial.is_some(), "`serial`"),
            (drive.overlay_path.is_some(), "`overlay_path`"),
            (
                !drive.lower_overlay_paths.is_empty(),
                "`lower_overlay_paths`",
            ),
            (drive.num_queues.is_some(), "`num_queues`"),
        ];
        if let Some((_, field)) = is_decided.into_iter().find(|(is_stated, _)| *is_stated) {
            return Err(DiskError::NotWithSocket(field));
        }
        let start = Instant::now();
        let (mut back_end, offered) = BackEnd::connect(&path, NEEDED, patience)?;
        let config = back_end.config()?;
        let metrics = Arc::<VhostUserBlockMetrics>::default();
        metrics.init_time_us.set_us(start.elapsed());
        Ok(Self {
            path,
            features: offered & known(drive.cache_type),
            config,
            back_end: Shared(Arc::new(Mutex::new(back_end))),
            metrics,
            has_run: false,
        })
    }

    /// Reads the configuration space anew, while no worker runs.
    pub fn refresh(&mut self) -> Changed<Result<(), VhostUserError>> {
        self.metrics.update_count.increment();
        let start = Instant::now();
        let read = self.back_end.lock().config();
        match read {
            Ok(config) => {
                let took = start.elapsed();
                self.metrics.config_change_time_us.set_us(took);
                self.config = config;
                Changed::Configuration(Ok(()))
            }
            Err(error) => {
                self.metrics.update_fails.increment();
                Changed::Inside(Err(error))
            }
        }
    }

    /// Looks for a back end where one went. The driver starts anew, so there is nothing that the new one would have to
    /// know; it must offer what the driver was told.
    fn reconnect(&mut self) -> Result<(), VhostUserError> {
        let (mut back_end, offered) = BackEnd::connect(&self.path, NEEDED, SHORT_PATIENCE)?;
        if offered & self.features != self.features {
            return Err(VhostUserError::Lacks("all features of the one before"));
        }
        self.config = back_end.config()?;
        *self.back_end.lock() = back_end;
        Ok(())
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<VhostUserBlockMetrics> {
        Arc::clone(&self.metrics)
    }

    fn start(&self, with: Activation) -> Result<VhostUserWorker, ActivateError> {
        let refuse = |what| move |source| ActivateError { what, source };
        let queue = with.queues.into_iter().next();
        let queue = queue.ok_or_else(|| refuse("a queue")(io::ErrorKind::NotFound.into()))?;
        let call = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(refuse("a call event"))?;
        if queue.is_ready() {
            let ring = Ring {
                state: queue.state(),
                kick: &with.kick,
                call: &call,
            };
            let mut back_end = self.back_end.lock();
            let started = back_end.start(with.features, &with.memory, &ring);
            started.map_err(|error| refuse("the vhost-user back end")(io::Error::other(error)))?;
            kick_once(&with.kick);
        }
        Ok(VhostUserWorker {
            path: self.path.clone(),
            queue,
            call,
            back_end: self.back_end.clone(),
            look: if self.has_run {
                FirstLook::Interrupts
            } else {
                FirstLook::SaysNothing
            },
            is_over: false,
            metrics: Arc::clone(&self.metrics),
            interrupt: with.interrupt,
        })
    }
}

/// Features that a driver may have of a back end's (virtio 1.2 §5.2.3).
fn known(cache: CacheType) -> u64 {
    let always = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_BLK_F_RO;
    match cache {
        CacheType::Unsafe => always,
        CacheType::Writeback => always | 1 << VIRTIO_BLK_F_FLUSH,
    }
}

/// Has the back end look at the ring: kicks may have come before it had it. The back end shares the event and could have
/// filled it and made writing wait, so that is looked at first.
fn kick_once(kick: &EventFd) {
    if is_writable(lend(kick)) {
        // Fails only when the counter is full, and then the back end is awake.
        let _ = kick.write(1);
    }
}

impl VirtioDevice for VhostUserBlock {
    fn traits(&self) -> Traits {
        Traits {
            device_type: VIRTIO_ID_BLOCK,
            features: self.features,
            queue_sizes: vec![QUEUE_SIZE],
        }
    }

    fn counters(&self) -> Arc<dyn Group> {
        self.metrics()
    }

    fn config_space(&self) -> &[u8] {
        &self.config
    }

    fn activate(&mut self, with: Activation) -> Result<Box<dyn Worker>, ActivateError> {
        let start = Instant::now();
        match self.start(with) {
            Ok(worker) => {
                self.metrics.activate_time_us.set_us(start.elapsed());
                self.has_run = true;
                Ok(Box::new(worker))
            }
            Err(error) => {
                self.metrics.activate_fails.increment();
                Err(error)
            }
        }
    }

    /// A driver that gives up a lost disk and starts anew gets a new back end, if there is one.
    fn reset(&mut self) {
        self.has_run = false;
        let is_gone = self.back_end.lock().look().is_err();
        if is_gone && self.reconnect().is_ok() {
            tracing::info!("drive with socket {}: connected anew", self.path.display());
        }
    }
}

/// What the loop's first look at the call means: it comes whether the back end called or not. If it did, an event
/// follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FirstLook {
    /// The worker before this one may not have passed on the last call.
    Interrupts,
    SaysNothing,
    /// It is over.
    Done,
}

/// A disk of another process that a driver runs.
struct VhostUserWorker {
    path: PathBuf,
    /// The back end's, if it is ready.
    queue: Queue,
    call: EventFd,
    look: FirstLook,
    back_end: Shared,
    /// The back end is gone, and the driver has been told.
    is_over: bool,
    metrics: Arc<VhostUserBlockMetrics>,
    interrupt: Arc<dyn Interrupt>,
}

impl Worker for VhostUserWorker {
    fn sources(&self) -> Vec<Source> {
        let call = Source {
            fd: self.call.as_raw_fd(),
            token: CALL,
            events: EventSet::IN,
        };
        let socket = self.back_end.lock().socket().map(|fd| Source {
            fd,
            token: SOCKET,
            events: EventSet::IN | EventSet::READ_HANG_UP,
        });
        [Some(call), socket].into_iter().flatten().collect()
    }

    /// The call is never read: the back end could empty it first, and make the read wait.
    fn on_event(&mut self, token: Token) -> Result<(), QueueError> {
        if self.is_over {
            return Ok(());
        }
        if token == SOCKET {
            let looked = self.back_end.lock().look();
            if let Err(error) = looked {
                self.give_up(&error);
            }
        } else if std::mem::replace(&mut self.look, FirstLook::Done) != FirstLook::SaysNothing {
            self.interrupt.queue(0);
        }
        Ok(())
    }

    fn stop(mut self: Box<Self>) -> Vec<Queue> {
        if self.queue.is_ready() && !self.is_over {
            let stopped = self.back_end.lock().stop();
            match stopped {
                // Its driver took the used ring out of memory: it cannot, the memory was there when it started.
                Ok(next_available) => drop(self.queue.take_over(next_available)),
                Err(error) => self.give_up(&error),
            }
        }
        vec![self.queue]
    }

    fn waits_for_others(&self) -> bool {
        true
    }
}

impl VhostUserWorker {
    /// The machine goes on without this disk.
    fn give_up(&mut self, error: &VhostUserError) {
        self.is_over = true;
        self.metrics.event_fails.increment();
        tracing::error!("drive with socket {}: {error}", self.path.display());
        self.interrupt.needs_reset();
    }
}

#[cfg(test)]
mod tests;
