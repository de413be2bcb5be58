//! The queues of one tap, as many as the driver uses (virtio 1.2 §5.1.5.1), and what watches them.
//!
//! A tap with several queues sends each flow to the queue on which the guest last sent it: the automatic receive
//! steering of virtio 1.2 §5.1.6.5.6. A queue that is out of use gets nothing, and cannot be watched: the kernel reports
//! an error for it once and then nothing. So queues sit in an epoll of their own, whose descriptor is the worker's
//! source; the queue of a plain tap is the source itself.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::tap::Tap;
use crate::virtio::{Source, Token};

/// A tap's queues while a worker has them.
pub(super) struct Taps {
    queues: Arc<[Tap]>,
    /// From the front; at least one.
    used: usize,
    /// Absent for a plain tap.
    watch: Option<Watch>,
}

struct Watch {
    epoll: Epoll,
    /// One for each queue, so that one look takes all events.
    events: Vec<EpollEvent>,
}

impl Taps {
    /// Uses the first `used` of `queues`, at least one.
    pub(super) fn new(queues: Arc<[Tap]>, used: usize) -> io::Result<Self> {
        let watch = (queues.len() > 1).then(|| Watch::new(queues.len()));
        let mut taps = Self {
            used: queues.len(),
            queues,
            watch: watch.transpose()?,
        };
        // Whoever had them before may have left any of them in use.
        taps.shrink(1)?;
        if let (Some(watch), Some(first)) = (&taps.watch, taps.queues.first()) {
            watch.add(first, 0)?;
        }
        taps.set_used(used)?;
        Ok(taps)
    }

    /// What says that a queue in use is ready.
    pub(super) fn source(&self, token: Token) -> Source {
        let (fd, events) = match &self.watch {
            Some(watch) => (watch.epoll.as_raw_fd(), EventSet::IN),
            None => (self.queue(0).as_raw_fd(), EventSet::IN | EventSet::OUT),
        };
        Source { fd, token, events }
    }

    /// How many queues are in use.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// One queue. There is at least one, and its index is below the number that was given.
    pub(super) fn queue(&self, index: usize) -> &Tap {
        &self.queues[index]
    }

    /// Tells `wake` of each queue that became ready since this was last asked.
    pub(super) fn take_ready(&mut self, mut wake: impl FnMut(usize)) {
        let Some(Watch { epoll, events }) = &mut self.watch else {
            wake(0);
            return;
        };
        // A look that a signal interrupts leaves the events for the next.
        let count = epoll.wait(0, events).unwrap_or(0);
        let ready = events.iter().take(count);
        ready
            .filter_map(|event| usize::try_from(event.data()).ok())
            .filter(|index| *index < self.queues.len())
            .for_each(wake);
    }

    /// Uses the first `count` queues from now on.
    ///
    /// # Errors
    /// The host's; then as many are in use as before.
    pub(super) fn set_used(&mut self, count: usize) -> io::Result<()> {
        let before = self.used;
        let changed = self.grow(count).and_then(|()| self.shrink(count));
        changed.inspect_err(|_| {
            // Nothing better can be done if this fails too.
            let _ = self.grow(before);
            let _ = self.shrink(before);
        })
    }

    fn grow(&mut self, count: usize) -> io::Result<()> {
        while self.used < count.min(self.queues.len()) {
            let queue = self.queue(self.used);
            queue.set_used(true)?;
            if let Some(watch) = &self.watch {
                watch.add(queue, self.used)?;
            }
            self.used += 1;
        }
        Ok(())
    }

    fn shrink(&mut self, count: usize) -> io::Result<()> {
        while self.used > count.max(1) {
            let queue = self.queue(self.used - 1);
            if let Some(watch) = &self.watch {
                watch.remove(queue);
            }
            queue.set_used(false)?;
            self.used -= 1;
        }
        Ok(())
    }
}

impl Watch {
    fn new(queues: usize) -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new()?,
            events: vec![EpollEvent::default(); queues],
        })
    }

    fn add(&self, queue: &Tap, index: usize) -> io::Result<()> {
        let events = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        let event = EpollEvent::new(events, index as u64);
        self.epoll
            .ctl(ControlOperation::Add, queue.as_raw_fd(), event)
    }

    /// Fails only for a queue that is not watched.
    fn remove(&self, queue: &Tap) {
        let event = EpollEvent::default();
        let _ = self
            .epoll
            .ctl(ControlOperation::Delete, queue.as_raw_fd(), event);
    }
}
