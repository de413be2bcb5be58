//! What the monitor is made of: licences that go with Apache-2.0, and one version of each crate.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// Licences under which a crate may come in. Of a choice (`OR`) one is enough, of a sum (`AND`) all are needed.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Zlib",
];

/// Crates of which the monitor holds two versions, and why.
const DUPLICATES: &[(&str, &str)] = &[(
    "bitflags",
    "vmm-sys-util 0.15 has 1, kvm-ioctls and rustix have 2; it is macros that leave next to no code",
)];

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .args(arguments)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a licence expression (SPDX, with the `/` of old manifests) can be met with what is allowed.
fn is_allowed(expression: &str) -> bool {
    let flat = expression.replace('/', " OR ").replace(['(', ')'], " ");
    let is_listed = |name: &str| ALLOWED.contains(&name.trim());
    // Parentheses only ever hold a choice in what is used here, so each factor of a sum is a choice.
    if expression.contains('(') || !flat.contains(" OR ") {
        flat.split(" AND ")
            .all(|factor| factor.split(" OR ").any(is_listed))
    } else {
        flat.split(" OR ")
            .any(|choice| choice.split(" AND ").all(is_listed))
    }
}

#[test]
fn every_crate_has_a_licence_that_is_allowed() {
    let metadata = cargo(&["metadata", "--format-version", "1", "--locked", "--offline"]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let refused: Vec<String> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let licence = package["license"].as_str().unwrap_or("none");
            (package["name"].as_str().unwrap(), licence)
        })
        .filter(|(_, licence)| !is_allowed(licence))
        .map(|(name, licence)| format!("{name}: {licence}"))
        .collect();
    assert!(refused.is_empty(), "not allowed: {refused:#?}");
}

#[test]
fn the_monitor_holds_one_version_of_each_crate() {
    let tree = cargo(&[
        "tree",
        "--locked",
        "--offline",
        "-d",
        "-p",
        "api-server",
        "-e",
        "normal,no-proc-macro",
        "--prefix",
        "none",
        "--depth",
        "0",
    ]);
    let found: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let excused: BTreeSet<&str> = DUPLICATES.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, excused, "found, and excused");
}

#[test]
fn licence_expressions_are_understood() {
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-2.0", false),
        ("MIT/Apache-2.0", true),
        ("GPL-2.0 OR MIT", true),
        ("MIT AND GPL-2.0", false),
        ("(MIT OR GPL-2.0) AND Unicode-3.0", true),
        ("(MIT OR Apache-2.0) AND GPL-2.0", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
        ("none", false),
    ] {
        assert_eq!(is_allowed(expression), expected, "{expression}");
    }
}
