//! Snapshots as a user asks for them.

use std::path::PathBuf;

use serde::Deserialize;

use crate::DeviceId;

/// How much a snapshot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum SnapshotType {
    /// All of the guest's memory.
    #[default]
    Full,
    /// What changed since the snapshot before.
    Diff,
}

/// `PUT /snapshot/create`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SnapshotCreate {
    /// File for the state of the machine.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub snapshot_path: PathBuf,
    /// File for the guest's memory.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub mem_file_path: PathBuf,
    /// How much it holds.
    #[serde(default)]
    pub snapshot_type: SnapshotType,
}

/// Who gives the pages of a loaded guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum MemoryBackendType {
    /// A file with the guest's memory.
    File,
    /// A process that listens on a Unix socket and serves page faults.
    Uffd,
}

/// Where the memory of a loaded guest comes from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MemoryBackend {
    /// The file or the socket.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub backend_path: PathBuf,
    /// Which of the two.
    pub backend_type: MemoryBackendType,
}

/// Another tap for an interface of the snapshot. Unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NetworkOverride {
    /// The interface.
    pub iface_id: DeviceId,
    /// Its tap from now on.
    pub host_dev_name: String,
}

/// Another socket for the vsock device of the snapshot. Unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VsockOverride {
    /// Its socket from now on.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub uds_path: PathBuf,
}

/// How the host backs the memory of a loaded guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum LoadedPages {
    /// As it was when the snapshot was taken.
    #[default]
    Snapshot,
    /// As `None` of the machine.
    None,
    /// As `Transparent` of the machine.
    Transparent,
    /// As `2M` of the machine.
    #[serde(rename = "2M")]
    TwoMiB,
}

/// `PUT /snapshot/load`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SnapshotLoad {
    /// File with the state of the machine.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub snapshot_path: PathBuf,
    /// Where the memory comes from; this or `mem_file_path`.
    pub mem_backend: Option<MemoryBackend>,
    /// File with the memory; `mem_backend` says the same.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, deprecated))]
    pub mem_file_path: Option<PathBuf>,
    /// Records which pages the guest writes.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// The same; `track_dirty_pages` is its name now.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(deprecated))]
    pub enable_diff_snapshots: bool,
    /// The guest runs at once.
    #[serde(default)]
    pub resume_vm: bool,
    /// Other taps.
    #[serde(default)]
    pub network_overrides: Vec<NetworkOverride>,
    /// Another socket for vsock.
    pub vsock_override: Option<VsockOverride>,
    /// The guest's clock goes on by the time that passed.
    #[serde(default)]
    pub clock_realtime: bool,
    /// How the host backs the memory.
    #[serde(default)]
    pub huge_pages: LoadedPages,
}

/// A load that does not say where the memory is, or says it twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemorySourceError {
    /// It does not say it.
    #[error("missing field: either `mem_backend` or `mem_file_path` is required")]
    Missing,
    /// It says it twice.
    #[error("too many fields: either `mem_backend` or `mem_file_path` exclusively is required")]
    Twice,
}

impl SnapshotLoad {
    /// Checks that it says where the memory is, once.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self) -> Result<(), MemorySourceError> {
        match (&self.mem_backend, &self.mem_file_path) {
            (None, None) => Err(MemorySourceError::Missing),
            (Some(_), Some(_)) => Err(MemorySourceError::Twice),
            (Some(_), None) | (None, Some(_)) => Ok(()),
        }
    }

    /// Whether it uses a field that will go away.
    #[must_use]
    pub fn is_deprecated(&self) -> bool {
        self.mem_file_path.is_some() || self.enable_diff_snapshots
    }
}
