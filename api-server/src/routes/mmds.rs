//! `/mmds` and `/mmds/config`: what the guest can read about itself, and how.

use serde_json::Value;
use vm_config::{MmdsConfig, MmdsVersion};
use vmm::control::{GetMmds, PatchMmds, PutMmds, PutMmdsConfig};

use crate::answer::Answer;
use crate::error::ApiError;
#[cfg(feature = "openapi")]
use crate::error::Fault;
use crate::router::{Api, Request, Vmm};

/// Says on which interfaces the guest reaches its metadata, before the start.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/mmds/config", request_body = MmdsConfig,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn put_config<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let config: MmdsConfig = request.json()?;
    let is_deprecated = config.version == MmdsVersion::V1;
    let result = api.ask(PutMmdsConfig(config)).await;
    Ok(Answer::from(result).deprecated_if(
        is_deprecated,
        "PUT /mmds/config: V1 is deprecated. Use V2 instead.",
    ))
}

/// Tells the metadata; names are sorted.
#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/mmds",
    responses(
        (status = 200, description = "The metadata; an empty object while there is none", body = Value),
        (status = 400, description = "Refused", body = Fault)
    )
))]
pub(super) async fn get_mmds<V: Vmm>(_: &Request, api: &Api<V>) -> Result<Answer, ApiError> {
    Ok(Answer::json(&api.ask(GetMmds).await?))
}

/// Replaces the metadata by any JSON value.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/mmds", request_body = Value,
    responses(
        (status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault),
        (status = 413, description = "Larger than the store", body = Fault)
    )
))]
pub(super) async fn put_mmds<V: Vmm>(request: &Request, api: &Api<V>) -> Result<Answer, ApiError> {
    // `/mmds/config` has its own row; elsewhere what follows is ignored.
    if let Some(tail) = request.tokens().nth(1) {
        return Err(ApiError::UnknownTail(request.verb(), tail.to_owned()));
    }
    let value: Value = request.json()?;
    Ok(api.ask(PutMmds(value)).await.into())
}

/// Changes the metadata by a JSON merge patch (RFC 7396): null deletes.
#[cfg_attr(feature = "openapi", utoipa::path(
    patch, path = "/mmds", request_body = Value,
    responses(
        (status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault),
        (status = 413, description = "The result is larger than the store", body = Fault)
    )
))]
pub(super) async fn patch_mmds<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let patch: Value = request.json()?;
    Ok(api.ask(PatchMmds(patch)).await.into())
}
