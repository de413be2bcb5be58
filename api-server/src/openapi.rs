//! The interface description: generated from the endpoints and their types, never from hand.
//!
//! The committed file is compared with what the code says:
//! `cargo test -p api-server --features openapi openapi`. With `UPDATE_OPENAPI=1` in the environment the file
//! is written instead. The same goes for the list of errors, `docs/errors.md`.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

mod asked;
mod examples;
mod schema;
mod snippets;
mod table;

use std::path::Path;

use serde_json::{Value, json};
use utoipa::OpenApi;
use vm_config::FaultCode;

use crate::routes::{Description, Endpoint};
use crate::version;

/// The committed description.
const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../resources/openapi/cloister.json"
);

/// The committed list of errors.
const ERRORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");

/// What stands above the list.
const ERRORS_HEAD: &str = "\
# Refusals

A request that is refused has a body with four fields:

```json
{
  \"fault_message\": \"Boot source error: The kernel file cannot be opened: No such file or directory (os error 2) /vmlinux; check the path, as this process sees it\",
  \"code\": \"kernel_file\",
  \"cause\": \"The kernel file cannot be opened: No such file or directory (os error 2) /vmlinux\",
  \"remedy\": \"check the path, as this process sees it\"
}
```

`fault_message` is what existing clients read, all of it for a person. `code` is for programs: a code keeps its name and meaning, new ones
may come. `cause` is the innermost reason, `remedy` what to do about it; where a failure knows nothing better, it is the one below. A body that is
too large, or no HTTP, has the text of `fault_message` under `error` too. `make openapi` writes this page from `vmm/config/src/explain/codes.rs`.

| code | meaning | remedy |
|---|---|---|
";

/// The list of errors.
fn list_errors() -> String {
    let rows = FaultCode::ALL.iter().map(|code| {
        format!(
            "| `{}` | {} | {} |\n",
            code.name(),
            code.meaning(),
            code.remedy()
        )
    });
    ERRORS_HEAD.to_owned() + &rows.collect::<String>()
}

/// The description as JSON text.
fn describe() -> String {
    let mut description = Description::openapi();
    description.info.title = "Cloister".to_owned();
    description.info.version = version::CLOISTER.to_owned();
    description.info.description = Some(format!(
        "One microVM, driven over a Unix socket. API level {}.",
        version::API_LEVEL
    ));
    let mut description = serde_json::to_value(description).expect("a description is JSON");
    widen(&mut description);
    for endpoint in endpoints() {
        let verb = endpoint.verb.to_string().to_lowercase();
        let operation = &mut description["paths"][endpoint.path][&verb];
        assert!(
            operation.is_object(),
            "{verb} {} has no description",
            endpoint.path
        );
        add_what_all_have(&verb, operation);
        describe_parameters(operation);
        examples::add(endpoint.verb, endpoint.path, operation);
    }
    // No `enum`: a client that knows these must not stumble over a new one.
    description["components"]["schemas"]["Fault"]["properties"]["code"]["x-extensible-enum"] =
        FaultCode::ALL.iter().map(|code| code.name()).collect();
    let mut text = serde_json::to_string_pretty(&description).expect("a description is JSON");
    text.push('\n');
    text
}

fn endpoints() -> impl Iterator<Item = &'static Endpoint<vmm::control::Control>> {
    Endpoint::ALL.iter()
}

fn members(of: &mut Value) -> impl Iterator<Item = (String, &mut Value)> {
    let members = of.as_object_mut().into_iter().flatten();
    members.map(|(name, value)| (name.clone(), value))
}

/// Says how large unsigned numbers can be: a signed format would be too narrow for them.
fn widen(value: &mut Value) {
    if value["minimum"].is_u64() {
        let max = match value["format"].as_str() {
            Some("int32") => u64::from(u32::MAX),
            _ => u64::MAX,
        };
        if let Some(integer) = value.as_object_mut() {
            integer.remove("format");
            integer.entry("maximum").or_insert(max.into());
        }
    }
    match value {
        Value::Object(fields) => fields.values_mut().for_each(widen),
        Value::Array(items) => items.iter_mut().for_each(widen),
        _ => {}
    }
}

/// What no endpoint says for itself: answers that come before any of them is asked, and that a body may be left out.
fn add_what_all_have(verb: &str, operation: &mut Value) {
    let busy = json!({
        "type": "object", "required": ["error"], "properties": { "error": { "type": "string" } },
    });
    let unavailable = &mut operation["responses"]["503"];
    let is_told_more = unavailable.is_object();
    unavailable["content"]["application/json"] =
        json!({ "schema": busy, "example": { "error": "Too many open connections" } });
    if is_told_more {
        let refusal = json!({ "$ref": "#/components/schemas/Fault" });
        unavailable["content"]["application/json"]["schema"] = json!({ "anyOf": [busy, refusal] });
    } else {
        unavailable["description"] = "Ten connections are served already".into();
    }
    if verb == "get" && operation["responses"]["400"].is_null() {
        operation["responses"]["400"] = json!({
            "description": "The request has a body",
            "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Fault" } } },
        });
    }
    let choices = &operation["requestBody"]["content"]["application/json"]["schema"]["oneOf"];
    if let [schema, _null] = choices.as_array().map_or(&[][..], Vec::as_slice) {
        let schema = schema.clone();
        operation["requestBody"]["content"]["application/json"]["schema"] = schema;
        operation["requestBody"]["required"] = false.into();
    }
}

/// Says what a name in a path can be.
fn describe_parameters(operation: &mut Value) {
    let parameters = operation.get_mut("parameters");
    let parameters = parameters.and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        if parameter["in"] == "path" {
            parameter["schema"]["pattern"] = "^[0-9A-Za-z_]+$".into();
            parameter["schema"]["minLength"] = 1.into();
        }
    }
}

#[test]
fn openapi_file_says_what_the_code_does() {
    is_committed(FILE, &describe());
}

#[test]
fn openapi_errors_page_lists_every_code() {
    is_committed(ERRORS, &list_errors());
}

fn is_committed(file: &str, generated: &str) {
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::create_dir_all(Path::new(file).parent().unwrap()).unwrap();
        std::fs::write(file, generated).unwrap();
    }
    let committed = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        committed == generated,
        "{file} is out of date: run `make openapi`"
    );
}
