//! `PUT /boot-source`: what the microVM boots.

use vm_config::BootSource;
use vmm::control::PutBootSource;

use crate::answer::Answer;
use crate::error::ApiError;
#[cfg(feature = "openapi")]
use crate::error::Fault;
use crate::router::{Api, Request, Vmm};

/// Sets kernel, initial RAM disk and command line, before the start.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/boot-source", request_body = BootSource,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn put_boot_source<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let boot_source: BootSource = request.json()?;
    Ok(api.ask(PutBootSource(boot_source)).await.into())
}
