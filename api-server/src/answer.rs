//! What a request is answered with.

use std::convert::Infallible;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SERVER};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tracing::{error, info, warn};
use vmm::control::CommandError;
use vmm::metrics::PROCESS;

use crate::error::{ApiError, Fault, chain};
use crate::event_stream::EventStream;
use crate::parse_failure;

/// The name clients expect of the server.
pub(crate) const SERVER_NAME: &str = "Firecracker API";

/// The `Connection` header of an answer after which the next request may follow.
pub(crate) const KEEP_ALIVE: &str = "keep-alive";

const JSON: &str = "application/json";
/// The body of an answer, whole or as it comes.
pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, Infallible>;

/// Status, body and whether the request used something that will go away.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    body: Option<Vec<u8>>,
    /// Of the body.
    content_type: &'static str,
    /// Instead of a body: events, as they happen.
    events: Option<EventStream>,
    /// Why it is a refusal, for the log.
    failure: Option<String>,
    /// What the request used that will go away, for the log.
    deprecated: Option<&'static str>,
}

/// Whether a connection goes on after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The next request may follow.
    KeepAlive,
    /// Nothing more is read.
    Close,
}

impl Answer {
    /// 204: done.
    pub(crate) fn done() -> Self {
        Self {
            status: StatusCode::NO_CONTENT,
            body: None,
            content_type: JSON,
            events: None,
            failure: None,
            deprecated: None,
        }
    }

    /// 200 with events as they happen.
    pub(crate) fn events(stream: EventStream) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "application/x-ndjson",
            events: Some(stream),
            ..Self::done()
        }
    }

    /// Whether the answer goes on until the microVM ends.
    pub(crate) fn is_stream(&self) -> bool {
        self.events.is_some()
    }

    /// 200 with `value`.
    pub(crate) fn json(value: &impl Serialize) -> Self {
        let body = serde_json::to_vec(value).expect("our own types are JSON: their keys are text");
        Self {
            status: StatusCode::OK,
            body: Some(body),
            ..Self::done()
        }
    }

    /// 200 with `text`.
    pub(crate) fn text(text: String, content_type: &'static str) -> Self {
        Self {
            status: StatusCode::OK,
            body: Some(text.into_bytes()),
            content_type,
            ..Self::done()
        }
    }

    /// 400 with the reason, or 413 when the metadata store has no room.
    pub(crate) fn refuse(error: &ApiError) -> Self {
        Self {
            status: match error {
                ApiError::Command(CommandError::MmdsLimit(_)) => StatusCode::PAYLOAD_TOO_LARGE,
                ApiError::TooManyStreams(_) => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::BAD_REQUEST,
            },
            failure: Some(failure_line(error)),
            ..Self::json(&Fault::from(error))
        }
    }

    /// Marks the answer when the request used something that will go away, and says in the log what.
    pub(crate) fn deprecated_if(self, is_deprecated: bool, notice: &'static str) -> Self {
        Self {
            deprecated: is_deprecated.then_some(notice),
            ..self
        }
    }

    /// Logs how the request went.
    pub(crate) fn log(&self) {
        match &self.failure {
            None => {
                let status = self.status;
                info!("The request was executed successfully. Status code: {status}.");
            }
            Some(failure) => error!("{failure}"),
        }
        if let Some(notice) = self.deprecated {
            let deprecated = &PROCESS.deprecated_api;
            deprecated.deprecated_http_api_calls.increment();
            warn!("{notice}");
        }
    }

    /// The body, empty when there is none.
    pub(crate) fn body(&self) -> &[u8] {
        self.body.as_deref().unwrap_or_default()
    }

    /// As HTTP, headers in the order clients have always seen.
    pub(crate) fn into_response(self, then: Then) -> Response<ResponseBody> {
        let has_body = self.body.is_some() || self.events.is_some();
        let mut response = Response::new(match self.events {
            Some(events) => events.boxed_unsync(),
            None => Full::from(self.body.unwrap_or_default()).boxed_unsync(),
        });
        *response.status_mut() = self.status;
        // Clients have always seen none.
        let phrase = ReasonPhrase::from_static(b"");
        response.extensions_mut().insert(phrase);
        let connection = match then {
            Then::KeepAlive => KEEP_ALIVE,
            Then::Close => "close",
        };
        let headers = response.headers_mut();
        headers.insert(SERVER, HeaderValue::from_static(SERVER_NAME));
        headers.insert(CONNECTION, HeaderValue::from_static(connection));
        if self.deprecated.is_some() {
            let deprecation = HeaderName::from_static("deprecation");
            headers.insert(deprecation, HeaderValue::from_static("true"));
        }
        if has_body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        }
        response
    }
}

/// What the log says of a request that was refused because of `error`.
fn failure_line(error: &ApiError) -> String {
    if let Some(line) = parse_failure::line(error) {
        return line;
    }
    let status = match error {
        ApiError::Command(CommandError::MmdsLimit(_)) => "413 Payload too large",
        _ => "400 Bad Request",
    };
    format!(
        "Received Error. Status code: {status}. Message: {}",
        chain(error)
    )
}

impl From<Result<(), ApiError>> for Answer {
    fn from(result: Result<(), ApiError>) -> Self {
        match result {
            Ok(()) => Self::done(),
            Err(error) => Self::refuse(&error),
        }
    }
}

impl From<Result<(), CommandError>> for Answer {
    fn from(result: Result<(), CommandError>) -> Self {
        Self::from(result.map_err(ApiError::from))
    }
}
