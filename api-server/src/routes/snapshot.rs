//! `PUT /snapshot/create` and `PUT /snapshot/load`.

use serde::de::Error;
use vm_config::{SnapshotCreate, SnapshotLoad};
use vmm::control::{CreateSnapshot, LoadSnapshot};

use crate::answer::Answer;
use crate::error::ApiError;
#[cfg(feature = "openapi")]
use crate::error::Fault;
use crate::router::{Api, Request, Vmm};

/// Saves a paused microVM. This build has no snapshots: a request that is right is refused as `not_in_this_build`.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/snapshot/create", request_body = SnapshotCreate,
    responses((status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn create_snapshot<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let create: SnapshotCreate = request.json()?;
    Ok(api.ask(CreateSnapshot(create)).await.into())
}

/// Loads a microVM into a process in which nothing was configured. This build has no snapshots: a request that is right
/// is refused as `not_in_this_build`.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/snapshot/load", request_body = SnapshotLoad,
    responses((status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn load_snapshot<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let load: SnapshotLoad = request.json()?;
    load.check()
        .map_err(|mistake| ApiError::Json(Error::custom(mistake)))?;
    let is_deprecated = load.is_deprecated();
    let result = api.ask(LoadSnapshot(load)).await;
    Ok(Answer::from(result).deprecated_if(
        is_deprecated,
        "PUT /snapshot/load: mem_file_path and enable_diff_snapshots fields are deprecated.",
    ))
}
