//! Where frames for the metadata service leave an interface's transmit queues, before the tap, and where its answers
//! come into the receive queue. An interface without the service has none of this.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::timerfd::TimerFd;

use super::frame::HEADER_LEN;
use crate::limiter::now;
use crate::mmds::packet::{MAX_ANSWER, START_LEN};
use crate::mmds::stack::MAX_LOOK;
use crate::mmds::{Mmds, Rules, Stack};
use crate::sys::segments::Segments;
use crate::virtio::{Source, Token};

/// The service at an interface, and its connections while no worker has them.
#[derive(Clone)]
pub(super) struct Metadata {
    mmds: Arc<Mmds>,
    rules: Rules,
    address: Ipv4Addr,
    /// Absent while a worker has it.
    stack: Arc<Mutex<Option<Stack>>>,
}

/// The service in the hands of a worker.
pub(super) struct Branch {
    stack: Stack,
    home: Metadata,
    /// Runs while the guest owes an acknowledgement.
    timer: TimerFd,
    /// When it ends.
    armed_until: Option<u64>,
    /// The start of a frame from the guest.
    look: Box<[u8; MAX_LOOK]>,
    /// A frame for the guest, behind the header of all frames.
    frame: Box<[u8; MAX_ANSWER]>,
    goes_first: bool,
}

impl Metadata {
    pub(super) fn new(mmds: Arc<Mmds>, rules: Rules, address: Ipv4Addr) -> Self {
        Self {
            mmds,
            rules,
            address,
            stack: Arc::default(),
        }
    }

    /// Hands the connections to a worker.
    ///
    /// # Errors
    /// When the host gives no timer.
    pub(super) fn branch(&self) -> io::Result<Branch> {
        let timer = TimerFd::new()?;
        let stack = self.lock().take();
        let new = || Stack::new(Arc::clone(&self.mmds), self.rules, self.address);
        Ok(Branch {
            stack: stack.unwrap_or_else(new),
            home: self.clone(),
            timer,
            armed_until: None,
            look: Box::new([0; MAX_LOOK]),
            frame: Box::new([0; MAX_ANSWER]),
            goes_first: true,
        })
    }

    /// The driver is another: it knows nothing of connections.
    pub(super) fn forget(&self) {
        if let Some(stack) = self.lock().as_mut() {
            stack.clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Stack>> {
        self.stack.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Branch {
    /// What wakes the worker when an acknowledgement is late. Never read: each expiry is an edge.
    pub(super) fn source(&self, token: Token) -> Source {
        Source {
            fd: self.timer.as_raw_fd(),
            token,
            events: EventSet::IN,
        }
    }

    /// Takes the frame, which follows its header, if it is for the service.
    pub(super) fn takes(&mut self, frame: &Segments) -> bool {
        let mut start = [0; START_LEN];
        let count = frame.copy_to(HEADER_LEN, &mut start);
        if !self.stack.takes(start.get(..count).unwrap_or_default()) {
            return false;
        }
        // A driver that changes the frame meanwhile has sent another; whatever it is, it is looked at here alone.
        let count = frame.copy_to(HEADER_LEN, &mut self.look[..]);
        let look = self.look.get(..count).unwrap_or_default();
        let len = frame.len().saturating_sub(HEADER_LEN);
        self.stack.receive(look, len, now());
        true
    }

    pub(super) fn has_frame(&self) -> bool {
        self.stack.is_ready()
    }

    /// The next frame for the guest.
    pub(super) fn next_frame(&mut self) -> Option<&[u8]> {
        let len = self.stack.send(now(), &mut self.frame)?;
        self.frame.get(..len)
    }

    /// A frame found no room, and is lost.
    pub(super) fn lost_frame(&self) {
        self.home.mmds.metrics().tx_errors.increment();
    }

    /// Whether the service comes before the tap in this turn: every other time.
    pub(super) fn goes_first(&mut self) -> bool {
        self.goes_first = !self.goes_first;
        self.goes_first
    }

    /// The timer ended.
    pub(super) fn on_time(&mut self) {
        self.armed_until = None;
        self.stack.on_time(now());
    }

    /// At the end of a turn: lets the timer run as long as it is needed. One that ends too early is set again.
    pub(super) fn set_timer(&mut self) {
        match (self.stack.deadline(), self.armed_until) {
            (None, Some(_)) => {
                // One that goes on wakes the worker once, for nothing.
                let _ = self.timer.clear();
                self.armed_until = None;
            }
            (Some(deadline), armed) if armed.is_none_or(|armed| deadline < armed) => {
                let left = deadline.saturating_sub(now()).max(1);
                // Without it late frames are sent again when the guest next sends one.
                if self.timer.reset(Duration::from_nanos(left), None).is_ok() {
                    self.armed_until = Some(deadline);
                }
            }
            _ => {}
        }
    }

    /// Brings the connections home when the worker stops.
    pub(super) fn stop(self) {
        *self.home.lock() = Some(self.stack);
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
