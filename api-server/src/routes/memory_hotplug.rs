//! `/hotplug/memory`.

#[cfg(feature = "openapi")]
use vm_config::MemoryHotplugStatus;
use vm_config::{MemoryHotplugConfig, MemoryHotplugPatch};
use vmm::control::{GetMemoryHotplug, PatchMemoryHotplug, PutMemoryHotplug};

use crate::answer::Answer;
use crate::error::ApiError;
#[cfg(feature = "openapi")]
use crate::error::Fault;
use crate::router::{Api, Request, Vmm};

/// Gives the microVM room for memory that is plugged while it runs.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/hotplug/memory", request_body = MemoryHotplugConfig,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn put_memory_hotplug<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let config: MemoryHotplugConfig = request.json()?;
    Ok(api.ask(PutMemoryHotplug(config)).await.into())
}

/// Tells how much memory is plugged.
#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/hotplug/memory",
    responses(
        (status = 200, description = "Sizes", body = MemoryHotplugStatus),
        (status = 400, description = "Refused", body = Fault)
    )
))]
pub(super) async fn get_memory_hotplug<V: Vmm>(
    _: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    Ok(Answer::json(&api.ask(GetMemoryHotplug).await?))
}

/// Requests that the guest plugs or unplugs memory until it has so much.
#[cfg_attr(feature = "openapi", utoipa::path(
    patch, path = "/hotplug/memory", request_body = MemoryHotplugPatch,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn patch_memory_hotplug<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let patch: MemoryHotplugPatch = request.json()?;
    Ok(api.ask(PatchMemoryHotplug(patch)).await.into())
}
