//! `/drives/{id}`, `/network-interfaces/{id}`, `/vsock` and `/entropy`.

use tokio::sync::oneshot;
use vm_config::{
    DeviceId, Drive, DrivePatch, Entropy, NetworkInterface, NetworkInterfacePatch, Vsock,
};
use vmm::control::{
    Consent, PatchDrive, PatchNetworkInterface, PutDrive, PutEntropy, PutNetworkInterface,
    PutVsock, RemovableKind, RemoveDevice,
};

use crate::answer::Answer;
use crate::error::ApiError;
#[cfg(feature = "openapi")]
use crate::error::Fault;
use crate::router::{Api, Request, Vmm};

/// Adds a drive: before the start, in place of one of that name; after it, to the PCI bus of the running guest, which is
/// told.
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

/// Adds a network interface: before the start, in place of one of that name; after it, to the PCI bus of the running
/// guest, which is told.
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

/// Removes a drive. A guest that uses it is asked to let it go first.
#[cfg_attr(feature = "openapi", utoipa::path(
    delete, path = "/drives/{id}",
    params(
        ("id" = String, Path, description = "The drive's name: letters, digits, `_`"),
        ("force" = Option<bool>, Query, description = "Whether it goes without asking the guest; false by default"),
    ),
    responses((status = 204, description = "It is gone"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn delete_drive<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    remove(request, api, RemovableKind::Drive).await
}

/// Removes a network interface. A guest that uses it is asked to let it go first.
#[cfg_attr(feature = "openapi", utoipa::path(
    delete, path = "/network-interfaces/{id}",
    params(
        ("id" = String, Path, description = "The interface's name: letters, digits, `_`"),
        ("force" = Option<bool>, Query, description = "Whether it goes without asking the guest; false by default"),
    ),
    responses((status = 204, description = "It is gone"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn delete_network_interface<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    remove(request, api, RemovableKind::NetworkInterface).await
}

/// Begins a removal and waits for its end; other requests are answered meanwhile.
pub(super) async fn remove<V: Vmm>(
    request: &Request,
    api: &Api<V>,
    kind: RemovableKind,
) -> Result<Answer, ApiError> {
    let consent = match request.query() {
        None | Some("force=false") => Consent::Needed,
        Some("force=true") => Consent::Forced,
        Some(other) => return Err(ApiError::Query(other.to_owned())),
    };
    let (sender, receiver) = oneshot::channel();
    let removal = RemoveDevice {
        kind,
        id: DeviceId(request.id().to_owned()),
        consent,
        // The client may have gone; nobody else wants to hear it.
        done: Box::new(move |result| drop(sender.send(result))),
    };
    api.ask(removal).await?;
    Ok(receiver.await.map_err(|_| ApiError::Ended)?.into())
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
    Ok(Answer::from(result)
        .deprecated_if(is_deprecated, "PUT /vsock: vsock_id field is deprecated."))
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
