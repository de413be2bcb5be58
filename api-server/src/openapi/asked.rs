//! Sends a request through the router to a microVM that answers nothing: what was asked of it, and when that is allowed.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use hyper::header::HeaderMap;
use serde_json::Value;
use vmm::control::{Command, CommandError, VmConfig};
use vmm::{EventLog, Lifecycle, VmState};

use crate::answer::Then;
use crate::router::{Api, Request, Verb, Vmm};

/// When something can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    BeforeStart,
    AfterStart,
    Always,
    /// One request can be sent before, another after.
    ByBody,
}

impl Phase {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::BeforeStart => "before the start",
            Self::AfterStart => "after the start",
            Self::Always => "always",
            Self::ByBody => "depends on the body",
        }
    }
}

/// What became of a request.
pub(super) struct Asked {
    /// It came as far as the microVM.
    pub(super) is_command: bool,
    /// When it is allowed: what asks the microVM nothing always is.
    pub(super) phase: Phase,
    pub(super) headers: HeaderMap,
    /// The body of the answer, when that is JSON.
    pub(super) answer: Value,
}

#[derive(Default)]
struct Noting {
    allowed: Rc<Cell<Option<&'static [Lifecycle]>>>,
    events: EventLog,
}

impl Vmm for Noting {
    fn submit<C: Command>(
        &self,
        _command: C,
        reply: impl FnOnce(Result<C::Reply, CommandError>) + Send + 'static,
    ) {
        self.allowed.set(Some(C::ALLOWED));
        reply(Err(CommandError::BeforeStart));
    }

    fn state(&self) -> Arc<VmState> {
        Arc::new(VmState::new(Lifecycle::NotStarted, VmConfig::default()))
    }

    fn events(&self) -> &EventLog {
        &self.events
    }
}

impl Asked {
    /// Sends `body` to `verb` `path`, whose `{id}` is what the body calls it.
    pub(super) fn by(verb: Verb, path: &str, body: Option<&Value>) -> Self {
        let path = path.replace("{id}", id_in(body).unwrap_or("a"));
        let body = body.map(Value::to_string).unwrap_or_default();
        let vmm = Noting::default();
        let allowed = vmm.allowed.clone();
        let api = Api::new(vmm, "test".parse().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let request = Request::new(verb, &path, body.into_bytes());
        let answer = runtime.block_on(api.answer(&request));
        let states = allowed.get();
        Self {
            is_command: states.is_some(),
            phase: phase(states),
            answer: serde_json::from_slice(answer.body()).unwrap_or_default(),
            headers: answer.into_response(Then::KeepAlive).headers().clone(),
        }
    }
}

fn phase(states: Option<&[Lifecycle]>) -> Phase {
    let allows = |state| states.is_none_or(|states| states.contains(&state));
    match (allows(Lifecycle::NotStarted), allows(Lifecycle::Running)) {
        (true, true) => Phase::Always,
        (true, false) => Phase::BeforeStart,
        (false, true) => Phase::AfterStart,
        (false, false) => panic!("{states:?} are no phase"),
    }
}

/// What a body calls its device.
pub(super) fn id_in(body: Option<&Value>) -> Option<&str> {
    let names = ["drive_id", "iface_id", "id"];
    names.iter().find_map(|name| body?.get(name)?.as_str())
}
