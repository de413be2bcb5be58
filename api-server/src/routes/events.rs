//! `GET /events`: what happens to the microVM, as it happens.

use crate::answer::Answer;
use crate::error::ApiError;
#[cfg(feature = "openapi")]
use crate::error::Fault;
#[cfg(feature = "openapi")]
use crate::event_stream::EventLine;
use crate::event_stream::EventStream;
use crate::router::{Api, Request, Vmm};

/// The only query: the last event that the client has.
const SINCE: &str = "since=";

/// Tells what happens to the microVM, one JSON object a line, until it ends.
#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/events",
    params(("since" = Option<u64>, Query, description = "Only events after the one of this `seq`; 0, as if absent, for all that are kept")),
    responses(
        (status = 200, description = "A line for each event, as it happens", body = EventLine, content_type = "application/x-ndjson"),
        (status = 400, description = "Refused", body = Fault),
    )
))]
pub(super) async fn get_events<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let since = match request.query() {
        None => 0,
        Some(query) => {
            let number = query.strip_prefix(SINCE).and_then(|text| text.parse().ok());
            number.ok_or_else(|| ApiError::EventQuery(query.to_owned()))?
        }
    };
    let reader = api.events().read_after(since);
    Ok(Answer::events(EventStream::new(reader)))
}
