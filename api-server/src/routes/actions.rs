//! `PUT /actions`: what a client can make the microVM do.

use serde::Deserialize;
use vmm::control::{FlushMetrics, InstanceStart, SendCtrlAltDel, SendPowerButton};

use crate::answer::Answer;
use crate::error::ApiError;
#[cfg(feature = "openapi")]
use crate::error::Fault;
use crate::router::{Api, Request, Vmm};

/// What to do.
#[derive(Clone, Copy, Debug, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
enum ActionType {
    /// Write a line of metrics now, where a file for them was configured.
    FlushMetrics,
    /// Boot.
    InstanceStart,
    /// Press Ctrl, Alt and Del.
    SendCtrlAltDel,
    /// Press the power button: a guest that heeds it shuts down.
    SendPowerButton,
}

/// `PUT /actions`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct Action {
    /// What to do.
    action_type: ActionType,
}

/// Does one thing.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/actions", request_body = Action,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn put_action<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let action: Action = request.json()?;
    let result = match action.action_type {
        ActionType::FlushMetrics => api.ask(FlushMetrics).await,
        ActionType::InstanceStart => api.ask(InstanceStart).await,
        ActionType::SendCtrlAltDel => api.ask(SendCtrlAltDel).await,
        ActionType::SendPowerButton => api.ask(SendPowerButton).await,
    };
    Ok(result.into())
}
