//! Why a request is refused. The wording is what existing clients look for.

use std::error::Error;

use serde::Serialize;
use vmm::control::CommandError;

use crate::router::Verb;

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    // Not a request of this interface: said in HTTP's terms.
    #[error("Unsupported HTTP method; use GET, PUT, PATCH or DELETE.")]
    Method,
    #[error(
        "Request payload with size {size} is larger than the limit of {limit} allowed by server."
    )]
    TooLarge { size: u64, limit: usize },
    #[error("Request payload is larger than the limit of {limit} allowed by server.")]
    ChunksTooLarge { limit: usize },
    #[error("Invalid request body: {0}.")]
    Body(String),
    #[error("{0}")]
    Malformed(String),

    // Refused before the microVM is asked.
    #[error("GET request cannot have a body.")]
    GetWithBody,
    #[error("Empty Delete request.")]
    DeleteWithBody,
    #[error("Empty PUT request.")]
    EmptyPut,
    #[error("Empty PATCH request.")]
    EmptyPatch,
    #[error("Invalid request method and/or path: {0} {1}.")]
    Unknown(Verb, String),
    #[error("Unrecognized {0} request path `{1}`.")]
    UnknownTail(Verb, String),
    #[error("Missing snapshot operation type.")]
    NoSnapshotOperation,
    #[error("Unknown query `{0}`; leave it out, or send `force=true`.")]
    Query(String),
    #[error("The ID cannot be empty.")]
    EmptyId,
    #[error("API Resource IDs can only contain alphanumeric characters and underscores.")]
    InvalidId,
    #[error("An error occurred when deserializing the json body of a request: {0}.")]
    Json(serde_json::Error),
    #[error("The id from the path does not match the id from the body!")]
    IdMismatch,
    #[error("The id from the path [{path}] does not match the id from the body [{body}]!")]
    InterfaceIdMismatch { path: String, body: String },
    #[error("{0} {1} is not supported by this build; leave the request out.")]
    Unsupported(Verb, &'static str),

    // Refused by the microVM.
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("The microVM ended before it answered.")]
    Ended,
}

/// The body of a refusal.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct Fault {
    /// The same, when the request was not HTTP, of no known method, or too large.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What is wrong, and what to do.
    fault_message: String,
}

impl From<&ApiError> for Fault {
    fn from(error: &ApiError) -> Self {
        let fault_message = chain(error);
        let error = error.is_transport().then(|| fault_message.clone());
        Self {
            error,
            fault_message,
        }
    }
}

impl ApiError {
    /// Whether existing clients find the text of it under `error`.
    fn is_transport(&self) -> bool {
        matches!(
            self,
            Self::Method
                | Self::TooLarge { .. }
                | Self::ChunksTooLarge { .. }
                | Self::Body(_)
                | Self::Malformed(_)
        )
    }
}

/// `error` and everything that led to it, joined by `: `.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_the_microvm_tells_the_whole_chain() {
        let refused = CommandError::Machine(vm_config::MachineError::MemorySize);
        assert_eq!(
            Fault::from(&ApiError::from(refused)).fault_message,
            "Machine config error: The memory size (MiB) is either 0, or not a multiple of the \
             configured page size."
        );
    }
}
