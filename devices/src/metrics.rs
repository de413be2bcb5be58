//! What devices count. Each group is shared between a device and whoever reads it; names are those of the
//! metrics file.
//!
//! [`metric_groups`](crate::metric_groups) makes each group and its description from the same rows: the metrics file,
//! `GET /metrics` and the units they tell all come from here. Everything is read while it changes: no lock, no
//! allocation, and no order between two numbers.

mod group;
mod memory;
mod network;
mod platform;
mod storage;
mod terminal;
mod value;

pub use group::{About, Field, Group, Unit};
pub use memory::{BalloonMetrics, MemMetrics};
pub use network::{MmdsMetrics, NetMetrics, VsockMetrics};
pub use platform::{EntropyMetrics, GuestPanicMetrics, InterruptMetrics};
pub use storage::{BlockMetrics, PmemMetrics, VhostUserBlockMetrics};
pub use terminal::{ConsoleMetrics, I8042Metrics, SerialMetrics};
pub use value::{Counter, Kind, Latency, Metric, Part, Store, Tally};
