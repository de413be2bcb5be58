//! What this program calls itself.

/// The API level that existing clients look for.
pub(crate) const API_LEVEL: &str = "1.17.0-dev";

/// This program's own version.
pub(crate) const CLOISTER: &str = env!("CARGO_PKG_VERSION");
