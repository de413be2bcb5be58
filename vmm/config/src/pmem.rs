//! Persistent memory as a user states it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{DeviceId, RateLimiter};

/// `PUT /pmem/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PmemConfig {
    /// The device's name; equal to the one in the path.
    pub id: DeviceId,
    /// File behind it; opened at the start.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub path_on_host: PathBuf,
    /// The guest mounts `/` from it.
    #[serde(default)]
    pub root_device: bool,
    /// What the guest writes is lost, and its next flush fails.
    #[serde(default)]
    pub read_only: bool,
    /// Limits on flushes: each is one operation, of as many bytes as the file has.
    pub rate_limiter: Option<RateLimiter>,
}

/// `PATCH /pmem/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PmemPatch {
    /// The device's name; equal to the one in the path.
    pub id: DeviceId,
    /// Limits on flushes; an absent bucket stays as it is, one with zeros goes.
    pub rate_limiter: Option<RateLimiter>,
}

impl PmemConfig {
    /// The device after `patch`.
    #[must_use]
    pub fn patched(&self, patch: &PmemPatch) -> Self {
        Self {
            rate_limiter: RateLimiter::patched(self.rate_limiter, patch.rate_limiter),
            ..self.clone()
        }
    }
}
