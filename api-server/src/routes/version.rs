//! `GET /` and `GET /version`: who answers.

use serde::Serialize;
use vmm::Lifecycle;

use crate::answer::Answer;
use crate::error::ApiError;
use crate::router::{Api, Request, Vmm};
use crate::version;

/// The microVM and the program behind it.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct Instance<'a> {
    /// The microVM's name.
    id: &'a str,
    /// `Not started`, `Running` or `Paused`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    state: Lifecycle,
    /// The API level.
    vmm_version: &'a str,
    /// Always `Firecracker`: the interface it speaks.
    app_name: &'a str,
    /// True once the guest said that its kernel panicked; absent before.
    #[serde(skip_serializing_if = "Option::is_none")]
    guest_panicked: Option<bool>,
}

/// The level of the interface and the version of the program.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct Versions<'a> {
    /// The API level.
    firecracker_version: &'a str,
    /// The program's own version.
    cloister_version: &'a str,
}

/// Tells the microVM's name and state.
#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/",
    responses((status = 200, description = "The microVM", body = Instance))
))]
pub(super) async fn get_instance<V: Vmm>(_: &Request, api: &Api<V>) -> Result<Answer, ApiError> {
    let state = api.state();
    Ok(Answer::json(&Instance {
        id: api.id().as_str(),
        state: state.lifecycle,
        vmm_version: version::API_LEVEL,
        app_name: "Firecracker",
        guest_panicked: state.has_guest_panicked().then_some(true),
    }))
}

/// Tells the versions.
#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/version",
    responses((status = 200, description = "The versions", body = Versions))
))]
pub(super) async fn get_version<V: Vmm>(_: &Request, _: &Api<V>) -> Result<Answer, ApiError> {
    Ok(Answer::json(&Versions {
        firecracker_version: version::API_LEVEL,
        cloister_version: version::CLOISTER,
    }))
}
