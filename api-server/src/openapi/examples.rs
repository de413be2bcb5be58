//! Examples of what is sent and answered, from `examples.json`: one entry for each operation, `bodies` by name and the
//! `answer` of a request that succeeds. A body named `deprecated` uses something that will go away.
//!
//! The tests send every body through the router, so that none of them rots.

use serde_json::{Value, json};
use vmm::control::CommandError;

use super::asked::{Asked, Phase};
use crate::error::{ApiError, Fault};
use crate::router::Verb;

const FILE: &str = include_str!("examples.json");

/// The name of a body that uses something that will go away.
pub(super) const DEPRECATED: &str = "deprecated";

/// Every entry, by `VERB /path`.
pub(super) fn all() -> Value {
    serde_json::from_str(FILE).expect("examples.json is JSON")
}

/// Adds the entry of `verb` `path` to its description, and what follows from its phase.
pub(super) fn add(verb: Verb, path: &str, operation: &mut Value) {
    let entry = &all()[format!("{verb} {path}")];
    let phase = phase(verb, path, entry);
    operation["x-phase"] = json!(phase.name());
    add_bodies(entry, operation);
    if let (Some(answer), Some(types)) = (entry.get("answer"), content(operation, "200")) {
        for (_, content) in super::members(types) {
            content["example"] = answer.clone();
        }
    }
    let refusals = refusals(verb, phase, operation["requestBody"]["required"] != false);
    operation["responses"]["400"]["content"]["application/json"]["examples"] = refusals;
    if let Some(types) = content(operation, "413") {
        let limit = ApiError::from(CommandError::MmdsLimit(vmm::MmdsStoreError::TooLarge));
        types["application/json"]["example"] = json!(Fault::from(&limit));
    }
}

fn content<'a>(operation: &'a mut Value, status: &str) -> Option<&'a mut Value> {
    operation["responses"].get_mut(status)?.get_mut("content")
}

/// The bodies of an entry, by name; none, by no name, where there is none.
pub(super) fn bodies(entry: &Value) -> Vec<(&str, Option<&Value>)> {
    let Some(bodies) = entry["bodies"].as_object() else {
        return vec![("", None)];
    };
    let named = bodies.iter();
    named
        .map(|(name, body)| (name.as_str(), Some(body)))
        .collect()
}

/// When `verb` `path` can be asked.
pub(super) fn phase(verb: Verb, path: &str, entry: &Value) -> Phase {
    let phases = bodies(entry).into_iter();
    let phases = phases.map(|(_, body)| Asked::by(verb, path, body).phase);
    let both = |a, b| if a == b { a } else { Phase::ByBody };
    phases.reduce(both).expect("there is one at least")
}

fn add_bodies(entry: &Value, operation: &mut Value) {
    let Some(bodies) = entry["bodies"].as_object() else {
        return;
    };
    let examples = bodies
        .iter()
        .map(|(name, value)| (name.clone(), json!({ "value": value })));
    operation["requestBody"]["content"]["application/json"]["examples"] = examples.collect();
    if bodies.contains_key(DEPRECATED) {
        for status in ["204", "400"] {
            if operation["responses"].get(status).is_some() {
                operation["responses"][status]["headers"]["Deprecation"] = json!({
                    "description": "`true` when the request uses something that will go away; else absent",
                    "schema": { "type": "string", "enum": ["true"] },
                });
            }
        }
    }
}

/// Refusals that every request of this verb and phase can get.
fn refusals(verb: Verb, phase: Phase, needs_body: bool) -> Value {
    let body = match verb {
        Verb::Get => ApiError::GetWithBody,
        Verb::Delete => ApiError::DeleteWithBody,
        Verb::Put => ApiError::EmptyPut,
        Verb::Patch => ApiError::EmptyPatch,
    };
    let body_matters = needs_body || matches!(verb, Verb::Get | Verb::Delete);
    let phase = match phase {
        Phase::BeforeStart => Some(CommandError::AfterStart),
        Phase::AfterStart => Some(CommandError::BeforeStart),
        Phase::Always | Phase::ByBody => None,
    };
    let mut examples = json!({});
    if body_matters {
        examples["body"] = json!({ "value": Fault::from(&body) });
    }
    if let Some(refused) = phase {
        examples["phase"] = json!({ "value": Fault::from(&ApiError::from(refused)) });
    }
    examples
}

#[test]
fn openapi_examples_are_there_for_each_operation_and_no_other() {
    let entries = all();
    let wanted = super::endpoints().map(|endpoint| format!("{} {}", endpoint.verb, endpoint.path));
    let wanted: std::collections::BTreeSet<_> = wanted.collect();
    let present = entries.as_object().unwrap().keys().cloned().collect();
    assert_eq!(wanted, present, "api-server/src/openapi/examples.json");
}

#[test]
fn openapi_examples_of_bodies_are_understood() {
    let entries = all();
    for endpoint in super::endpoints() {
        let operation = format!("{} {}", endpoint.verb, endpoint.path);
        for (name, body) in bodies(&entries[&operation]) {
            let asked = Asked::by(endpoint.verb, endpoint.path, body);
            let has_succeeded = asked.answer["fault_message"].is_null();
            assert!(
                asked.is_command || (body.is_none() && has_succeeded),
                "{operation} {name}: {}",
                asked.answer
            );
            let is_deprecated = asked.headers.contains_key("deprecation");
            assert_eq!(is_deprecated, name == DEPRECATED, "{operation} {name}");
        }
    }
}

#[test]
fn openapi_examples_fit_their_schemas() {
    let description: Value = serde_json::from_str(&super::describe()).unwrap();
    for endpoint in super::endpoints() {
        let verb = endpoint.verb.to_string().to_lowercase();
        let operation = &description["paths"][endpoint.path][&verb];
        let name = format!("{verb} {}", endpoint.path);
        let answers = operation["responses"].as_object().unwrap();
        let request = operation.get("requestBody").into_iter();
        for described in answers.values().chain(request) {
            let types = described["content"].as_object().into_iter().flatten();
            for (_, content) in types {
                let count =
                    check(&description, content).unwrap_or_else(|why| panic!("{name}: {why}"));
                assert!(count > 0, "{name} has no example of {described}");
            }
        }
    }
}

/// Checks all examples of `content`, and counts them.
#[cfg(test)]
fn check(description: &Value, content: &Value) -> Result<usize, String> {
    let named = content["examples"].as_object().into_iter().flatten();
    let values = named.map(|(_, example)| &example["value"]);
    let values: Vec<_> = values.chain(content.get("example")).collect();
    for value in &values {
        super::schema::fits(description, &content["schema"], value)?;
    }
    Ok(values.len())
}

#[test]
fn openapi_schemas_refuse_what_does_not_fit() {
    let description: Value = serde_json::from_str(&super::describe()).unwrap();
    let schema = json!({ "$ref": "#/components/schemas/Machine" });
    for (value, fits) in [
        (json!({ "vcpu_count": 1, "mem_size_mib": 1 }), true),
        (json!({ "vcpu_count": 33, "mem_size_mib": 1 }), false),
        (json!({ "vcpu_count": 1 }), false),
        (json!({ "vcpu_count": "1", "mem_size_mib": 1 }), false),
        (json!({ "vcpu_count": 1, "mem_size_mib": 1, "x": 1 }), false),
        (
            json!({ "vcpu_count": 1, "mem_size_mib": 1, "huge_pages": "1G" }),
            false,
        ),
    ] {
        let result = super::schema::fits(&description, &schema, &value);
        assert_eq!(result.is_ok(), fits, "{value}: {result:?}");
    }
}
