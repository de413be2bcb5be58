//! `PUT /serial`: where the guest's serial console goes.

use vm_config::SerialConfig;
use vmm::control::PutSerial;

use crate::answer::Answer;
use crate::error::ApiError;
#[cfg(feature = "openapi")]
use crate::error::Fault;
use crate::router::{Api, Request, Vmm};

/// Sets the file for the guest's serial output, before the start; it is opened at the start.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/serial", request_body = SerialConfig,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn put_serial<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let serial: SerialConfig = request.json()?;
    Ok(api.ask(PutSerial(serial)).await.into())
}
