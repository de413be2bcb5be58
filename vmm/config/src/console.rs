//! The virtio console.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::TokenBucket;

/// `PUT /console`: the guest's `/dev/hvc0`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConsoleConfig {
    /// File, FIFO or terminal that gets the guest's output; made if it is missing, and written behind what it holds.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub output_path: PathBuf,
    /// Limit on the guest's output, bytes; what is over it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<TokenBucket>,
}
