//! `/balloon`: memory that the guest gives up, what it says of the rest, and hints of free pages.

use vm_config::{BalloonConfig, BalloonPatch, BalloonStatisticsPatch, HintingStart};
#[cfg(feature = "openapi")]
use vm_config::{BalloonStatistics, HintingStatus};
use vmm::control::{
    GetBalloon, GetBalloonStatistics, GetHintingStatus, PatchBalloon, PatchBalloonStatistics,
    PutBalloon, StartHinting, StopHinting,
};

use crate::answer::Answer;
use crate::error::ApiError;
#[cfg(feature = "openapi")]
use crate::error::Fault;
use crate::router::{Api, Request, Verb, Vmm};

/// Adds a balloon, or replaces it, before the start.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/balloon", request_body = BalloonConfig,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn put_balloon<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let balloon: BalloonConfig = request.json()?;
    Ok(api.ask(PutBalloon(balloon)).await.into())
}

/// Tells the balloon's configuration, with its present target.
#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/balloon",
    responses((status = 200, description = "The balloon", body = BalloonConfig),
        (status = 400, description = "There is none", body = Fault))
))]
pub(super) async fn get_balloon<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    check_tail(request)?;
    let balloon = api.ask(GetBalloon).await?;
    Ok(Answer::json(&balloon))
}

/// Changes the balloon's target, once the guest's driver runs.
#[cfg_attr(feature = "openapi", utoipa::path(
    patch, path = "/balloon", request_body = BalloonPatch,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn patch_balloon<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    check_tail(request)?;
    let patch: BalloonPatch = request.json()?;
    Ok(api.ask(PatchBalloon(patch)).await.into())
}

/// Tells target, what the guest gave up, and its latest figures.
#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/balloon/statistics",
    responses((status = 200, description = "Figures", body = BalloonStatistics),
        (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn get_statistics<V: Vmm>(_: &Request, api: &Api<V>) -> Result<Answer, ApiError> {
    let statistics = api.ask(GetBalloonStatistics).await?;
    Ok(Answer::json(&statistics))
}

/// Changes how often the guest is asked for figures.
#[cfg_attr(feature = "openapi", utoipa::path(
    patch, path = "/balloon/statistics", request_body = BalloonStatisticsPatch,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn patch_statistics<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let patch: BalloonStatisticsPatch = request.json()?;
    Ok(api.ask(PatchBalloonStatistics(patch)).await.into())
}

/// Asks the guest which pages are free, and gives them back to the host.
#[cfg_attr(feature = "openapi", utoipa::path(
    patch, path = "/balloon/hinting/start", request_body = Option<HintingStart>,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn start_hinting<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let start = if request.has_body() {
        request.json()?
    } else {
        HintingStart::default()
    };
    Ok(api.ask(StartHinting(start)).await.into())
}

/// Ends that: the guest may use its free pages again.
#[cfg_attr(feature = "openapi", utoipa::path(
    patch, path = "/balloon/hinting/stop",
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn stop_hinting<V: Vmm>(_: &Request, api: &Api<V>) -> Result<Answer, ApiError> {
    Ok(api.ask(StopHinting).await.into())
}

/// Tells how far that is.
#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/balloon/hinting/status",
    responses((status = 200, description = "What both sides last said", body = HintingStatus),
        (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn get_hinting_status<V: Vmm>(
    _: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let status = api.ask(GetHintingStatus).await?;
    Ok(Answer::json(&status))
}

/// Refuses a path below `/balloon` that is none.
fn check_tail(request: &Request) -> Result<(), ApiError> {
    let verb = request.verb();
    let tokens: Vec<&str> = request.tokens().take(3).collect();
    let tail = match (verb, &tokens[..]) {
        (_, [_, "hinting", tail @ ..]) => format!("/hinting/{}", tail.concat()),
        (Verb::Get, [_, tail, ..]) => (*tail).to_owned(),
        _ => return Ok(()),
    };
    Err(ApiError::UnknownTail(verb, tail))
}
