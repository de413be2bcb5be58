//! The states of a microVM.

use serde::Serialize;

/// Where a microVM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Lifecycle {
    /// Being described; nothing runs.
    #[serde(rename = "Not started")]
    NotStarted,
    /// The vCPUs run.
    Running,
    /// The vCPUs and the devices stand still.
    Paused,
}
