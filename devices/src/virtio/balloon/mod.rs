//! The balloon (virtio 1.2 §5.5): memory that a guest does not need goes back to the host.
//!
//! ```text
//!  inflate    page numbers ----> Frames: sorted, checked, merged --+
//!  reporting  free ranges  ----------------------------------------+--> Segments::discard
//!  hinting    free ranges, between two commands -------------------+
//!  statistics figures      ----> held until the timer asks for new ones
//! ```
//!
//! The target and the hinting command are the device's; a command changes them while the machine stands still.
//! What the worker learns of the driver goes through `Shared`.

pub mod pages;
pub mod statistics;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use vm_config::{
    BalloonConfig, BalloonStatistics, Explain, FaultCode, FaultKind, HintingStart, HintingStatus,
};
use vmm_sys_util::timerfd::TimerFd;

use statistics::Figures;
use worker::{BalloonWorker, Hinting, Line, Polling, Role, Work};

use super::{ActivateError, Activation, Traits, VirtioDevice, Worker};
use crate::metrics::{BalloonMetrics, Group};

// Feature bits (virtio 1.2 §5.5.3).
const VIRTIO_BALLOON_F_STATS_VQ: u32 = 1;
const VIRTIO_BALLOON_F_DEFLATE_ON_OOM: u32 = 2;
const VIRTIO_BALLOON_F_FREE_PAGE_HINT: u32 = 3;
const VIRTIO_BALLOON_F_PAGE_REPORTING: u32 = 5;

// Commands that are no run of hints (virtio 1.2 §5.5.6.5).
const VIRTIO_BALLOON_CMD_ID_STOP: u32 = 0;
const VIRTIO_BALLOON_CMD_ID_DONE: u32 = 1;

/// Entries of each queue.
const QUEUE_SIZE: u16 = 256;

/// Pages in a MiB.
const PAGES_PER_MIB: u32 = (1 << 20) / pages::PAGE;

/// Bytes of the configuration space: `num_pages`, `actual`, `free_page_hint_cmd_id`.
const CONFIG_LEN: usize = 12;
/// Where the driver writes how many pages it gave up.
const ACTUAL: std::ops::Range<usize> = 4..8;

/// What cannot be asked of a balloon. The wording is what existing clients look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BalloonError {
    /// No driver runs it.
    #[error("Device not activated yet.")]
    NotActive,
    /// More than the guest has.
    #[error("Requested memory should be less than {limit_mib}MiB")]
    TooMuch {
        /// What the guest has.
        limit_mib: u32,
    },
    /// The statistics queue is there or not for the machine's life.
    #[error("Statistics cannot be enabled/disabled after activation.")]
    StatisticsStateChange,
    /// There is no statistics queue.
    #[error("Received stats query when stats are disabled.")]
    NoStatistics,
    /// There is no hinting queue.
    #[error("Attempting to use hinting when not enabled")]
    NoHinting,
}

impl Explain for BalloonError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::NotActive => FaultCode::DeviceNotActive,
            Self::TooMuch { .. } => FaultCode::BalloonTooLarge,
            Self::StatisticsStateChange => FaultCode::BalloonStatisticsFixed,
            Self::NoStatistics => FaultCode::BalloonStatisticsOff,
            Self::NoHinting => FaultCode::BalloonHintingOff,
        })
    }
}

/// A balloon that no driver runs.
pub struct Balloon {
    // Fixed configuration.
    features: u64,
    // Runtime glue.
    interval: Duration,
    acknowledge_on_stop: bool,
    /// The latest run of hints.
    last_run: u32,
    metrics: Arc<BalloonMetrics>,
    shared: Arc<Shared>,
    // Guest-visible state.
    target_pages: u32,
    /// The command as it was given.
    host_command: u32,
    config: [u8; CONFIG_LEN],
    /// The same when the worker has acknowledged the run.
    config_done: [u8; CONFIG_LEN],
}

/// What the worker learns, for the device and for commands. Relaxed: each value stands alone.
#[derive(Debug)]
struct Shared {
    figures: Figures,
    /// The command that the driver said it follows; above 32 bits: none yet.
    guest_command: AtomicU64,
    /// The run that the driver was told is done.
    acknowledged: AtomicU32,
}

/// Whether a command starts a run of hints.
fn is_run(command: u32) -> bool {
    command != VIRTIO_BALLOON_CMD_ID_STOP && command != VIRTIO_BALLOON_CMD_ID_DONE
}

impl Balloon {
    /// A balloon as the user stated it.
    #[must_use]
    pub fn new(config: &BalloonConfig) -> Self {
        let mut features = 1 << VIRTIO_F_VERSION_1;
        for (is_wanted, bit) in [
            (
                config.stats_polling_interval_s > 0,
                VIRTIO_BALLOON_F_STATS_VQ,
            ),
            (config.deflate_on_oom, VIRTIO_BALLOON_F_DEFLATE_ON_OOM),
            (config.free_page_hinting, VIRTIO_BALLOON_F_FREE_PAGE_HINT),
            (config.free_page_reporting, VIRTIO_BALLOON_F_PAGE_REPORTING),
        ] {
            features |= u64::from(is_wanted) << bit;
        }
        let mut balloon = Self {
            features,
            interval: Duration::from_secs(config.stats_polling_interval_s.into()),
            acknowledge_on_stop: true,
            last_run: VIRTIO_BALLOON_CMD_ID_DONE,
            metrics: Arc::default(),
            shared: Arc::new(Shared {
                figures: Figures::default(),
                guest_command: AtomicU64::new(u64::MAX),
                acknowledged: AtomicU32::new(VIRTIO_BALLOON_CMD_ID_STOP),
            }),
            target_pages: 0,
            host_command: VIRTIO_BALLOON_CMD_ID_STOP,
            config: [0; CONFIG_LEN],
            config_done: [0; CONFIG_LEN],
        };
        balloon.set_target(config.amount_mib);
        balloon
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<BalloonMetrics> {
        Arc::clone(&self.metrics)
    }

    /// Sets how much memory the guest is to give up; whoever calls then tells the driver.
    pub fn set_target(&mut self, amount_mib: u32) {
        self.target_pages = amount_mib.saturating_mul(PAGES_PER_MIB);
        self.describe();
    }

    /// Sets the interval of statistics, above 0.
    ///
    /// # Errors
    /// [`BalloonError::StatisticsStateChange`]: from or to none.
    pub fn set_interval(&mut self, seconds: u16) -> Result<(), BalloonError> {
        let interval = Duration::from_secs(seconds.into());
        if interval.is_zero() != self.interval.is_zero() {
            return Err(BalloonError::StatisticsStateChange);
        }
        self.interval = interval;
        Ok(())
    }

    /// The target, what the guest gave up, and what it says of its memory.
    ///
    /// # Errors
    /// [`BalloonError::NoStatistics`].
    pub fn statistics(&self) -> Result<BalloonStatistics, BalloonError> {
        if self.interval.is_zero() {
            return Err(BalloonError::NoStatistics);
        }
        let actual_pages = self.actual_pages();
        Ok(BalloonStatistics {
            target_pages: self.target_pages,
            actual_pages,
            target_mib: self.target_pages / PAGES_PER_MIB,
            actual_mib: actual_pages / PAGES_PER_MIB,
            guest: self.shared.figures.latest(),
        })
    }

    /// What the guest is asked to give up.
    #[must_use]
    pub fn target_bytes(&self) -> u64 {
        u64::from(self.target_pages) * u64::from(pages::PAGE)
    }

    /// What the guest says it gave up.
    #[must_use]
    pub fn actual_bytes(&self) -> u64 {
        u64::from(self.actual_pages()) * u64::from(pages::PAGE)
    }

    fn actual_pages(&self) -> u32 {
        let [_, _, _, _, a, b, c, d, ..] = self.config;
        u32::from_le_bytes([a, b, c, d])
    }

    /// Begins a run of hints; whoever calls then tells the driver.
    ///
    /// # Errors
    /// [`BalloonError::NoHinting`].
    pub fn start_hinting(&mut self, how: HintingStart) -> Result<(), BalloonError> {
        self.check_hinting()?;
        self.last_run = self.last_run.wrapping_add(1);
        if !is_run(self.last_run) {
            self.last_run = VIRTIO_BALLOON_CMD_ID_DONE + 1;
        }
        self.acknowledge_on_stop = how.acknowledge_on_stop;
        self.host_command = self.last_run;
        self.describe();
        Ok(())
    }

    /// Ends a run: the guest may use its free pages again. Whoever calls then tells the driver.
    ///
    /// # Errors
    /// [`BalloonError::NoHinting`].
    pub fn stop_hinting(&mut self) -> Result<(), BalloonError> {
        self.check_hinting()?;
        self.host_command = VIRTIO_BALLOON_CMD_ID_DONE;
        self.describe();
        Ok(())
    }

    /// How far the run is.
    ///
    /// # Errors
    /// [`BalloonError::NoHinting`].
    pub fn hinting_status(&self) -> Result<HintingStatus, BalloonError> {
        self.check_hinting()?;
        let host_cmd = if self.is_acknowledged() {
            VIRTIO_BALLOON_CMD_ID_DONE
        } else {
            self.host_command
        };
        Ok(HintingStatus {
            host_cmd,
            guest_cmd: self.shared.guest_command(),
        })
    }

    fn check_hinting(&self) -> Result<(), BalloonError> {
        if self.features & 1 << VIRTIO_BALLOON_F_FREE_PAGE_HINT == 0 {
            return Err(BalloonError::NoHinting);
        }
        Ok(())
    }

    fn is_acknowledged(&self) -> bool {
        is_run(self.host_command)
            && self.shared.acknowledged.load(Ordering::Relaxed) == self.host_command
    }

    /// Writes the configuration space, except what is the driver's.
    fn describe(&mut self) {
        for (config, command) in [
            (&mut self.config, self.host_command),
            (&mut self.config_done, VIRTIO_BALLOON_CMD_ID_DONE),
        ] {
            config[..4].copy_from_slice(&self.target_pages.to_le_bytes());
            config[8..].copy_from_slice(&command.to_le_bytes());
        }
    }
}

impl VirtioDevice for Balloon {
    fn traits(&self) -> Traits {
        let queues = roles(self.features).count();
        Traits {
            device_type: VIRTIO_ID_BALLOON,
            features: self.features,
            queue_sizes: vec![QUEUE_SIZE; queues],
        }
    }

    /// The worker acknowledges a run of hints without the device at hand, so both answers are ready.
    fn counters(&self) -> Arc<dyn Group> {
        self.metrics()
    }

    fn config_space(&self) -> &[u8] {
        if self.is_acknowledged() {
            &self.config_done
        } else {
            &self.config
        }
    }

    fn activate(&mut self, with: Activation) -> Result<Box<dyn Worker>, ActivateError> {
        let mut roles = roles(with.features);
        let lines: Vec<_> = with
            .queues
            .into_iter()
            .map(|queue| Line {
                role: roles.next().unwrap_or(Role::None),
                queue,
                held: None,
            })
            .collect();
        let hinting = Hinting {
            command: self.host_command,
            acknowledge_on_stop: self.acknowledge_on_stop,
        };
        let mut work = Work::new(
            with.memory,
            with.interrupt,
            Arc::clone(&self.metrics),
            Arc::clone(&self.shared),
            hinting,
        );
        if lines.iter().any(|line| line.role == Role::Statistics) {
            work.polling = Some(self.polling()?);
        }
        Ok(Box::new(BalloonWorker {
            lines,
            kick: with.kick,
            work,
        }))
    }

    /// Only `actual` is the driver's to write.
    fn write_config(&mut self, offset: usize, data: &[u8]) {
        for config in [&mut self.config, &mut self.config_done] {
            for (index, byte) in (offset..).zip(data) {
                if ACTUAL.contains(&index) {
                    config[index] = *byte;
                }
            }
        }
    }
}

impl Balloon {
    fn polling(&self) -> Result<Polling, ActivateError> {
        let timer = TimerFd::new().map_err(|error| {
            self.metrics.activate_fails.increment();
            ActivateError {
                what: "a timer",
                source: error.into(),
            }
        })?;
        Ok(Polling {
            timer,
            interval: self.interval,
        })
    }
}

/// What the queues are for: those of features that the driver did not accept are missing, and the later ones
/// move up. That is what drivers do (Linux `drivers/virtio/virtio_balloon.c`).
fn roles(features: u64) -> impl Iterator<Item = Role> {
    let is_accepted = move |bit: u32| features & 1 << bit != 0;
    [
        (true, Role::Inflate),
        (true, Role::Deflate),
        (is_accepted(VIRTIO_BALLOON_F_STATS_VQ), Role::Statistics),
        (is_accepted(VIRTIO_BALLOON_F_FREE_PAGE_HINT), Role::Hinting),
        (
            is_accepted(VIRTIO_BALLOON_F_PAGE_REPORTING),
            Role::Reporting,
        ),
    ]
    .into_iter()
    .filter_map(|(is_there, role)| is_there.then_some(role))
}

impl Shared {
    fn guest_command(&self) -> Option<u32> {
        u32::try_from(self.guest_command.load(Ordering::Relaxed)).ok()
    }

    fn set_guest_command(&self, command: u32) {
        self.guest_command.store(command.into(), Ordering::Relaxed);
    }

    /// True when `run` was not acknowledged before.
    fn acknowledge(&self, run: u32) -> bool {
        self.acknowledged.swap(run, Ordering::Relaxed) != run
    }
}

#[cfg(test)]
mod tests;
