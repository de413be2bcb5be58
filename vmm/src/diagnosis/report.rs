//! What a diagnosis says: facts with names, and causes with what speaks for them. [`super::text`] makes prose of it.

mod cause;
mod vcpu;

use serde::Serialize;

pub use cause::{Cause, CauseCode, Confidence, Evidence, Source};
pub use vcpu::{Activity, CpuMode, ExitCount, LastExit, VcpuPlace, VcpuReport};

/// All that is known of a boot.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Diagnosis {
    /// Where the microVM is in its life.
    pub state: Phase,
    /// Time since the start, milliseconds; null before.
    pub uptime_ms: Option<u64>,
    /// Why it ended, if it did.
    pub end: Option<String>,
    /// Why the last start failed, if it did.
    pub start_failure: Option<String>,
    /// The guest said that its kernel panicked.
    pub guest_panicked: bool,
    /// What still has to be configured before a start.
    pub missing: Vec<String>,
    /// What is probably wrong, most probable first; empty when nothing speaks for a failure.
    pub causes: Vec<Cause>,
    /// The vCPUs; none before the start.
    pub vcpus: Vec<VcpuReport>,
    /// The virtio devices of the running machine, in attach order.
    pub devices: Vec<DeviceReport>,
    /// What came out of the serial port, even where it goes nowhere.
    pub serial: WrittenReport,
    /// What came out of the virtio console, if there is one.
    pub console: Option<WrittenReport>,
    /// The kernel's command line as the guest was given it; null before the start.
    pub command_line: Option<String>,
    /// The file of the kernel.
    pub kernel_image_path: Option<String>,
    /// Why no vCPU's place has a name, if so.
    pub no_symbols: Option<String>,
    /// All of this for a person: lines of at most 240 characters, at most 150 of them, printable.
    pub text: String,
}

/// Where the microVM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Phase {
    /// Being described; nothing runs.
    #[serde(rename = "Not started")]
    NotStarted,
    /// The vCPUs run.
    Running,
    /// The vCPUs and the devices stand still.
    Paused,
    /// It is over; the log has this.
    Ended,
}

/// How far a driver came with a virtio device.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeviceReport {
    /// The user's name for it, or that of its kind.
    pub id: String,
    /// What it is.
    pub kind: &'static str,
    /// Where the guest finds it.
    pub place: String,
    /// Status bits that its driver has reached (virtio 1.2 §2.1), in lower case.
    pub status: Vec<&'static str>,
    /// The driver runs it.
    pub driver_ok: bool,
    /// Its queues.
    pub queues: usize,
    /// Those that the driver enabled.
    pub queues_enabled: usize,
}

/// What a guest wrote.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WrittenReport {
    /// Bytes in all.
    pub bytes: u64,
    /// The last 8 KiB of them as the guest wrote them; what is no UTF-8 is replaced.
    pub tail: String,
}
