//! `/metrics`: the metrics file, and everything counted so far.

use vm_config::MetricsConfig;
use vmm::control::{GetMetrics, PutMetrics};
use vmm::metrics::{CONTENT_TYPE, Instance};

use crate::answer::Answer;
use crate::error::ApiError;
#[cfg(feature = "openapi")]
use crate::error::Fault;
use crate::router::{Api, Request, Vmm};
use crate::version;

/// Has lines written to a file or FIFO, before the start and once.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/metrics", request_body = MetricsConfig,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn put_metrics<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let config: MetricsConfig = request.json()?;
    let id = api.id().clone();
    Ok(api.ask(PutMetrics { config, id }).await.into())
}

/// Tells everything counted so far, in the text format of OpenMetrics 1.0. No metrics file is needed for it.
#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/metrics",
    responses((
        status = 200, description = "One family for each metric, with its type, unit and help", body = String,
        content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    ))
))]
pub(super) async fn get_metrics<V: Vmm>(_: &Request, api: &Api<V>) -> Result<Answer, ApiError> {
    let instance = Instance {
        id: api.id().as_str().to_owned(),
        version: version::CLOISTER,
        api_level: version::API_LEVEL,
    };
    let text = api.ask(GetMetrics(instance)).await?;
    Ok(Answer::text(text, CONTENT_TYPE))
}
