//! Where the guest's serial console goes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::TokenBucket;

/// `PUT /serial`. Without a path the console is on standard input and output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SerialConfig {
    /// File or FIFO that gets the guest's output; made at the start if it is missing, never truncated. The guest
    /// then has no input.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub serial_out_path: Option<PathBuf>,
    /// Limit on the guest's output, bytes.
    pub rate_limiter: Option<TokenBucket>,
}
