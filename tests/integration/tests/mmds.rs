//! The metadata service: what the host puts in, and what a guest reads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;

use integration::{Tap, TestVm, guest_kernel, vm_test};
use serde_json::json;
use tempfile::TempDir;

#[vm_test(kernel = "halt")]
fn data_is_put_merged_and_told_sorted(vm: &mut TestVm) {
    assert_eq!(vm.request("GET", "/mmds", None).body, Some(json!({})));
    let why = vm.refused("PATCH", "/mmds", Some(&json!({"a": 1})));
    assert_eq!(why, "MMDS error: The MMDS data store is not initialized.");
    vm.put("/mmds", &json!({"z": "secret", "a": {"c": 1, "b": 2}}));
    let patched = vm.request("PATCH", "/mmds", Some(&json!({"a": {"c": null}, "k": [1]})));
    assert_eq!(patched.status, 204);
    let told = vm.request("GET", "/mmds", None).body.unwrap();
    assert_eq!(told.to_string(), r#"{"a":{"b":2},"k":[1],"z":"secret"}"#);
    assert!(!vm.log().contains("secret"), "the log has metadata");
    vm.start();
    // Nobody in the guest can see it.
    for (method, body) in [
        ("GET", None),
        ("PUT", Some(json!({}))),
        ("PATCH", Some(json!({}))),
    ] {
        let why = vm.refused(method, "/mmds", body.as_ref());
        assert!(
            why.contains("The MMDS data store is not initialized."),
            "{why}"
        );
    }
}

#[test]
fn data_that_does_not_fit_is_413_and_changes_nothing() {
    let mut vm = TestVm::with_arguments("mmds-limit", &["--mmds-size-limit", "20"]);
    vm.put("/mmds", &json!({"a": "0123456789ab"}));
    let patch = json!({"b": "c"});
    let large = json!({"a": "0123456789abc"});
    for (method, body) in [("PATCH", &patch), ("PUT", &large)] {
        let answer = vm.request(method, "/mmds", Some(body));
        assert_eq!(answer.status, 413, "{method}");
        let why = answer.body.unwrap()["fault_message"].to_string();
        let words = "MMDS limit exceeded error: The MMDS patch request doesn't fit.";
        assert!(why.contains(words), "{why}");
    }
    let told = vm.request("GET", "/mmds", None).body.unwrap();
    assert_eq!(told, json!({"a": "0123456789ab"}));
}

#[vm_test(kernel = "halt")]
fn what_cannot_be_is_refused_and_what_can_is_told(vm: &mut TestVm) {
    const CONFIG: &str = "/mmds/config";
    let tap = Tap::new();
    let eth0 = json!({ "iface_id": "eth0", "host_dev_name": tap.name() });
    vm.put("/network-interfaces/eth0", &eth0);
    for (config, words) in [
        (json!({ "network_interfaces": [] }), "is empty."),
        (
            json!({ "network_interfaces": ["eth0"], "ipv4_address": "10.0.0.1" }),
            "The MMDS IPv4 address is not link local.",
        ),
        (
            json!({ "network_interfaces": ["eth0", "eth1"] }),
            "does not correspond to any existing network interface.",
        ),
    ] {
        let why = vm.refused("PUT", CONFIG, Some(&config));
        assert!(
            why.starts_with("MMMDS config error: ") && why.contains(words),
            "{why}"
        );
    }
    let config = json!({ "network_interfaces": ["eth0"], "version": "V2" });
    vm.put(CONFIG, &config);
    let told = vm.request("GET", "/vm/config", None).body.unwrap();
    assert_eq!(
        told["mmds-config"].to_string(),
        r#"{"version":"V2","network_interfaces":["eth0"],"ipv4_address":"169.254.169.254","imds_compat":false}"#
    );
    vm.start();
    vm.put("/mmds", &json!({ "a": 1 }));
    let why = vm.refused("PUT", CONFIG, Some(&config));
    assert!(why.contains("not supported after starting"), "{why}");
}

const METADATA: &str = r#"{"name":"vm","list":["first","second"],"long":"#;

/// A guest that reads its metadata: `version` of the service, on an interface with the fields of `more`.
fn boot_reader(vm: &mut TestVm, version: &str, more: &serde_json::Value) -> Tap {
    let tap = Tap::new();
    let mut eth0 = json!({
        "iface_id": "eth0", "host_dev_name": tap.name(), "guest_mac": "06:00:ac:10:00:0a",
    });
    for (key, value) in more.as_object().unwrap() {
        eth0[key] = value.clone();
    }
    vm.put("/network-interfaces/eth0", &eth0);
    tap.up();
    let config = json!({ "network_interfaces": ["eth0"], "version": version });
    vm.put("/mmds/config", &config);
    let metadata = format!("{METADATA}\"{}\"}}", "m".repeat(10_000));
    vm.put("/mmds", &serde_json::from_str(&metadata).unwrap());
    vm.start();
    tap
}

#[vm_test(kernel = "mmds", mmio, pci)]
fn a_guest_reads_with_tokens_and_the_tap_sees_nothing_of_it(vm: &mut TestVm) {
    vm.boot("boot_args", "wait");
    let tap = boot_reader(vm, "V2", &json!({}));
    vm.wait_for("connections=9");
    let path = format!("/sys/class/net/{}/statistics/rx_packets", tap.name());
    let seen = fs::read_to_string(path).unwrap();
    vm.type_text("q");
    vm.expect_pass();
    assert_eq!(vm.value("server"), "06:01:23:45:67:01");
    assert_eq!(vm.value("without_token"), "401");
    assert_eq!(vm.value("token_bytes"), "48");
    assert_eq!(vm.value("name"), "vm");
    let json_bytes = METADATA.len() + 10_000 + 3;
    assert_eq!(vm.value("json_bytes"), json_bytes.to_string());
    assert_eq!(seen.trim(), "3", "frames at the tap");
}

#[vm_test(kernel = "mmds", mmio, pci)]
fn a_guest_reads_without_tokens_under_limits(vm: &mut TestVm) {
    let limit = json!({ "ops": { "size": 10, "refill_time": 100 } });
    let limits = json!({ "rx_rate_limiter": limit, "tx_rate_limiter": limit });
    let _tap = boot_reader(vm, "V1", &limits);
    vm.expect_pass();
    assert_eq!(vm.value("without_token"), "200");
    assert_eq!(vm.value("name"), "vm");
}

#[test]
fn a_guest_of_a_configuration_file_reads_what_the_metadata_file_says() {
    let folder = TempDir::new().unwrap();
    let metadata = folder.path().join("metadata.json");
    fs::write(&metadata, format!("{METADATA}\"m\"}}")).unwrap();
    for (version, without_token) in [("V1", "200"), ("V2", "401")] {
        let tap = Tap::new();
        let config = json!({
            "boot-source": { "kernel_image_path": guest_kernel("mmds") },
            "drives": [],
            "network-interfaces": [{
                "iface_id": "eth0", "host_dev_name": tap.name(), "guest_mac": "06:00:ac:10:00:0a",
            }],
            "mmds-config": { "network_interfaces": ["eth0"], "version": version },
        });
        let file = folder.path().join("vm.json");
        fs::write(&file, config.to_string()).unwrap();
        let paths = [&file, &metadata].map(|path| path.to_str().unwrap());
        let arguments = ["--config-file", paths[0], "--metadata", paths[1]];
        let mut vm = TestVm::with_arguments("mmds-file", &arguments);
        vm.expect_pass();
        assert_eq!(vm.value("without_token"), without_token);
        assert_eq!(vm.value("name"), "vm");
        let json_bytes = METADATA.len() + 4;
        assert_eq!(vm.value("json_bytes"), json_bytes.to_string());
    }
}
