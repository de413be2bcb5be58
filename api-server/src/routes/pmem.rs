//! `/pmem/{id}`.

use vm_config::{PmemConfig, PmemPatch};
use vmm::control::{PatchPmem, PutPmem};

use crate::answer::Answer;
use crate::error::ApiError;
#[cfg(feature = "openapi")]
use crate::error::Fault;
use crate::router::{Api, Request, Vmm};

/// Adds persistent memory, or replaces the one of that name, before the start; its file is opened then.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/pmem/{id}", request_body = PmemConfig,
    params(("id" = String, Path, description = "The device's name: letters, digits, `_`")),
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn put_pmem<V: Vmm>(request: &Request, api: &Api<V>) -> Result<Answer, ApiError> {
    let pmem: PmemConfig = request.json()?;
    if pmem.id.0 != request.id() {
        return Err(ApiError::IdMismatch);
    }
    Ok(api.ask(PutPmem(pmem)).await.into())
}

/// Changes the rate limit of persistent memory while the microVM runs.
#[cfg_attr(feature = "openapi", utoipa::path(
    patch, path = "/pmem/{id}", request_body = PmemPatch,
    params(("id" = String, Path, description = "The device's name: letters, digits, `_`")),
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn patch_pmem<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let patch: PmemPatch = request.json()?;
    if patch.id.0 != request.id() {
        return Err(ApiError::IdMismatch);
    }
    Ok(api.ask(PatchPmem(patch)).await.into())
}
