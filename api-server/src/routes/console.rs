//! `PUT /console`: a virtio console for the guest.

use vm_config::ConsoleConfig;
use vmm::control::PutConsole;

use crate::answer::Answer;
use crate::error::ApiError;
#[cfg(feature = "openapi")]
use crate::error::Fault;
use crate::router::{Api, Request, Vmm};

/// Gives the microVM a virtio console, or replaces the one it has.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/console", request_body = ConsoleConfig,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn put_console<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let console: ConsoleConfig = request.json()?;
    Ok(api.ask(PutConsole(console)).await.into())
}
