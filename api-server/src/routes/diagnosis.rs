//! `GET /vm/diagnosis`: what a guest does, and what is probably wrong with it.

use std::time::Duration;

#[cfg(feature = "openapi")]
use vmm::diagnosis::Diagnosis;
use vmm::diagnosis::Examine;

use crate::answer::Answer;
use crate::error::ApiError;
use crate::router::{Api, Request, Vmm};

/// Between two looks at a guest that runs: what stays in one place meanwhile does not get on.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Tells what the guest does and what is probably wrong, in any state; a guest that runs goes on, one that is paused stays so.
#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/vm/diagnosis",
    responses((status = 200, description = "The diagnosis", body = Diagnosis))
))]
pub(super) async fn get_diagnosis<V: Vmm>(_: &Request, api: &Api<V>) -> Result<Answer, ApiError> {
    let first = api.ask(Examine).await?;
    if !first.is_running() {
        return Ok(Answer::json(&first.diagnose(None)));
    }
    tokio::time::sleep(BETWEEN_LOOKS).await;
    let second = api.ask(Examine).await?;
    Ok(Answer::json(&second.diagnose(Some(&first))))
}
