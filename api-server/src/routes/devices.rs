//! `/drives/{id}`, `/network-interfaces/{id}`, `/vsock` and `/entropy`.

use vm_config::{Drive, DrivePatch, Entropy, NetworkInterface, NetworkInterfacePatch, Vsock};
use vmm::control::{
    PatchDrive, PatchNetworkInterface, PutDrive, PutEntropy, PutNetworkInterface, PutVsock,
};

use crate::answer::Answer;
use crate::error::ApiError;
#[cfg(feature = "openapi")]
use crate::error::Fault;
use crate::router::{Api, Request, Vmm};

/// Adds a drive, or replaces the one of that name before the start.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/drives/{id}", request_body = Drive,
    params(("id" = String, Path, description = "The drive's name: letters, digits, `_`")),
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn put_drive<V: Vmm>(request: &Request, api: &Api<V>) -> Result<Answer, ApiError> {
    let drive: Drive = request.json()?;
    if drive.drive_id.0 != request.id() {
        return Err(ApiError::IdMismatch);
    }
    Ok(api.ask(PutDrive(drive)).await.into())
}

/// Changes a drive while the microVM runs; its driver is told when the capacity may be another.
#[cfg_attr(feature = "openapi", utoipa::path(
    patch, path = "/drives/{id}", request_body = DrivePatch,
    params(("id" = String, Path, description = "The drive's name: letters, digits, `_`")),
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn patch_drive<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let patch: DrivePatch = request.json()?;
    if patch.drive_id.0 != request.id() {
        return Err(ApiError::IdMismatch);
    }
    Ok(api.ask(PatchDrive(patch)).await.into())
}

/// Adds a network interface, or replaces the one of that name before the start.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/network-interfaces/{id}", request_body = NetworkInterface,
    params(("id" = String, Path, description = "The interface's name: letters, digits, `_`")),
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn put_network_interface<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let interface: NetworkInterface = request.json()?;
    if interface.iface_id.0 != request.id() {
        return Err(ApiError::InterfaceIdMismatch {
            path: request.id().to_owned(),
            body: interface.iface_id.0,
        });
    }
    Ok(api.ask(PutNetworkInterface(interface)).await.into())
}

/// Changes the rate limits of a network interface while the microVM runs.
#[cfg_attr(feature = "openapi", utoipa::path(
    patch, path = "/network-interfaces/{id}", request_body = NetworkInterfacePatch,
    params(("id" = String, Path, description = "The interface's name: letters, digits, `_`")),
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn patch_network_interface<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let patch: NetworkInterfacePatch = request.json()?;
    if patch.iface_id.0 != request.id() {
        return Err(ApiError::InterfaceIdMismatch {
            path: request.id().to_owned(),
            body: patch.iface_id.0,
        });
    }
    Ok(api.ask(PatchNetworkInterface(patch)).await.into())
}

/// Gives the microVM a vsock device, or replaces the one it has.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/vsock", request_body = Vsock,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn put_vsock<V: Vmm>(request: &Request, api: &Api<V>) -> Result<Answer, ApiError> {
    let vsock: Vsock = request.json()?;
    let is_deprecated = vsock.vsock_id.is_some();
    let result = api.ask(PutVsock(vsock)).await;
    Ok(Answer::from(result).deprecated_if(is_deprecated))
}

/// Gives the microVM an entropy device, or replaces the one it has.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/entropy", request_body = Entropy,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn put_entropy<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let entropy: Entropy = request.json()?;
    Ok(api.ask(PutEntropy(entropy)).await.into())
}
