//! The metrics file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `PUT /metrics`. Fields it does not know are ignored, as existing clients expect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MetricsConfig {
    /// File or FIFO that gets the lines; made if it is missing, never truncated.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub metrics_path: PathBuf,
    /// Writes the microVM's name into each line, as `id`.
    #[serde(default)]
    pub emit_id: bool,
    /// Written into each line, as `properties`.
    pub properties: Option<BTreeMap<String, String>>,
}
