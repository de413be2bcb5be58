//! What differs between a row and what came back.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::http::Found;
use crate::rows::{Answer, Row};

/// The codes of refusals that are documented.
pub struct Codes(BTreeSet<String>);

impl Codes {
    /// From `docs/errors.md`.
    pub fn read() -> Self {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
        let page = std::fs::read_to_string(page).unwrap();
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
        Self(
            rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned()))
                .collect(),
        )
    }
}

/// What differs.
pub fn differences(row: &Row, found: &Result<Vec<Found>, String>, codes: &Codes) -> Vec<String> {
    let found = match found {
        Ok(found) => found,
        Err(what) => return vec![what.clone()],
    };
    let expected = std::iter::once(&row.answer).chain(&row.then);
    let pairs = expected.zip(found);
    pairs
        .flat_map(|(answer, found)| differ(answer, found, codes))
        .collect()
}

fn differ(expected: &Answer, found: &Found, codes: &Codes) -> Vec<String> {
    let nothing = Value::Null;
    let body = found.body.as_ref().unwrap_or(&nothing);
    let mut wrong = Vec::new();
    if found.status != expected.status {
        wrong.push(format!(
            "status {}, not {}: {body}",
            found.status, expected.status
        ));
        return wrong;
    }
    let fault = body["fault_message"].as_str().unwrap_or_default();
    if let Some(exact) = expected.exact.as_ref().filter(|exact| *exact != fault) {
        wrong.push(format!("says {fault:?}, not {exact:?}"));
    }
    for words in expected.says.iter().filter(|words| !fault.contains(*words)) {
        wrong.push(format!("says {fault:?}, without {words:?}"));
    }
    if let Some(answer) = &expected.answer {
        // As text: the order of keys counts.
        let (answer, body) = (answer.to_string(), body.to_string());
        if answer != body {
            wrong.push(format!("is {body}\n    not {answer}"));
        }
    }
    for (key, value) in &expected.has {
        if body.get(key) != Some(value) {
            wrong.push(format!("{key} is {:?}, not {value}", body.get(key)));
        }
    }
    wrong.extend(differ_in_headers(expected, found));
    wrong.extend(differ_in_type(expected, found));
    wrong.extend(differ_in_explanation(expected, body, codes));
    wrong
}

fn differ_in_headers(expected: &Answer, found: &Found) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, value) in &expected.headers {
        if found.header(name) != value.as_deref() {
            wrong.push(format!("header {name} is {:?}", found.header(name)));
        }
    }
    let names: Vec<&String> = found.headers.iter().map(|(name, _)| name).collect();
    if let Some(expected) = &expected.header_names
        && expected.iter().ne(names.iter().copied())
    {
        wrong.push(format!("headers are {names:?}"));
    }
    if found.header("Deprecation").is_some() && !expected.headers.contains_key("Deprecation") {
        wrong.push("it is marked as deprecated".to_owned());
    }
    wrong
}

/// A body is JSON and says so, unless the row names what it is.
fn differ_in_type(expected: &Answer, found: &Found) -> Vec<String> {
    const TYPE: &str = "Content-Type";
    let text = found.text.as_deref().unwrap_or_default();
    if !expected.body_says.is_empty() {
        let missing = expected.body_says.iter().filter(|it| !text.contains(*it));
        let start: String = text.chars().take(300).collect();
        let missing = missing.map(|words| format!("the body is without {words:?}: {start}"));
        let unnamed = (!expected.headers.contains_key(TYPE)).then(|| format!("it names no {TYPE}"));
        return missing.chain(unnamed).collect();
    }
    let mut wrong = Vec::new();
    if found.text.is_some() && found.body.is_none() {
        wrong.push(format!("the body is not JSON: {text}"));
    }
    let has_type = found.header(TYPE) == Some("application/json");
    if has_type != found.text.is_some() && found.status != 503 {
        wrong.push(format!("a body goes with {TYPE}: application/json"));
    }
    wrong
}

/// Every refusal says which kind it is, why, and what to do.
fn differ_in_explanation(expected: &Answer, body: &Value, codes: &Codes) -> Vec<String> {
    if !(400..500).contains(&expected.status) {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    let code = body["code"].as_str().unwrap_or_default();
    if !codes.0.contains(code) {
        wrong.push(format!("code {code:?} is not in docs/errors.md"));
    }
    if let Some(expected) = expected.code.as_ref().filter(|expected| *expected != code) {
        wrong.push(format!("code {code:?}, not {expected:?}"));
    }
    for key in ["cause", "remedy", "fault_message"] {
        if body[key].as_str().is_none_or(str::is_empty) {
            wrong.push(format!("no {key}: {body}"));
        }
    }
    // A JSON reader's words come as they are.
    let cause = body["cause"].as_str().unwrap_or_default();
    let message = body["fault_message"].as_str().unwrap_or_default();
    let last = message
        .rsplit_once("; ")
        .map(|(_, last)| last.trim_end_matches('.'));
    if !code.starts_with("json_") && last.is_some_and(|last| cause.ends_with(last)) {
        wrong.push(format!("the cause ends in the remedy: {body}"));
    }
    if message.matches(cause).count() > 1 {
        wrong.push(format!("the cause is told twice: {body}"));
    }
    wrong
}
