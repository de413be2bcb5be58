//! Endpoints of the interface that this build does not have, and requests for none at all.

use crate::error::ApiError;
use crate::router::{Request, Verb};

/// Endpoints that are refused by name.
const UNSUPPORTED: &[(Verb, &str)] = &[(Verb::Put, "/metrics")];

/// Why `request`, which no endpoint takes, is refused.
pub(crate) fn refusal(request: &Request) -> ApiError {
    let found = UNSUPPORTED
        .iter()
        .find(|(verb, path)| request.is_for(*verb, path));
    if let Some(refused) = snapshot_refusal(request) {
        return refused;
    }
    let Some((verb, path)) = found else {
        let token = request.tokens().next().unwrap_or_default();
        return ApiError::Unknown(request.verb(), token.to_owned());
    };
    ApiError::Unsupported(*verb, path)
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
