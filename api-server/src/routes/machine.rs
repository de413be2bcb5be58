//! `/machine-config`: vCPUs and memory; `/cpu-config`: what the guest finds its processors to be.

use vm_config::{CpuConfig, CpuTemplate, Machine, MachinePatch};
use vmm::control::{PatchMachine, PutCpuConfig, PutMachine};

use crate::answer::Answer;
use crate::error::ApiError;
#[cfg(feature = "openapi")]
use crate::error::Fault;
use crate::router::{Api, Request, Vmm};

/// Tells the machine's shape.
#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/machine-config",
    responses((status = 200, description = "The machine", body = Machine))
))]
pub(super) async fn get_machine<V: Vmm>(_: &Request, api: &Api<V>) -> Result<Answer, ApiError> {
    let machine = api.state().config.machine.clone();
    Ok(Answer::json(&reported(machine)))
}

/// Sets the machine's shape, before it starts.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/machine-config", request_body = Machine,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn put_machine<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let machine: Machine = request.json()?;
    let is_deprecated = machine.cpu_template.is_some();
    let result = api.ask(PutMachine(machine)).await;
    Ok(Answer::from(result).deprecated_if(
        is_deprecated,
        "PUT /machine-config: cpu_template field is deprecated.",
    ))
}

/// Changes some of the machine's shape, before it starts.
#[cfg_attr(feature = "openapi", utoipa::path(
    patch, path = "/machine-config", request_body = MachinePatch,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn patch_machine<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let patch: MachinePatch = request.json()?;
    if patch == MachinePatch::default() {
        return Err(ApiError::EmptyPatch);
    }
    let is_deprecated = patch.cpu_template.is_some();
    let result = api.ask(PatchMachine(patch)).await;
    Ok(Answer::from(result).deprecated_if(
        is_deprecated,
        "PATCH /machine-config: cpu_template field is deprecated.",
    ))
}

/// Sets the custom CPU template, before the machine starts. It replaces a named one.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/cpu-config", request_body = CpuConfig,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn put_cpu_config<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let template: CpuConfig = request.json()?;
    Ok(api.ask(PutCpuConfig(template)).await.into())
}

/// The machine as it is told: the template `None` is no template.
pub(super) fn reported(machine: Machine) -> Machine {
    let cpu_template = machine
        .cpu_template
        .filter(|template| *template != CpuTemplate::None);
    Machine {
        cpu_template,
        ..machine
    }
}
