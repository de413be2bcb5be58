//! Why a request is refused. The wording is what existing clients look for.

use std::error::Error;

use serde::Serialize;
use serde_json::error::Category;
use vm_config::{Explain, Explanation, FaultCode, FaultKind};
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
    #[error(
        "Unknown query `{0}`; leave it out, or send `since=` and the seq of the last event you have."
    )]
    EventQuery(String),
    #[error(
        "There are {0} event streams already; close one of them, or read events on one connection."
    )]
    TooManyStreams(usize),
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
    /// The kind of failure; `docs/errors.md` has all of them.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    code: FaultCode,
    /// The innermost reason.
    cause: String,
    /// What to do.
    remedy: String,
}

impl From<&ApiError> for Fault {
    fn from(error: &ApiError) -> Self {
        let fault_message = chain(error);
        let Explanation {
            code,
            cause,
            remedy,
        } = error.explain();
        let error = error.is_transport().then(|| fault_message.clone());
        Self {
            error,
            fault_message,
            code,
            cause,
            remedy,
        }
    }
}

impl Explain for ApiError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::Method => FaultCode::UnsupportedMethod,
            Self::TooLarge { .. } | Self::ChunksTooLarge { .. } => FaultCode::PayloadTooLarge,
            Self::Body(_) | Self::Malformed(_) => FaultCode::MalformedHttp,
            Self::GetWithBody | Self::DeleteWithBody => FaultCode::BodyNotAllowed,
            Self::EmptyPut | Self::EmptyPatch => FaultCode::BodyMissing,
            Self::Unknown(..) | Self::UnknownTail(..) | Self::NoSnapshotOperation => {
                FaultCode::UnknownPath
            }
            Self::Query(_) | Self::EventQuery(_) => FaultCode::UnknownQuery,
            Self::TooManyStreams(_) => FaultCode::TooManyStreams,
            Self::EmptyId => FaultCode::IdMissing,
            Self::InvalidId => FaultCode::IdInvalid,
            Self::Json(error) => match error.classify() {
                Category::Data => FaultCode::JsonContent,
                Category::Io | Category::Syntax | Category::Eof => FaultCode::JsonSyntax,
            },
            Self::IdMismatch | Self::InterfaceIdMismatch { .. } => FaultCode::IdMismatch,
            Self::Command(inner) => return FaultKind::Inner(inner),
            Self::Ended => FaultCode::MicrovmEnded,
        })
    }
}

impl ApiError {
    /// What a client can act on. A message that ends in the client's own words has no remedy in them.
    fn explain(&self) -> Explanation {
        match (self, self.kind()) {
            (Self::Json(error), FaultKind::Code(code)) => Explanation::general(code, error),
            (
                Self::Body(_)
                | Self::Unknown(..)
                | Self::UnknownTail(..)
                | Self::InterfaceIdMismatch { .. },
                FaultKind::Code(code),
            ) => Explanation::general(code, self),
            _ => Explanation::of(self),
        }
    }

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
    fn a_refusal_of_the_microvm_tells_the_whole_chain_and_its_end() {
        let refused = CommandError::Machine(vm_config::MachineError::MemorySize);
        let fault = Fault::from(&ApiError::from(refused));
        let reason =
            "The memory size (MiB) is either 0, or not a multiple of the configured page size";
        assert_eq!(
            fault.fault_message,
            format!("Machine config error: {reason}.")
        );
        assert_eq!(fault.cause, reason);
        assert_eq!(fault.code, FaultCode::MemorySizeInvalid);
        assert_eq!(fault.remedy, FaultCode::MemorySizeInvalid.remedy());
    }

    #[test]
    fn a_json_mistake_tells_the_decoders_words_and_whether_it_is_syntax() {
        for (text, code) in [
            ("[1", FaultCode::JsonSyntax),
            ("{\"a; b\":1}", FaultCode::JsonContent),
        ] {
            let mistake = serde_json::from_str::<Vec<u8>>(text).unwrap_err();
            let words = mistake.to_string();
            let fault = Fault::from(&ApiError::Json(mistake));
            assert_eq!((fault.code, fault.cause), (code, words));
        }
    }

    #[test]
    fn what_a_client_wrote_is_not_taken_for_a_remedy() {
        let error = ApiError::UnknownTail(Verb::Put, "a; drink more water".to_owned());
        assert_eq!(Fault::from(&error).remedy, FaultCode::UnknownPath.remedy());
    }
}
