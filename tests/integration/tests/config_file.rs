//! `--config-file`: a whole machine from one file, with the API and without.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use integration::{Tap, TestVm, guest_kernel, monitor};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A machine with a bit of everything: its guest writes `tag` to its disk and then waits for a key.
fn machine(folder: &Path, tap: &Tap, tag: &str) -> Value {
    let disk = folder.join("disk");
    fs::write(&disk, [0; 4096]).unwrap();
    json!({
        "boot-source": { "kernel_image_path": guest_kernel("pack"), "boot_args": format!("tag={tag}") },
        "machine-config": { "vcpu_count": 2, "mem_size_mib": 96, "smt": true },
        "drives": [
            { "drive_id": "disk", "path_on_host": disk, "is_root_device": true, "cache_type": "Writeback" }
        ],
        "network-interfaces": [
            { "iface_id": "eth0", "host_dev_name": tap.name(), "guest_mac": "06:00:00:00:00:09" }
        ],
    })
}

fn write(folder: &Path, config: &Value) -> PathBuf {
    let file = folder.join("vm.json");
    fs::write(&file, config.to_string()).unwrap();
    file
}

fn start(name: &str, file: &Path) -> TestVm {
    TestVm::with_arguments(name, &["--config-file", file.to_str().unwrap()])
}

fn config_of(vm: &mut TestVm) -> Value {
    vm.request("GET", "/vm/config", None).body.unwrap()
}

#[test]
fn a_machine_boots_from_a_file_and_again_from_what_the_api_says_of_it() {
    let folder = TempDir::new().unwrap();
    let tap = Tap::new();
    let file = write(folder.path(), &machine(folder.path(), &tap, "first"));
    let mut first = start("first", &file);
    first.wait_for("tag=first");
    assert!(tap.exists());
    let state = first.request("GET", "/", None).body.unwrap()["state"].clone();
    assert_eq!(state, "Running");
    let stated = config_of(&mut first);
    first.type_text("q");
    first.expect_pass();

    let disk = folder.path().join("disk");
    assert!(fs::read(&disk).unwrap().starts_with(b"first"));
    fs::write(&disk, [0; 4096]).unwrap();
    let mut again = stated.clone();
    again
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    let file = write(folder.path(), &again);
    let mut second = start("second", &file);
    second.wait_for("tag=first");
    assert_eq!(config_of(&mut second), stated);
    second.type_text("q");
    second.expect_pass();
    assert!(fs::read(&disk).unwrap().starts_with(b"first"));
}

#[test]
fn every_device_that_the_api_configured_comes_back_from_what_it_says() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["disk", "base"] {
        fs::write(path(name), [0; 4096]).unwrap();
    }
    let tap = Tap::new();
    let bucket = json!({ "size": 1000, "refill_time": 100, "one_time_burst": 5 });
    let limiter = json!({ "bandwidth": bucket, "ops": { "size": 9, "refill_time": 1 } });
    let mut first = TestVm::new("stated");
    for (place, body) in [
        (
            "/machine-config",
            json!({ "vcpu_count": 2, "mem_size_mib": 96, "smt": true }),
        ),
        (
            "/boot-source",
            json!({ "kernel_image_path": guest_kernel("halt"), "boot_args": "a=b" }),
        ),
        (
            "/drives/root",
            json!({
                "drive_id": "root", "path_on_host": path("disk"), "is_root_device": true,
                "partuuid": "0eaa91a0-01", "cache_type": "Writeback", "rate_limiter": limiter,
                "num_queues": 2, "serial": "S1",
            }),
        ),
        (
            "/drives/layered",
            json!({
                "drive_id": "layered", "path_on_host": path("base"), "is_root_device": false,
                "overlay_path": path("overlay"),
            }),
        ),
        (
            "/network-interfaces/eth0",
            json!({
                "iface_id": "eth0", "host_dev_name": tap.name(), "guest_mac": "06:00:00:00:00:09",
                "mtu": 1400, "tx_rate_limiter": limiter,
            }),
        ),
        (
            "/mmds/config",
            json!({ "network_interfaces": ["eth0"], "version": "V2" }),
        ),
        (
            "/vsock",
            json!({ "guest_cid": 7, "uds_path": path("vsock") }),
        ),
        ("/entropy", json!({ "rate_limiter": limiter })),
        (
            "/balloon",
            json!({ "amount_mib": 1, "deflate_on_oom": true, "free_page_hinting": true }),
        ),
        (
            "/pmem/p",
            json!({ "id": "p", "path_on_host": path("disk"), "read_only": true }),
        ),
        (
            "/hotplug/memory",
            json!({ "total_size_mib": 256, "block_size_mib": 4 }),
        ),
        ("/console", json!({ "output_path": path("console") })),
    ] {
        first.put(place, &body);
    }
    let stated = config_of(&mut first);
    first.put("/actions", &json!({ "action_type": "InstanceStart" }));
    first.wait_for("sleeping");
    assert_eq!(config_of(&mut first).to_string(), stated.to_string());
    drop(first);
    fs::remove_file(path("vsock")).unwrap();

    let file = write(folder.path(), &stated);
    let mut second = start("restated", &file);
    second.wait_for("sleeping");
    assert_eq!(config_of(&mut second).to_string(), stated.to_string());
}

#[test]
fn a_machine_boots_without_an_api() {
    let folder = TempDir::new().unwrap();
    let tap = Tap::new();
    let file = write(folder.path(), &machine(folder.path(), &tap, "alone"));
    let mut monitor = Command::new(monitor())
        .args(["--no-api", "--level", "error", "--config-file"])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(monitor.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("tag=alone") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "it ended early");
    }
    monitor.stdin.take().unwrap().write_all(b"q").unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("PASS pack"), "{rest}");
    assert_eq!(monitor.wait().unwrap().code(), Some(0));
    assert!(!tap.exists());
}

#[test]
fn a_file_that_describes_no_machine_ends_with_1_and_a_message() {
    let folder = TempDir::new().unwrap();
    let tap = Tap::new();
    let good = || machine(folder.path(), &tap, "x");
    let changed = |part: &str, value: Value| {
        let mut config = good();
        *config.pointer_mut(part).unwrap() = value;
        config.to_string()
    };
    for (text, message) in [
        (String::new(), "EOF while parsing"),
        ("[]".to_owned(), "Invalid JSON"),
        (good().to_string() + "x", "trailing characters"),
        (changed("/drives", json!({})), "Invalid JSON: invalid type"),
        (
            changed("/machine-config/vcpu_count", json!(33)),
            "The number of vCPUs must be",
        ),
        (
            changed("/machine-config/mem_size_mib", json!(0)),
            "The memory size (MiB) is either 0",
        ),
        (
            changed("/drives/0/path_on_host", json!("/none")),
            "No such file or directory",
        ),
        (
            changed("/network-interfaces/0/host_dev_name", json!("lo")),
            "is no single-queue tap",
        ),
        (
            changed("/boot-source/kernel_image_path", json!("/dev/null")),
            "invalid kernel image",
        ),
    ] {
        let file = folder.path().join("bad.json");
        fs::write(&file, &text).unwrap();
        for is_silent in [false, true] {
            let mut program = Command::new(monitor());
            program.arg("--config-file").arg(&file).stdin(Stdio::null());
            if is_silent {
                program.arg("--no-api");
            } else {
                program
                    .arg("--api-sock")
                    .arg(folder.path().join("api.sock"));
            }
            let output = program.output().unwrap();
            let log = String::from_utf8(output.stdout).unwrap();
            assert_eq!(output.status.code(), Some(1), "{text}: {log}");
            assert!(
                log.contains("Failed to build MicroVM from Json: "),
                "{text}: {log}"
            );
            assert!(log.contains(message), "{text}: {log}");
            assert!(!folder.path().join("api.sock").exists());
        }
    }
}

#[test]
fn of_several_mistakes_the_one_that_is_applied_first_is_told() {
    let folder = TempDir::new().unwrap();
    let disk = folder.path().join("disk");
    fs::write(&disk, [0; 512]).unwrap();
    let drive = |id: &str, path: &Path| json!({ "drive_id": id, "path_on_host": path, "is_root_device": true });
    let good = json!({
        "boot-source": { "kernel_image_path": guest_kernel("halt") },
        "drives": [drive("a", &disk)],
    });
    // In the order in which the parts are applied.
    let mistakes = [
        (
            "logger",
            json!({ "log_path": "/no/such/log" }),
            "Logger error: Failed to open target",
        ),
        (
            "machine-config",
            json!({ "vcpu_count": 0, "mem_size_mib": 9 }),
            "Machine config error: ",
        ),
        (
            "cpu-config",
            json!("/no/such/template"),
            "Configure CPU error: ",
        ),
        (
            "boot-source",
            json!({ "kernel_image_path": "/none" }),
            "Boot source error: ",
        ),
        (
            "drives",
            json!([drive("a", &disk), drive("b", &disk)]),
            "Drive config error: ",
        ),
        (
            "network-interfaces",
            json!([{ "iface_id": "n", "host_dev_name": "lo" }]),
            "Network config error: ",
        ),
        (
            "vsock",
            json!({ "guest_cid": 3, "uds_path": "/no/such/v" }),
            "Vsock config error: ",
        ),
        (
            "balloon",
            json!({ "amount_mib": 999, "deflate_on_oom": true }),
            "Balloon config error: ",
        ),
        (
            "mmds-config",
            json!({ "network_interfaces": [], "version": "V2" }),
            "MMMDS config error: ",
        ),
        (
            "pmem",
            json!([{ "id": "p", "path_on_host": disk, "root_device": true }]),
            "Pmem config error: ",
        ),
        (
            "memory-hotplug",
            json!({ "total_size_mib": 1 }),
            "Memory hotplug config error: ",
        ),
    ];
    for first in 0..mistakes.len() {
        let mut config = good.clone();
        for (key, value, _) in &mistakes[first..] {
            config[key] = value.clone();
        }
        let file = write(folder.path(), &config);
        let mut program = Command::new(monitor());
        program.args(["--no-api", "--config-file"]).arg(&file);
        let output = program.stdin(Stdio::null()).output().unwrap();
        let log = String::from_utf8(output.stdout).unwrap();
        let expected = format!("Failed to build MicroVM from Json: {}", mistakes[first].2);
        assert!(log.contains(&expected), "{expected}\n{log}");
        assert_eq!(output.status.code(), Some(1));
    }
}
