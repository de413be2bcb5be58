//! What a file says.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

/// Rows that one monitor answers, one after the other.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub name: String,
    /// Flags of the monitor.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// A monitor for each; not started alone if none is named.
    #[serde(default)]
    phases: Vec<Phase>,
    /// Requests before the start, which all must succeed.
    #[serde(default)]
    pub before: Vec<Row>,
    pub rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    NotStarted,
    Running,
    Paused,
}

/// What is sent, and what is to come back.
#[derive(Clone, Deserialize)]
pub struct Row {
    /// Method and path.
    #[serde(default)]
    pub request: String,
    /// The body, as JSON.
    pub body: Option<Value>,
    /// The body, as it is.
    pub text: Option<String>,
    /// All of it, as it is: on a connection of its own.
    pub send: Option<String>,
    #[serde(flatten)]
    pub answer: Answer,
    /// More answers on that connection.
    #[serde(default)]
    pub then: Vec<Answer>,
    /// The connection ends after them; else it must go on.
    #[serde(default)]
    pub closes: bool,
    /// So many times, `$n` in it counting from 0.
    #[serde(default = "once")]
    pub times: usize,
    /// Connections that are open meanwhile, besides the two of the group.
    #[serde(default)]
    pub beside: usize,
    /// Where the row is ours: why.
    pub why: Option<String>,
    /// What nobody reads is a mistake in the row.
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

/// What is to come back.
#[derive(Clone, Deserialize)]
pub struct Answer {
    pub status: u16,
    /// `fault_message` is this.
    pub exact: Option<String>,
    /// `fault_message` has these words.
    #[serde(default)]
    pub says: Vec<String>,
    /// `code` is this.
    pub code: Option<String>,
    /// The body is this, keys in this order.
    pub answer: Option<Value>,
    /// The body is no JSON, and has these words; `headers` says what it is.
    #[serde(default)]
    pub body_says: Vec<String>,
    /// The body has these keys, with these values.
    #[serde(default)]
    pub has: Map<String, Value>,
    /// Headers that are there, or not (null).
    #[serde(default)]
    pub headers: BTreeMap<String, Option<String>>,
    /// All headers, in this order.
    pub header_names: Option<Vec<String>>,
}

fn once() -> usize {
    1
}

impl Group {
    pub fn phases(&self) -> Vec<Phase> {
        match &self.phases[..] {
            [] => vec![Phase::NotStarted],
            phases => phases.to_vec(),
        }
    }
}

impl Row {
    /// What is wrong with the row itself.
    pub fn mistake(&self) -> Option<String> {
        let unknown = self.unknown.keys().next();
        unknown.map(|key| format!("{key:?} is nothing that a row can say"))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.send, &self.body, &self.text) {
            (Some(bytes), ..) => write!(f, "{bytes:?}"),
            (_, Some(body), _) => write!(f, "{} {body}", self.request),
            (_, _, text) => write!(f, "{} {}", self.request, text.as_deref().unwrap_or("")),
        }?;
        self.why.iter().try_for_each(|why| write!(f, " ({why})"))
    }
}
