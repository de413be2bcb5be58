//! What is counted, and how it is told: the metrics file and `GET /metrics`.

mod process;

pub use process::{
    DeprecatedMetrics, GetMetrics, LatencyMetrics, LoggerMetrics, PatchMetrics, ProcessMetrics,
    PutMetrics, SeccompMetrics, SignalMetrics, StartMetrics, VcpuMetrics, VmmMetrics,
};

/// What this process counts, besides its devices and vCPUs.
pub static PROCESS: ProcessMetrics = ProcessMetrics::new();
