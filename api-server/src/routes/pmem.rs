//! `/pmem/{id}`.

use vm_config::{PmemConfig, PmemPatch};
use vmm::control::{PatchPmem, PutPmem, RemovableKind};

use super::devices;
use crate::answer::Answer;
use crate::error::ApiError;
#[cfg(feature = "openapi")]
use crate::error::Fault;
use crate::router::{Api, Request, Vmm};

/// Adds persistent memory: before the start, in place of one of that name, its file opened then; after it, to the PCI
/// bus of the running guest, which is told.
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

/// Removes persistent memory. A guest that uses it is asked to let it go first.
#[cfg_attr(feature = "openapi", utoipa::path(
    delete, path = "/pmem/{id}",
    params(
        ("id" = String, Path, description = "The device's name: letters, digits, `_`"),
        ("force" = Option<bool>, Query, description = "Whether it goes without asking the guest; false by default"),
    ),
    responses((status = 204, description = "It is gone"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn delete_pmem<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    devices::remove(request, api, RemovableKind::Pmem).await
}
