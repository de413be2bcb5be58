//! The balloon that a driver runs: what each queue's chains ask for.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;

use super::pages::{Frames, PAGE};
use super::{Shared, VIRTIO_BALLOON_CMD_ID_STOP, is_run};
use crate::GuestMemory;
use crate::metrics::BalloonMetrics;
use crate::virtio::chain::{Chain, Segments};
use crate::virtio::queue::{Completion, Queue};
use crate::virtio::{Interrupt, QueueError, Source, Token, Worker, kick_again, kick_source};

const KICK: Token = Token(0);
const TIMER: Token = Token(1);

/// Pages looked at in one turn, about; a chain is not cut.
const TURN_PAGES: usize = 8192;

/// The most bytes given back for one chain of free pages. Linux names at most 32 blocks of 4 MiB at once; what is
/// beyond stays with the guest, for these are hints.
const MAX_CHAIN_BYTES: usize = 128 << 20;

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Inflate,
    Deflate,
    Statistics,
    Hinting,
    Reporting,
    /// The driver did not accept the feature that it is for.
    None,
}

/// A queue, what it is for, and the statistics buffer that the device holds until it wants new figures.
pub(super) struct Line {
    pub(super) role: Role,
    pub(super) queue: Queue,
    pub(super) held: Option<Completion>,
}

/// Asks for statistics, once for each buffer that the driver sends.
pub(super) struct Polling {
    pub(super) timer: TimerFd,
    pub(super) interval: Duration,
}

/// A run of hints, as it was when the worker was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hinting {
    pub(super) command: u32,
    pub(super) acknowledge_on_stop: bool,
}

/// The balloon that a driver runs.
pub(super) struct BalloonWorker {
    /// In the order of the device's queues.
    pub(super) lines: Vec<Line>,
    pub(super) kick: EventFd,
    pub(super) work: Work,
}

/// What all queues share.
pub(super) struct Work {
    /// Reused by every request.
    pub(super) chain: Chain,
    frames: Frames,
    ranges: Segments,
    pub(super) memory: Arc<GuestMemory>,
    pub(super) interrupt: Arc<dyn Interrupt>,
    pub(super) metrics: Arc<BalloonMetrics>,
    pub(super) shared: Arc<Shared>,
    pub(super) polling: Option<Polling>,
    pub(super) hinting: Hinting,
}

impl Worker for BalloonWorker {
    fn sources(&self) -> Vec<Source> {
        let mut sources = vec![kick_source(&self.kick, KICK)];
        if let Some(polling) = &self.work.polling {
            sources.push(Source {
                fd: polling.timer.as_raw_fd(),
                token: TIMER,
                events: EventSet::IN,
            });
        }
        sources
    }

    fn on_event(&mut self, token: Token) -> Result<(), QueueError> {
        let worked = match token {
            TIMER => self.poll_statistics(),
            _ => self.turn(),
        };
        if worked.is_err() {
            self.work.metrics.event_fails.increment();
        }
        worked
    }

    /// The statistics buffer that is held goes back to where it was, to be read again.
    fn stop(self: Box<Self>) -> Vec<Queue> {
        let queues = self.lines.into_iter().map(|mut line| {
            if let Some(held) = line.held {
                line.queue.put_back(held);
            }
            line.queue
        });
        queues.collect()
    }
}

impl BalloonWorker {
    /// Does what is queued, up to [`TURN_PAGES`], and tells the driver.
    fn turn(&mut self) -> Result<(), QueueError> {
        let mut pages = 0;
        for (index, line) in (0..).zip(&mut self.lines) {
            if line.role == Role::None {
                continue;
            }
            line.drain(&mut self.work, &mut pages)?;
            if line.queue.needs_interrupt()? {
                self.work.interrupt.queue(index);
            }
        }
        if pages >= TURN_PAGES {
            kick_again(&self.kick);
        }
        Ok(())
    }

    /// Gives the statistics buffer back when it is time: the driver then fills it anew (virtio 1.2 §5.5.6.3).
    fn poll_statistics(&mut self) -> Result<(), QueueError> {
        let polling = self.work.polling.as_ref();
        // An event that came with the timer's start says nothing.
        if polling.is_none_or(|polling| polling.timer.is_armed().unwrap_or(true)) {
            return Ok(());
        }
        for (index, line) in (0..).zip(&mut self.lines) {
            if let Some(held) = line.held.take() {
                line.queue.give_back(held, 0)?;
                if line.queue.needs_interrupt()? {
                    self.work.interrupt.queue(index);
                }
            }
        }
        Ok(())
    }
}

impl Line {
    fn drain(&mut self, work: &mut Work, pages: &mut usize) -> Result<(), QueueError> {
        self.queue.disable_kicks()?;
        while *pages < TURN_PAGES
            && let Some(done) = self.queue.pop_or_wait(&mut work.chain)?
        {
            *pages = pages.saturating_add(1);
            self.serve(work, done, pages)?;
        }
        Ok(())
    }

    /// Does what the chain in `work` asks for and gives its head back, or holds it.
    fn serve(
        &mut self,
        work: &mut Work,
        done: Completion,
        pages: &mut usize,
    ) -> Result<(), QueueError> {
        let looked_at = match self.role {
            Role::Inflate => work.inflate(),
            Role::Hinting => work.take_hint(),
            Role::Reporting => work.take_report(),
            Role::Statistics => {
                let is_good = work.take_statistics();
                // Drivers send one; of more, the latest is held: only what was popped last can be put back.
                if let Some(earlier) = self.held.take() {
                    self.queue.give_back(earlier, 0)?;
                }
                if is_good {
                    self.held = Some(done);
                    return Ok(());
                }
                0
            }
            Role::Deflate => {
                // The guest uses the pages when it likes: they read as zeroes.
                work.metrics.deflate_count.increment();
                0
            }
            Role::None => 0,
        };
        *pages = pages.saturating_add(looked_at);
        self.queue.give_back(done, 0)
    }
}

impl Work {
    pub(super) fn new(
        memory: Arc<GuestMemory>,
        interrupt: Arc<dyn Interrupt>,
        metrics: Arc<BalloonMetrics>,
        shared: Arc<Shared>,
        hinting: Hinting,
    ) -> Self {
        Self {
            chain: Chain::new(&memory),
            frames: Frames::default(),
            ranges: Segments::new(Arc::clone(&memory)),
            memory,
            interrupt,
            metrics,
            shared,
            polling: None,
            hinting,
        }
    }

    /// Gives the pages that the chain names to the host. Returns how many numbers were looked at.
    fn inflate(&mut self) -> usize {
        self.metrics.inflate_count.increment();
        match self.frames.read(&self.chain.readable, &self.memory) {
            Ok(0) => {}
            Ok(_) => self.metrics.event_fails.increment(),
            Err(_) => {
                self.metrics.event_fails.increment();
                return 0;
            }
        }
        let mut has_failed = false;
        for (start, len) in self.frames.ranges() {
            if self.ranges.push(start, len).is_err() {
                // Full: all of it is guest memory. What was added of this range is meant too.
                has_failed |= self.ranges.discard(usize::MAX).is_err();
                self.ranges.clear();
                has_failed |= self.ranges.push(start, len).is_err();
            }
        }
        has_failed |= self.ranges.discard(usize::MAX).is_err();
        self.ranges.clear();
        if has_failed {
            self.metrics.event_fails.increment();
        }
        self.chain.readable.len() / size_of::<u32>()
    }

    /// Free pages that the driver will not use before it has the chain back. Returns how many.
    fn take_report(&mut self) -> usize {
        let metrics = &self.metrics;
        metrics.free_page_report_count.increment();
        match self.chain.writable.discard(MAX_CHAIN_BYTES) {
            Ok(freed) if freed > 0 => metrics.free_page_report_freed.add(freed as u64),
            Ok(_) | Err(_) => metrics.free_page_report_fails.increment(),
        }
        self.chain.writable.len().min(MAX_CHAIN_BYTES) / PAGE as usize
    }

    /// A command of the driver's, or free pages that it will not use during the run. Returns how many pages.
    fn take_hint(&mut self) -> usize {
        let metrics = &self.metrics;
        if let Some(command) = self.chain.readable.read_head::<u32>().map(u32::from_le) {
            self.shared.set_guest_command(command);
            if command == VIRTIO_BALLOON_CMD_ID_STOP && self.hinting.acknowledge_on_stop {
                self.acknowledge();
            }
            return 0;
        }
        metrics.free_page_hint_count.increment();
        // Pages of an earlier run may be in use again.
        let is_of_this_run = is_run(self.hinting.command)
            && self.shared.guest_command() == Some(self.hinting.command);
        if !is_of_this_run {
            return 0;
        }
        match self.chain.writable.discard(MAX_CHAIN_BYTES) {
            Ok(freed) if freed > 0 => metrics.free_page_hint_freed.add(freed as u64),
            Ok(_) | Err(_) => metrics.free_page_hint_fails.increment(),
        }
        self.chain.writable.len().min(MAX_CHAIN_BYTES) / PAGE as usize
    }

    /// Tells the driver that it may use its free pages again.
    fn acknowledge(&self) {
        let command = self.hinting.command;
        if is_run(command) && self.shared.acknowledge(command) {
            self.interrupt.config();
        }
    }

    /// Reads the figures in the chain. True when its buffer is to be held until new ones are wanted.
    fn take_statistics(&mut self) -> bool {
        if self
            .shared
            .figures
            .record(&mut self.chain.readable)
            .is_err()
        {
            self.metrics.stats_update_fails.increment();
            return false;
        }
        self.metrics.stats_updates_count.increment();
        if let Some(Polling { timer, interval }) = &mut self.polling
            && timer.reset(*interval, None).is_err()
        {
            self.metrics.stats_update_fails.increment();
        }
        true
    }
}
