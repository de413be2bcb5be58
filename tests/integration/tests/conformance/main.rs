//! The interface as data: every row of `tests/integration/conformance/*.json` is sent to a live monitor over its socket,
//! and its answer compared. `rows.rs` says what a row is, `README.md` beside the files how to write one.
//!
//! ```text
//! file -> groups -> one fresh monitor for each group and phase -> rows in their order -> the list of what differs
//! ```

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod check;
mod differences;
mod http;
mod rows;
mod stage;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use check::Codes;
use rows::Group;
use stage::Stage;

/// Where the files are.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance")
}

/// Runs every row of a file; fails with all that differ.
fn conform(name: &str) {
    let text = std::fs::read_to_string(folder().join(format!("{name}.json"))).unwrap();
    let codes = Codes::read();
    let mut wrong = Vec::new();
    let groups: Vec<Group> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
    for group in &groups {
        for phase in group.phases() {
            let mut stage = Stage::set(group, phase);
            for row in &stage.rows().to_vec() {
                let found = stage.play(row);
                let differences = check::differences(row, &found, &codes);
                wrong.extend(differences.into_iter().map(|difference| {
                    format!("{name}: {}, {phase:?}: {row}\n    {difference}", group.name)
                }));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// A test for each file.
macro_rules! files {
    ($($name:ident)*) => {
        $(#[test] fn $name() { conform(stringify!($name)); })*
        const FILES: &[&str] = &[$(stringify!($name)),*];
    };
}

files! {
    transport routing checks phases actions boot_source machine_config cpu_config drives pmem network_interfaces
    balloon vsock small_devices memory_hotplug mmds metrics events vm_config snapshot
}

#[test]
fn every_file_has_a_test() {
    let found: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .collect();
    assert_eq!(found, FILES.iter().map(|name| (*name).to_owned()).collect());
}
