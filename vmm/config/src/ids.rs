//! Names, checked where they enter and trusted after.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A device's name within its microVM.
///
/// The API checks the name in the path (alphanumeric or `_`); a configuration file may use any name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct DeviceId(pub String);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A microVM's name: 1 to 64 ASCII letters, digits or `-`. Holding one proves it was checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct InstanceId(String);

/// Text that is not an instance id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid instance id {0:?}; use 1 to 64 letters, digits or '-'")]
pub struct InstanceIdError(String);

impl FromStr for InstanceId {
    type Err = InstanceIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_length_good = (1..=64).contains(&text.len());
        if is_length_good && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            Ok(Self(text.to_owned()))
        } else {
            Err(InstanceIdError(text.to_owned()))
        }
    }
}

impl InstanceId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for InstanceId {
    fn default() -> Self {
        Self("anonymous-instance".to_owned())
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_id_is_1_to_64_letters_digits_or_hyphens() {
        let longest = "a".repeat(64);
        let too_long = "a".repeat(65);
        for (text, is_good) in [
            ("a-Z-9", true),
            (longest.as_str(), true),
            (too_long.as_str(), false),
            ("", false),
            ("a_b", false),
            ("ä", false),
        ] {
            assert_eq!(text.parse::<InstanceId>().is_ok(), is_good, "{text:?}");
        }
    }
}
