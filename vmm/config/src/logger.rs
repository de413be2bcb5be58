//! What is logged, and where.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::LogLevelError;

/// The least important lines that are still written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What failed.
    Error,
    /// What may fail later.
    Warn,
    /// What was asked and what was answered.
    #[default]
    Info,
    /// Details of a boot and of each request.
    Debug,
    /// Everything.
    Trace,
}

/// The names of the levels. In a request they can be in any case.
#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for LogLevel {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, Type};
        let names = ["Off", "Error", "Warn", "Warning", "Info", "Debug", "Trace"];
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(names))
            .description(Some(
                "The least important lines that are still written; `Warn` and `Warning` are one level.",
            ))
            .into()
    }
}

#[cfg(feature = "openapi")]
impl utoipa::ToSchema for LogLevel {}

/// `PUT /logger`. An absent field keeps its value, except `level`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LoggerConfig {
    /// File or FIFO that gets the lines; made if it is missing, never truncated.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub log_path: Option<PathBuf>,
    /// Level, in any case; absent means `Info`.
    pub level: Option<LogLevel>,
    /// Writes the level into each line.
    pub show_level: Option<bool>,
    /// Writes the source file and line into each line.
    pub show_log_origin: Option<bool>,
    /// Writes only lines from modules whose path starts with this.
    pub module: Option<String>,
}

impl FromStr for LogLevel {
    type Err = LogLevelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "off" => Ok(Self::Off),
            "error" => Ok(Self::Error),
            "warn" | "warning" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err(LogLevelError),
        }
    }
}

impl TryFrom<String> for LogLevel {
    type Error = LogLevelError;

    fn try_from(text: String) -> Result<Self, LogLevelError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_is_read_in_any_case() {
        for (text, level) in [
            ("wArNiNg", LogLevel::Warn),
            ("WARN", LogLevel::Warn),
            ("off", LogLevel::Off),
            ("Trace", LogLevel::Trace),
        ] {
            assert_eq!(text.parse(), Ok(level));
        }
    }

    #[test]
    fn unknown_level_is_refused_in_the_promised_words() {
        let refused = serde_json::from_str::<LoggerConfig>(r#"{"level":"loud"}"#).unwrap_err();
        assert!(refused.to_string().starts_with("Invalid LevelFilter"));
    }
}
