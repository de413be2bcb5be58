//! The interface description: generated from the endpoints and their types, never from hand.
//!
//! The committed file is compared with what the code says:
//! `cargo test -p api-server --features openapi openapi`. With `UPDATE_OPENAPI=1` in the environment the file
//! is written instead.

use std::path::Path;

use serde_json::Value;
use utoipa::OpenApi;

use crate::routes::{Description, Endpoint};
use crate::version;

/// The committed description.
const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../resources/openapi/cloister.json"
);

/// The description as JSON text.
fn describe() -> String {
    let mut description = Description::openapi();
    description.info.title = "Cloister".to_owned();
    description.info.version = version::CLOISTER.to_owned();
    description.info.description = Some(format!(
        "One microVM, driven over a Unix socket. API level {}.",
        version::API_LEVEL
    ));
    let mut text = description.to_pretty_json().expect("a description is JSON");
    text.push('\n');
    text
}

#[test]
fn openapi_file_says_what_the_code_does() {
    let generated = describe();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::create_dir_all(Path::new(FILE).parent().unwrap()).unwrap();
        std::fs::write(FILE, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        committed == generated,
        "resources/openapi is out of date: run `make openapi`"
    );
}

#[test]
fn openapi_describes_each_endpoint_under_its_own_path() {
    let description: Value = serde_json::from_str(&describe()).unwrap();
    for endpoint in Endpoint::<vmm::control::Control>::ALL {
        let verb = endpoint.verb.to_string().to_lowercase();
        let operation = &description["paths"][endpoint.path][&verb];
        assert!(
            operation.is_object(),
            "{verb} {} has no description",
            endpoint.path
        );
    }
}
