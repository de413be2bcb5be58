//! What reads a client's bytes, for fuzz targets of another crate. Empty without the feature `testing`: the process
//! is `main.rs`.
#![cfg(feature = "testing")]
#![expect(dead_code, reason = "most of the process stays out")]

mod answer;
mod config_file;
mod counts;
mod cpu_template;
mod error;
mod event_stream;
mod exit;
mod logger;
mod parse_failure;
mod router;
mod routes;
mod version;
mod whole_file;

use std::sync::Arc;

use vmm::control::{Command, CommandError, VmConfig};
use vmm::{EventLog, Lifecycle, VmState};

use router::{Api, Request, Verb, Vmm};

/// As in `main.rs`.
const EXIT_GENERIC: u8 = 1;

pub use config_file::is_taken as is_config_file;

/// A microVM that is never in the right state.
#[derive(Default)]
struct Refusing(EventLog);

impl Vmm for Refusing {
    fn submit<C: Command>(
        &self,
        _command: C,
        reply: impl FnOnce(Result<C::Reply, CommandError>) + Send + 'static,
    ) {
        reply(Err(CommandError::BeforeStart));
    }

    fn state(&self) -> Arc<VmState> {
        Arc::new(VmState::new(Lifecycle::NotStarted, VmConfig::default()))
    }

    fn events(&self) -> &EventLog {
        &self.0
    }
}

/// Answers one request; gives the body of the answer. `None` for a method that does not exist, and for the logger,
/// which would open files.
#[must_use]
pub fn answer(method: &str, path: &str, body: &[u8]) -> Option<Vec<u8>> {
    let request = Request::new(Verb::from_method(method)?, path, body.to_vec());
    if request.tokens().next() == Some("logger") {
        return None;
    }
    let api = Api::new(Refusing::default(), "fuzz".parse().ok()?);
    let runtime = tokio::runtime::Builder::new_current_thread().build().ok()?;
    Some(runtime.block_on(api.answer(&request)).body().to_vec())
}
