//! `PUT /logger`: what is logged, and where.

use vm_config::LoggerConfig;
use vmm::control::{BEFORE_START, Command, CommandError, LoggerError};
use vmm::{Lifecycle, Vm};

use crate::answer::Answer;
use crate::error::ApiError;
#[cfg(feature = "openapi")]
use crate::error::Fault;
use crate::logger;
use crate::router::{Api, Request, Vmm};

/// Changes the log, in its turn among the commands.
struct PutLogger(LoggerConfig);

impl Command for PutLogger {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;

    fn run(self, _: &mut Vm) -> Result<(), CommandError> {
        let configured = logger::configure(&self.0);
        configured.map_err(|failure| LoggerError::from(failure).into())
    }
}

/// Sets level, form and target of the log, before the start. It can be set more than once.
#[cfg_attr(feature = "openapi", utoipa::path(
    put, path = "/logger", request_body = LoggerConfig,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn put_logger<V: Vmm>(
    request: &Request,
    api: &Api<V>,
) -> Result<Answer, ApiError> {
    let config: LoggerConfig = request.json()?;
    Ok(api.ask(PutLogger(config)).await.into())
}
