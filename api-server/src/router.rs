//! From a request to its answer: which endpoint it is for, and the checks that come before any endpoint.
//!
//! The checks run in the order clients can observe: body or none, known path, name in the path, JSON, then
//! whatever the microVM says.

use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeOwned, Error, IgnoredAny};
use serde_json::error::Category;
use tokio::sync::oneshot;
use tracing::info;
use vm_config::InstanceId;
use vmm::control::{Command, CommandError, Control};
use vmm::{EventLog, VmState};

use crate::answer::Answer;
use crate::counts::Counts;
use crate::error::ApiError;
use crate::routes::{Endpoint, nowhere};

/// The methods of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Put,
    Patch,
    Delete,
}

/// A request, whole.
#[derive(Debug)]
pub(crate) struct Request {
    verb: Verb,
    /// As sent: not decoded, and with its query unless the endpoint has one.
    path: String,
    /// What is behind a question mark, where the endpoint has queries.
    query: Option<String>,
    body: Vec<u8>,
}

/// Whoever answers commands: the microVM, or what stands for it in a test.
pub(crate) trait Vmm: 'static {
    /// Sends `command`; `reply` is called with the answer, on any thread.
    fn submit<C: Command>(
        &self,
        command: C,
        reply: impl FnOnce(Result<C::Reply, CommandError>) + Send + 'static,
    );

    /// What it is now. Does not wait for commands.
    fn state(&self) -> Arc<VmState>;

    /// What happens to it.
    fn events(&self) -> &EventLog;
}

/// What the endpoints work with.
pub(crate) struct Api<V> {
    vmm: V,
    id: InstanceId,
}

impl Vmm for Control {
    fn submit<C: Command>(
        &self,
        command: C,
        reply: impl FnOnce(Result<C::Reply, CommandError>) + Send + 'static,
    ) {
        Control::submit(self, command, reply);
    }

    fn state(&self) -> Arc<VmState> {
        Control::state(self)
    }

    fn events(&self) -> &EventLog {
        Control::events(self)
    }
}

impl<V: Vmm> Api<V> {
    /// An interface to `vmm`, whose name is `id`.
    pub(crate) fn new(vmm: V, id: InstanceId) -> Self {
        Self { vmm, id }
    }

    /// The microVM's name.
    pub(crate) fn id(&self) -> &InstanceId {
        &self.id
    }

    /// What happens to the microVM.
    pub(crate) fn events(&self) -> &EventLog {
        self.vmm.events()
    }

    /// What the microVM is now, even while it does something that takes long.
    pub(crate) fn state(&self) -> Arc<VmState> {
        self.vmm.state()
    }

    /// Asks the microVM and waits for its reply.
    ///
    /// # Errors
    /// Its refusal, or that it ended.
    pub(crate) async fn ask<C: Command>(&self, command: C) -> Result<C::Reply, ApiError> {
        let (sender, receiver) = oneshot::channel();
        self.vmm.submit(command, move |reply| {
            // The client may have gone; nobody else wants the reply.
            let _ = sender.send(reply);
        });
        Ok(receiver.await.map_err(|_| ApiError::Ended)??)
    }

    /// Answers `request`.
    pub(crate) async fn answer(&self, request: &Request) -> Answer {
        info!("{}", request.describe());
        let result = self.route(request).await;
        let answer = result.unwrap_or_else(|error| Answer::refuse(&error));
        answer.log();
        answer
    }

    async fn route(&self, request: &Request) -> Result<Answer, ApiError> {
        request.check_body()?;
        let endpoint = Endpoint::<V>::ALL
            .iter()
            .find(|endpoint| request.is_for(endpoint.verb, endpoint.path));
        let Some(endpoint) = endpoint else {
            return Err(nowhere::refusal(request));
        };
        let counts = Counts::count(request);
        let checked = request.check_id(endpoint.path);
        let answer = match checked {
            Ok(()) => (endpoint.handler)(request, self).await,
            Err(refused) => Err(refused),
        };
        if let (Some(counts), Err(refused)) = (counts, &answer) {
            counts.refused(refused);
        }
        answer
    }
}

impl Verb {
    /// The verb for HTTP's `method`, which is case-sensitive.
    pub(crate) fn from_method(method: &str) -> Option<Self> {
        match method {
            "GET" => Some(Self::Get),
            "PUT" => Some(Self::Put),
            "PATCH" => Some(Self::Patch),
            "DELETE" => Some(Self::Delete),
            _ => None,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        })
    }
}

impl Request {
    /// A request for `path`; an empty body is no body.
    ///
    /// Only `DELETE` and `GET /events` have queries; elsewhere existing clients see one taken for a part of the path.
    pub(crate) fn new(verb: Verb, path: &str, body: Vec<u8>) -> Self {
        let (path, query) = match path.split_once('?') {
            Some((path, query))
                if verb == Verb::Delete
                    || (verb == Verb::Get && path.trim_matches('/') == "events") =>
            {
                (path, Some(query.to_owned()))
            }
            _ => (path, None),
        };
        Self {
            verb,
            path: path.to_owned(),
            query,
            body,
        }
    }

    /// What is behind a question mark, where the endpoint has queries.
    pub(crate) fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// The method.
    pub(crate) fn verb(&self) -> Verb {
        self.verb
    }

    /// The tokens between the slashes, from the first that is not empty.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = &str> {
        self.path.trim_start_matches('/').split_terminator('/')
    }

    /// The name in `/drives/<name>` and its like; checked before an endpoint sees the request.
    pub(crate) fn id(&self) -> &str {
        self.tokens().nth(1).unwrap_or_default()
    }

    /// There is a body.
    pub(crate) fn has_body(&self) -> bool {
        !self.body.is_empty()
    }

    /// The body as a `T`.
    ///
    /// # Errors
    /// Where and why it is not one.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.body).map_err(|mistake| {
            // The reader calls a `null` in the place of a name a mistake of syntax.
            let is_json = || serde_json::from_slice::<IgnoredAny>(&self.body).is_ok();
            ApiError::Json(match mistake.classify() {
                Category::Syntax if is_json() => serde_json::Error::custom(mistake),
                _ => mistake,
            })
        })
    }

    /// Whether the request is for the endpoint `verb` `template`: tokens, or `/first/{id}`.
    /// What follows is ignored.
    pub(crate) fn is_for(&self, verb: Verb, template: &str) -> bool {
        let mut wanted = template.trim_start_matches('/').split('/');
        let mut tokens = self.tokens();
        self.verb == verb
            && wanted.next() == Some(tokens.next().unwrap_or_default())
            && wanted
                .take_while(|token| *token != "{id}")
                .all(|token| tokens.next() == Some(token))
    }

    /// Checks the name in the path, where `template` has one.
    pub(crate) fn check_id(&self, template: &str) -> Result<(), ApiError> {
        let id = self.id();
        if !template.ends_with("{id}") {
            Ok(())
        } else if id.is_empty() {
            Err(ApiError::EmptyId)
        } else if id.chars().all(|c| c == '_' || c.is_alphanumeric()) {
            Ok(())
        } else {
            Err(ApiError::InvalidId)
        }
    }

    fn check_body(&self) -> Result<(), ApiError> {
        match (self.verb, self.body.is_empty()) {
            (Verb::Get, false) => Err(ApiError::GetWithBody),
            (Verb::Delete, false) => Err(ApiError::DeleteWithBody),
            (Verb::Put, true) => Err(ApiError::EmptyPut),
            (Verb::Patch, true) if !self.may_be_empty() => Err(ApiError::EmptyPatch),
            _ => Ok(()),
        }
    }

    /// The `PATCH` requests that need no body.
    fn may_be_empty(&self) -> bool {
        let tokens: Vec<&str> = self.tokens().take(3).collect();
        matches!(tokens[..], ["balloon", "hinting", "start" | "stop"])
    }

    /// The log line for it. Metadata is not written out, a CPU template only for those who want to know it all.
    fn describe(&self) -> String {
        let head = format!(
            "The API server received a {:?} request on {:?}",
            self.verb, self.path
        );
        let mut tokens = self.tokens();
        match (tokens.next(), tokens.next()) {
            _ if self.body.is_empty() => format!("{head}."),
            (Some("mmds"), second) if second != Some("config") => format!("{head}."),
            (Some("cpu-config"), _) if !tracing::enabled!(tracing::Level::DEBUG) => format!(
                "{head}. To view the CPU template received by the API, configure log-level to DEBUG."
            ),
            _ => {
                let body = std::str::from_utf8(&self.body).unwrap_or("inconvertible to UTF-8");
                format!("{head} with body {body:?}.")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_the_line_that_is_looked_for() {
        let head = "The API server received a";
        for (verb, path, body, rest) in [
            (
                Verb::Get,
                "/version",
                &b""[..],
                r#"Get request on "/version"."#,
            ),
            (
                Verb::Put,
                "/vsock",
                b"{\"a\":1}",
                r#"Put request on "/vsock" with body "{\"a\":1}"."#,
            ),
            (
                Verb::Put,
                "/vsock",
                b"\xff",
                r#"Put request on "/vsock" with body "inconvertible to UTF-8"."#,
            ),
            (Verb::Put, "/mmds", b"{}", r#"Put request on "/mmds"."#),
            (
                Verb::Patch,
                "//mmds/x",
                b"{}",
                r#"Patch request on "//mmds/x"."#,
            ),
            (
                Verb::Put,
                "/mmds/config",
                b"{}",
                r#"Put request on "/mmds/config" with body "{}"."#,
            ),
            (
                Verb::Put,
                "/cpu-config",
                b"{}",
                r#"Put request on "/cpu-config". To view the CPU template received by the API, configure log-level to DEBUG."#,
            ),
            (
                Verb::Delete,
                "/drives/a?force=true",
                b"",
                r#"Delete request on "/drives/a"."#,
            ),
        ] {
            let request = Request::new(verb, path, body.to_vec());
            assert_eq!(request.describe(), format!("{head} {rest}"));
        }
    }
}
