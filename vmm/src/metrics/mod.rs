//! What is counted, and how it is told: the metrics file and `GET /metrics`.
//!
//! ```text
//! devices, vCPUs ---+                 +--> line ----> sink      the metrics file: what changed since the last line
//!                   +--> registry ----+
//! PROCESS ----------+                 +--> exposition           GET /metrics: everything so far
//! ```
//!
//! Whoever counts changes an atomic number and knows nothing of this. The lock here is taken to tell the numbers, and
//! to say which groups there are.

mod exposition;
mod gauges;
mod line;
mod process;
mod registry;
mod sink;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;
use std::{fmt, io};

use devices::metrics::Group;
pub use devices::metrics::{Counter, Tally};
use vm_config::{Explain, FaultCode, FaultKind, InstanceId, MetricsConfig};

use self::registry::Registry;
use self::sink::Sink;
use crate::Lifecycle;

pub use exposition::{CONTENT_TYPE, Instance};
pub(crate) use gauges::Gauges;
pub use process::{
    DeprecatedMetrics, GetMetrics, LatencyMetrics, LoggerMetrics, PatchMetrics, ProcessMetrics,
    PutMetrics, SeccompMetrics, SignalMetrics, StartMetrics, VcpuMetrics, VmmMetrics,
};

/// What this process counts, besides its devices and vCPUs.
pub static PROCESS: ProcessMetrics = ProcessMetrics::new();

/// How this process tells what it counts.
pub static METRICS: Metrics = Metrics::new(&PROCESS);

/// Time between two lines of the metrics file.
pub(crate) const PERIOD: Duration = Duration::from_secs(60);

/// How often, and how long, a signal handler waits for a thread that is at a line.
const SIGNAL_WAITS: usize = 20;
const SIGNAL_WAIT: Duration = Duration::from_millis(1);

/// All that is counted, and where lines of it go.
pub struct Metrics {
    process: &'static ProcessMetrics,
    state: Mutex<State>,
}

struct State {
    /// Made when it is first needed.
    registry: Option<Registry>,
    output: Option<Output>,
}

struct Output {
    sink: Sink,
    /// What stands behind the time in each line.
    head: String,
    /// Room for any line; has the one that was made last.
    line: Vec<u8>,
}

/// Why the metrics file cannot be had. The wording is what existing clients look for.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// There is one already.
    #[error(
        "Cannot initialize the metrics system due to bad user input: Reinitialization of metrics not allowed."
    )]
    Again,
    /// The target.
    #[error(
        "Cannot initialize the metrics system due to bad user input: cannot open {path:?}, which must be a file or FIFO that this process may read and write"
    )]
    Open {
        /// Which file.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
}

impl Explain for MetricsError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::Again => FaultCode::MetricsAgain,
            Self::Open { .. } => FaultCode::MetricsFile,
        })
    }
}

impl Metrics {
    /// Of `process`, and of the devices and vCPUs that are added.
    #[must_use]
    pub const fn new(process: &'static ProcessMetrics) -> Self {
        let state = State {
            registry: None,
            output: None,
        };
        Self {
            process,
            state: Mutex::new(state),
        }
    }

    /// Has lines written from now on.
    ///
    /// # Errors
    /// When they are already, or the target cannot be opened.
    pub fn configure(&self, config: &MetricsConfig, id: &InstanceId) -> Result<(), MetricsError> {
        self.with(|registry, output| {
            if output.is_some() {
                return Err(MetricsError::Again);
            }
            let path = &config.metrics_path;
            let sink = Sink::open(path).map_err(|source| MetricsError::Open {
                path: path.clone(),
                source,
            })?;
            let mut made = Output {
                sink,
                head: head(config, id),
                line: Vec::new(),
            };
            made.make_room(registry);
            *output = Some(made);
            Ok(())
        })
    }

    /// Whether lines are written.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.with(|_, output| output.is_some())
    }

    /// Writes a line, if there is where to; what cannot be written is counted, and is in the next.
    pub fn flush(&self) {
        self.with(|registry, output| {
            if let Some(output) = output {
                output.flush(registry, self.process);
            }
        });
    }

    /// Writes the last line: from a signal handler, or with any thread in any state. It allocates nothing and takes no
    /// lock that another thread keeps.
    pub fn flush_at_end(&self) {
        for _ in 0..SIGNAL_WAITS {
            let Ok(mut state) = self.state.try_lock() else {
                // Whoever has it may be the code that this signal interrupted.
                sleep(SIGNAL_WAIT);
                continue;
            };
            let State { registry, output } = &mut *state;
            if let (Some(registry), Some(output)) = (registry, output) {
                output.flush(registry, self.process);
            }
            return;
        }
        self.process.logger.missed_metrics_count.increment();
    }

    /// From now on `group` is told, under `name` where there can be more than one.
    pub fn add(&self, name: impl fmt::Display, group: Arc<dyn Group>) {
        self.with(|registry, output| {
            registry.add(&name.to_string(), group);
            if let Some(output) = output {
                output.make_room(registry);
            }
        });
    }

    /// `group` is gone; what it has counted stays in what is told of all together.
    pub fn remove(&self, group: &Arc<dyn Group>) {
        self.with(|registry, _| registry.remove(group));
    }

    /// Everything counted so far and what is so at the moment, as [`CONTENT_TYPE`].
    pub(crate) fn exposition(
        &self,
        instance: &Instance,
        lifecycle: Lifecycle,
        gauges: &Gauges,
    ) -> String {
        self.with(|registry, _| exposition::text(registry, instance, lifecycle, gauges))
    }

    fn with<R>(&self, work: impl FnOnce(&mut Registry, &mut Option<Output>) -> R) -> R {
        // A panic leaves numbers that are told once too often, at worst.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { registry, output } = &mut *state;
        let registry = registry.get_or_insert_with(|| {
            let mut registry = Registry::new();
            for group in self.process.groups() {
                registry.add("", Arc::new(group));
            }
            registry
        });
        work(registry, output)
    }
}

impl Output {
    fn make_room(&mut self, registry: &Registry) {
        let len = line::max_len(registry, &self.head);
        if len > self.line.len() {
            self.line.resize(len, 0);
        }
    }

    /// Allocates nothing.
    fn flush(&mut self, registry: &mut Registry, process: &ProcessMetrics) {
        let missed = &process.logger.missed_metrics_count;
        if !self.sink.finish(&self.line) {
            return missed.increment();
        }
        registry.read();
        let Ok(len) = line::write(registry, &self.head, &mut self.line) else {
            return process.logger.metrics_fails.increment();
        };
        if self.sink.write(&self.line, len) {
            registry.commit();
        } else {
            missed.increment();
        }
    }
}

/// What stands behind the time in each line.
fn head(config: &MetricsConfig, id: &InstanceId) -> String {
    let mut head = String::new();
    if config.emit_id {
        head += &format!(",\"id\":{}", serde_json::Value::from(id.as_str()));
    }
    if let Some(properties) = &config.properties {
        let pairs = properties
            .iter()
            .map(|(key, value)| (key.clone(), value.as_str().into()));
        let properties = serde_json::Value::Object(pairs.collect());
        head += &format!(",\"properties\":{properties}");
    }
    head
}

#[cfg(test)]
mod tests;
