//! Requests for no endpoint.

use crate::error::ApiError;
use crate::router::{Request, Verb};

/// Why `request`, which no endpoint takes, is refused.
pub(crate) fn refusal(request: &Request) -> ApiError {
    snapshot_refusal(request).unwrap_or_else(|| {
        let token = request.tokens().next().unwrap_or_default();
        ApiError::Unknown(request.verb(), token.to_owned())
    })
}

/// What is wrong with a path below `/snapshot`.
fn snapshot_refusal(request: &Request) -> Option<ApiError> {
    let verb = request.verb();
    let tokens: Vec<&str> = request.tokens().take(2).collect();
    match (verb, &tokens[..]) {
        (Verb::Put, ["snapshot"]) => Some(ApiError::NoSnapshotOperation),
        (Verb::Put, ["snapshot", tail]) => {
            Some(ApiError::Unknown(verb, format!("/snapshot/{tail}")))
        }
        _ => None,
    }
}
