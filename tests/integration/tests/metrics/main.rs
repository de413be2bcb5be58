//! The metrics file and `GET /metrics` of machines that run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod keys;

use std::fs;

use api_client::Response;
use integration::{Tap, TestVm, vm_test};
use keys::{BLOCK, GROUPS, NET, PMEM};
use serde_json::{Value, json};

fn configure(vm: &mut TestVm) {
    let path = vm.path("metrics");
    vm.put("/metrics", &json!({ "metrics_path": path }));
}

/// Every line so far.
fn lines(vm: &TestVm) -> Vec<Value> {
    let text = fs::read_to_string(vm.path("metrics")).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

/// Has a line written; gives it.
fn flush(vm: &mut TestVm) -> Value {
    vm.put("/actions", &json!({ "action_type": "FlushMetrics" }));
    lines(vm).pop().unwrap()
}

/// What a counter has grown by over all lines.
fn total(vm: &TestVm, group: &str, key: &str) -> u64 {
    let told = lines(vm).into_iter().map(|line| {
        let number = &line[group][key];
        number
            .as_u64()
            .unwrap_or_else(|| panic!("{group}.{key}: {number}"))
    });
    told.sum()
}

/// The key tree of an object in the words of [`keys`].
fn tree(group: &Value) -> Vec<String> {
    let keys = group
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| match value {
            Value::Number(_) => key.clone(),
            Value::Object(parts) => {
                let parts: Vec<&str> = parts.keys().map(String::as_str).collect();
                assert_eq!(parts, ["min_us", "max_us", "sum_us"], "{key}");
                format!("{key}*")
            }
            other => panic!("{key}: {other}"),
        });
    keys.collect()
}

fn check_tree(line: &Value, named: &[(&str, &str, &str)]) {
    let mut expected = vec![("utc_timestamp_ms".to_owned(), None)];
    for (group, keys) in GROUPS {
        // Devices with names stand before all of their kind.
        let own = named.iter().filter(|(kind, ..)| *kind == group);
        let own = own.map(|(kind, id, keys)| (format!("{kind}_{id}"), Some(*keys)));
        expected.extend(own);
        expected.push((group.trim_start_matches('+').to_owned(), Some(keys)));
    }
    let object = line.as_object().unwrap();
    let told: Vec<&String> = object.keys().collect();
    let names: Vec<&String> = expected.iter().map(|(name, _)| name).collect();
    assert_eq!(told, names);
    for (name, keys) in &expected {
        let Some(keys) = keys else { continue };
        let keys: Vec<&str> = keys
            .split(' ')
            .map(|key| key.trim_start_matches('+'))
            .collect();
        assert_eq!(tree(&line[name]), keys, "{name}");
    }
}

#[vm_test(kernel = "serial_echo", mmio, pci)]
fn every_key_is_there_in_its_order(vm: &mut TestVm) {
    configure(vm);
    vm.start();
    check_tree(&flush(vm), &[]);
}

#[vm_test(kernel = "serial_echo", mmio, pci)]
fn devices_with_names_have_groups_of_their_own(vm: &mut TestVm) {
    configure(vm);
    vm.drive("root_fs", &[0; 4096], &json!({}));
    vm.drive("data", &[0; 4096], &json!({}));
    let tap = Tap::new();
    vm.put(
        "/network-interfaces/eth0",
        &json!({ "iface_id": "eth0", "host_dev_name": tap.name() }),
    );
    let file = vm.path("pmem");
    fs::write(&file, vec![0; 2 << 20]).unwrap();
    vm.put("/pmem/p0", &json!({ "id": "p0", "path_on_host": file }));
    let socket = vm.path("vsock");
    vm.put("/vsock", &json!({ "guest_cid": 3, "uds_path": socket }));
    vm.put("/entropy", &json!({}));
    vm.put(
        "/balloon",
        &json!({ "amount_mib": 0, "deflate_on_oom": false }),
    );
    vm.put("/hotplug/memory", &json!({ "total_size_mib": 256 }));
    vm.put("/console", &json!({ "output_path": vm.path("console") }));
    vm.start();
    let named = [
        ("block", "root_fs", BLOCK),
        ("block", "data", BLOCK),
        ("net", "eth0", NET),
        ("pmem", "p0", PMEM),
    ];
    check_tree(&flush(vm), &named);
}

#[vm_test(kernel = "blk_readback", mmio, pci)]
fn what_the_guest_did_is_in_the_line_of_its_end(vm: &mut TestVm) {
    configure(vm);
    let bytes: Vec<u8> = (0..200_u8).cycle().take(64 << 10).collect();
    vm.drive("disk", &bytes, &json!({}));
    vm.start();
    vm.expect_pass();
    assert_eq!(lines(vm).len(), 2, "one at the start, one at the end");
    assert!(total(vm, "block_disk", "read_bytes") >= 64 << 10);
    for key in ["read_bytes", "read_count", "queue_event_count"] {
        assert_eq!(total(vm, "block", key), total(vm, "block_disk", key));
    }
    let reads = total(vm, "block_disk", "read_count");
    assert!(reads > 0 && reads <= total(vm, "block_disk", "read_bytes") / 512);
    assert_eq!(total(vm, "block_disk", "write_count"), 0);
    let last = lines(vm).pop().unwrap();
    let agg = &last["block_disk"]["read_agg"];
    let part = |key| agg[key].as_u64().unwrap();
    assert!(part("min_us") <= part("max_us") && part("max_us") <= part("sum_us"));
    assert!(part("max_us") > 0, "{agg}");
    // Every byte on the console is a write to the port.
    let written = vm.output().len() as u64;
    assert_eq!(total(vm, "uart", "write_count"), written);
    assert!(total(vm, "vcpu", "exit_io_out") >= written);
    let agg = last["vcpu"]["exit_io_out_agg"]["sum_us"].as_u64();
    assert!(agg > Some(0));
    assert_eq!(total(vm, "vcpu", "failures"), 0);
}

#[vm_test(kernel = "serial_echo", mmio)]
fn requests_are_counted_once_and_failures_are_those_that_cannot_be_read(vm: &mut TestVm) {
    configure(vm);
    vm.refused(
        "PUT",
        "/machine-config",
        Some(&json!({ "vcpu_count": "two" })),
    );
    // Read, and refused by the machine.
    let none = json!({ "vcpu_count": 0, "mem_size_mib": 128 });
    vm.refused("PUT", "/machine-config", Some(&none));
    let other = json!({ "drive_id": "b", "is_root_device": false, "path_on_host": "/" });
    vm.refused("PUT", "/drives/a", Some(&other));
    vm.refused("PUT", "/drives/a-b", Some(&other));
    vm.request("GET", "/version", None);
    vm.start();
    let first = lines(vm).pop().unwrap();
    let put = &first["put_api_requests"];
    assert_eq!(put["machine_cfg_count"], 2);
    assert_eq!(put["machine_cfg_fails"], 1);
    assert_eq!(put["drive_count"], 2);
    assert_eq!(put["drive_fails"], 2);
    assert_eq!(put["actions_count"], 1);
    assert_eq!(put["boot_source_count"], 1);
    assert_eq!(put["metrics_count"], 1);
    assert_eq!(first["get_api_requests"]["vmm_version_count"], 1);
    vm.pause();
    vm.resume();
    let second = flush(vm);
    assert_eq!(second["put_api_requests"]["actions_count"], 1);
    assert_eq!(second["put_api_requests"]["machine_cfg_count"], 0);
    let took = |key| second["latencies_us"][key].as_u64().unwrap();
    assert!(took("pause_vm") >= took("vmm_pause_vm") && took("vmm_pause_vm") > 0);
    assert!(took("resume_vm") >= took("vmm_resume_vm") && took("resume_vm") > 0);
    // Absolute, in every line.
    assert_eq!(flush(vm)["latencies_us"], second["latencies_us"]);
    let again = json!({ "metrics_path": vm.path("other") });
    let why = vm.refused("PUT", "/metrics", Some(&again));
    assert!(why.contains("not supported after starting"), "{why}");
}

#[vm_test(kernel = "hotplug", pci)]
fn a_removed_drive_leaves_what_it_did(vm: &mut TestVm) {
    configure(vm);
    vm.drive("first", &[1; 4096], &json!({}));
    vm.start();
    vm.wait_for("ready");
    vm.drive("second", &[7; 8192], &json!({}));
    vm.wait_for("disk in slot 2");
    vm.delete("/drives/second");
    let line = flush(vm);
    assert!(line.get("block_second").is_none());
    let read = total(vm, "block", "read_bytes");
    assert!(
        read >= 8192 + total(vm, "block_first", "read_bytes"),
        "{read}"
    );
    vm.type_text("q");
    vm.expect_pass();
}

#[vm_test(kernel = "irq", mmio, pci)]
fn interrupts_are_counted(vm: &mut TestVm) {
    configure(vm);
    vm.drive("disk", &[0; 4096], &json!({}));
    vm.start();
    vm.expect_pass();
    assert!(total(vm, "interrupts", "triggers") > 0);
}

#[vm_test(kernel = "irq", pci)]
fn routes_of_message_interrupts_are_counted(vm: &mut TestVm) {
    configure(vm);
    vm.drive("disk", &[0; 4096], &json!({}));
    vm.start();
    vm.expect_pass();
    assert!(total(vm, "interrupts", "config_updates") > 0);
}

/// The value of one sample.
fn sample(text: &str, name: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
        .parse()
        .unwrap()
}

fn scrape(vm: &mut TestVm) -> (Response, String) {
    let answer = vm.request("GET", "/metrics", None);
    assert_eq!(answer.status, 200);
    let text = answer.body.as_ref().and_then(Value::as_str);
    let text = text.expect("it is text").to_owned();
    assert!(text.ends_with("\n# EOF\n"));
    (answer, text)
}

#[vm_test(kernel = "rng", mmio, pci)]
fn everything_so_far_is_told_without_a_file(vm: &mut TestVm) {
    let (answer, text) = scrape(vm);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(answer.header("content-type"), Some(kind));
    let state = |text: &str, state| {
        sample(
            text,
            &format!("cloister_vm_state{{cloister_vm_state=\"{state}\"}}"),
        )
    };
    assert!(state(&text, "not_started") > 0.5);
    vm.put("/entropy", &json!({}));
    vm.machine(2, 64);
    vm.start();
    vm.pause();
    let (_, text) = scrape(vm);
    assert!(state(&text, "paused") > 0.5 && state(&text, "running") < 0.5);
    assert!((sample(&text, "cloister_vm_memory_bytes") - f64::from(64 << 20)).abs() < 0.5);
    assert!(sample(&text, "cloister_vcpu_exit_io_out_total{vcpu=\"0\"}") >= 0.0);
    assert!(sample(&text, "cloister_vcpu_exit_io_out_total{vcpu=\"1\"}") >= 0.0);
    assert!(sample(&text, "cloister_put_api_requests_actions_total") > 0.5);
    vm.resume();
    vm.expect_pass();
    assert!(!vm.path("metrics").exists());
}

#[vm_test(kernel = "serial_echo", mmio)]
fn a_full_disk_costs_lines_and_nothing_else(vm: &mut TestVm) {
    vm.put("/metrics", &json!({ "metrics_path": "/dev/full" }));
    vm.start();
    vm.put("/actions", &json!({ "action_type": "FlushMetrics" }));
    let (_, text) = scrape(vm);
    assert!((sample(&text, "cloister_logger_missed_metrics_total") - 2.0).abs() < 0.5);
}

#[vm_test(kernel = "serial_echo", mmio)]
fn a_fifo_has_whole_lines_whenever_somebody_reads(vm: &mut TestVm) {
    let path = vm.fifo("fifo");
    vm.put(
        "/metrics",
        &json!({ "metrics_path": path, "emit_id": true }),
    );
    vm.start();
    // More than a FIFO holds, with nobody there.
    for _ in 0..30 {
        vm.put("/actions", &json!({ "action_type": "FlushMetrics" }));
    }
    let reader = fs::File::open(&path).unwrap();
    let mut reader = std::io::BufReader::new(reader);
    let mut counted = 0;
    for _ in 0..3 {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        let id = line["id"].as_str().unwrap();
        assert!(id.contains("a-fifo-has-whole-lines"), "{id}");
        counted += line["put_api_requests"]["actions_count"].as_u64().unwrap();
    }
    assert_eq!(counted, 3);
}
