//! The log: one line an event, to standard output or to a file or FIFO.
//!
//! [`Logger`] is the process's `tracing` subscriber. It keeps no buffer and starts no thread: a line is made,
//! written and forgotten. A target that does not take a line at once loses it and the loss is counted, so that a
//! full pipe or FIFO never holds up a microVM.

mod clock;
mod limit;
mod line;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use vm_config::{InstanceId, LogLevel, LoggerConfig};
use vmm::metrics::PROCESS;

use self::limit::{Limits, Verdict};

/// The process's log.
static LOGGER: Logger = Logger {
    id: OnceLock::new(),
    rules: RwLock::new(Rules {
        level: LevelFilter::INFO,
        has_level: false,
        has_origin: false,
        module: None,
    }),
    limits: Limits::new(),
    target: Mutex::new(None),
};

/// The subscriber. There is one, [`LOGGER`].
struct Logger {
    id: OnceLock<InstanceId>,
    rules: RwLock<Rules>,
    limits: Limits,
    /// `None` until the first line goes to standard output.
    target: Mutex<Option<File>>,
}

/// What is logged, and what a line contains.
struct Rules {
    level: LevelFilter,
    has_level: bool,
    has_origin: bool,
    module: Option<String>,
}

/// Makes the log the one that every crate of the process writes to.
pub(crate) fn install() {
    clock::prepare();
    // Refused only when one is installed already; then that one is ours.
    let _ = tracing::subscriber::set_global_default(&LOGGER);
}

/// Names the microVM in the lines to come.
pub(crate) fn set_id(id: InstanceId) {
    let _ = LOGGER.id.set(id);
}

/// Applies `PUT /logger`: what is absent stays as it is, except the level.
///
/// # Errors
/// When the target cannot be opened; then nothing changes.
pub(crate) fn configure(config: &LoggerConfig) -> io::Result<()> {
    if let Some(path) = &config.log_path {
        let file = open(path)?;
        *LOGGER.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }
    {
        let mut rules = LOGGER.rules.write().unwrap_or_else(PoisonError::into_inner);
        rules.level = filter(config.level.unwrap_or_default());
        rules.has_level = config.show_level.unwrap_or(rules.has_level);
        rules.has_origin = config.show_log_origin.unwrap_or(rules.has_origin);
        if config.module.is_some() {
            rules.module.clone_from(&config.module);
        }
    }
    tracing::callsite::rebuild_interest_cache();
    Ok(())
}

/// Writes one line from a signal handler: no allocation, no waiting.
pub(crate) fn write_from_signal(message: std::fmt::Arguments<'_>) {
    // Whoever holds a lock may be the code this signal interrupted.
    let is_on = LOGGER
        .rules
        .try_read()
        .is_ok_and(|rules| rules.level >= LevelFilter::ERROR);
    if !is_on {
        return;
    }
    let mut buffer = [0; 512];
    let mut cursor = io::Cursor::new(&mut buffer[..]);
    let id = LOGGER
        .id
        .get()
        .map_or("anonymous-instance", InstanceId::as_str);
    // A line longer than the buffer is cut.
    let _ = writeln!(cursor, "{} [{id}:signal] {message}", clock::now());
    let len = usize::try_from(cursor.position()).unwrap_or(0);
    let line = buffer.get(..len).unwrap_or_default();
    if let Ok(Some(target)) = LOGGER.target.try_lock().as_deref_mut() {
        LOGGER.write(target, line);
    }
}

/// Opens a target: for reading too, so that a FIFO without a reader can be opened and does not break.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

/// Whether `target` takes a page at once, or refuses it at once.
fn is_writable(target: &File) -> bool {
    let mut asked = [PollFd::new(target, PollFlags::OUT)];
    poll(&mut asked, Some(&Timespec::default())) == Ok(1)
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

impl Logger {
    fn write(&self, target: &mut File, line: &[u8]) {
        // What a pipe with room takes at once is a page (pipe(7), `PIPE_BUF`).
        let is_written = line.chunks(libc::PIPE_BUF).all(|piece| {
            // Standard output blocks, and must go on to: other processes share it. So it is asked each time.
            // A short write counts as a loss: the rest would arrive in the middle of another line.
            is_writable(target) && matches!(target.write(piece), Ok(len) if len == piece.len())
        });
        if !is_written {
            PROCESS.logger.missed_log_count.increment();
        }
    }
}

impl Rules {
    fn allow(&self, metadata: &Metadata<'_>) -> bool {
        let module = metadata.module_path().unwrap_or_default();
        let is_chosen = self
            .module
            .as_ref()
            .is_none_or(|prefix| module.starts_with(prefix));
        is_chosen && *metadata.level() <= self.level
    }
}

impl Subscriber for &'static Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.rules
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .allow(metadata)
    }

    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Asked again whenever the rules change, so never asked for an event.
        if self.enabled(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(
            self.rules
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .level,
        )
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let suppressed = match self.limits.ask(metadata, Instant::now()) {
            Verdict::Write { suppressed } => suppressed,
            Verdict::LeaveOut => {
                PROCESS.logger.rate_limited_log_count.increment();
                return;
            }
        };
        let lines = {
            let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
            let told = (suppressed > 0 && rules.level >= LevelFilter::WARN)
                .then(|| line::suppressed(suppressed, metadata, &rules, self.id.get()));
            [told, Some(line::make(event, &rules, self.id.get()))]
        };
        let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        if target.is_none() {
            *target = io::stdout()
                .as_fd()
                .try_clone_to_owned()
                .ok()
                .map(File::from);
        }
        for line in lines.into_iter().flatten() {
            match target.as_mut() {
                Some(file) => self.write(file, line.as_bytes()),
                None => PROCESS.logger.missed_log_count.increment(),
            }
        }
    }

    // Nothing here uses spans.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
