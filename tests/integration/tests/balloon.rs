//! What a guest gives up goes back to the host: the process shrinks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::time::{Duration, Instant};

use integration::{TestVm, vm_test};
use serde_json::{Value, json};

const PAGES_PER_MIB: u64 = 256;
/// Memory a kernel touches, MiB.
const TOUCHED: u64 = 64;
/// What else may come or go in the process meanwhile, KiB.
const SLACK: u64 = 4096;

/// Memory of the monitor that is in RAM, KiB.
fn resident(vm: &TestVm) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", vm.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Starts with a balloon that has `options`, and waits until the guest touched its memory.
fn start(vm: &mut TestVm, options: &Value) {
    let mut balloon = json!({ "amount_mib": 0, "deflate_on_oom": false });
    for (key, value) in options.as_object().into_iter().flatten() {
        balloon[key] = value.clone();
    }
    vm.put("/balloon", &balloon);
    vm.boot("boot_args", format!("pages={}", TOUCHED * PAGES_PER_MIB));
    vm.start();
}

fn patch(vm: &mut TestVm, path: &str, body: &Value) {
    let answer = vm.request("PATCH", path, Some(body));
    assert_eq!(answer.status, 204, "PATCH {path}: {:?}", answer.body);
}

fn set_target(vm: &mut TestVm, amount_mib: u64) {
    patch(vm, "/balloon", &json!({ "amount_mib": amount_mib }));
}

fn get(vm: &mut TestVm, path: &str) -> Value {
    let answer = vm.request("GET", path, None);
    assert_eq!(answer.status, 200, "GET {path}: {:?}", answer.body);
    answer.body.unwrap()
}

#[vm_test(kernel = "balloon", mmio, pci)]
fn an_inflated_balloon_shrinks_the_process(vm: &mut TestVm) {
    let options = json!({ "deflate_on_oom": true, "stats_polling_interval_s": 1 });
    start(vm, &options);
    vm.wait_for("touched=16384");
    let full = resident(vm);
    assert!(full > TOUCHED * 1024, "{full} KiB with all memory touched");

    set_target(vm, 60);
    vm.wait_for("inflated=15360");
    let inflated = resident(vm);
    assert!(
        inflated < full - 60 * 1024 + SLACK,
        "{full} -> {inflated} KiB"
    );
    let statistics = get(vm, "/balloon/statistics");
    let told = json!({
        "target_pages": 15360, "actual_pages": 15360, "target_mib": 60, "actual_mib": 60,
    });
    assert_eq!(statistics, told);
    assert_eq!(get(vm, "/balloon")["amount_mib"], 60);
    assert_eq!(get(vm, "/vm/config")["balloon"]["amount_mib"], 60);

    set_target(vm, 0);
    vm.expect_pass();
    assert_eq!(vm.value("deflated"), "15360");
    // VERSION_1, STATS_VQ, DEFLATE_ON_OOM.
    assert_eq!(vm.value("features"), "0x100000006");
}

#[vm_test(kernel = "balloon", mmio, pci)]
fn a_paused_machine_takes_a_target_and_inflates_when_it_goes_on(vm: &mut TestVm) {
    start(vm, &json!({}));
    vm.wait_for("touched=16384");
    patch(vm, "/vm", &json!({ "state": "Paused" }));
    set_target(vm, 1);
    patch(vm, "/vm", &json!({ "state": "Resumed" }));
    vm.wait_for("inflated=256");
    set_target(vm, 0);
    vm.expect_pass();
}

#[vm_test(kernel = "balloon_report", mmio, pci)]
fn reported_pages_shrink_the_process(vm: &mut TestVm) {
    start(vm, &json!({ "free_page_reporting": true }));
    vm.wait_for("touched=16384");
    let full = resident(vm);
    set_target(vm, 1);
    vm.wait_for("reported=16384");
    let reported = resident(vm);
    let freed = TOUCHED * 1024;
    assert!(reported < full - freed + SLACK, "{full} -> {reported} KiB");
    set_target(vm, 0);
    vm.expect_pass();
}

#[vm_test(kernel = "balloon_hint", mmio, pci)]
fn hinted_pages_shrink_the_process_during_a_run_only(vm: &mut TestVm) {
    start(vm, &json!({ "free_page_hinting": true }));
    vm.wait_for("touched=16384");
    let before = json!({ "host_cmd": 0, "guest_cmd": null });
    assert_eq!(get(vm, "/balloon/hinting/status"), before);
    let full = resident(vm);
    let started = vm.request("PATCH", "/balloon/hinting/start", None);
    assert_eq!(started.status, 204, "{:?}", started.body);
    vm.wait_for("done");
    let hinted = resident(vm);
    let freed = TOUCHED * 1024;
    assert!(hinted < full - freed + SLACK, "{full} -> {hinted} KiB");
    let after = json!({ "host_cmd": 1, "guest_cmd": 0 });
    assert_eq!(get(vm, "/balloon/hinting/status"), after);
    assert_eq!(vm.value("run"), "2");
    set_target(vm, 1);
    vm.expect_pass();
}

#[vm_test(kernel = "balloon_hint", mmio, pci)]
fn a_run_ends_when_the_user_stops_it(vm: &mut TestVm) {
    start(vm, &json!({ "free_page_hinting": true }));
    vm.wait_for("touched=16384");
    let how = json!({ "acknowledge_on_stop": false });
    patch(vm, "/balloon/hinting/start", &how);
    vm.wait_for("hinted=");
    let during = json!({ "host_cmd": 2, "guest_cmd": 0 });
    assert_eq!(get(vm, "/balloon/hinting/status"), during);
    let stopped = vm.request("PATCH", "/balloon/hinting/stop", None);
    assert_eq!(stopped.status, 204, "{:?}", stopped.body);
    set_target(vm, 1);
    vm.expect_pass();
}

#[vm_test(kernel = "balloon_statistics", mmio, pci)]
fn the_guest_is_asked_for_figures_again_and_again(vm: &mut TestVm) {
    start(vm, &json!({ "stats_polling_interval_s": 60 }));
    let deadline = Instant::now() + Duration::from_secs(60);
    while get(vm, "/balloon/statistics").get("free_memory").is_none() {
        assert!(Instant::now() < deadline, "no figures came");
        std::thread::sleep(Duration::from_millis(5));
    }
    let interval = json!({ "stats_polling_interval_s": 1 });
    patch(vm, "/balloon/statistics", &interval);
    assert_eq!(get(vm, "/balloon")["stats_polling_interval_s"], 1);
    vm.wait_for("round=2");
    let statistics = get(vm, "/balloon/statistics");
    assert!(
        statistics["free_memory"].as_u64() >= Some(2000),
        "{statistics}"
    );
    assert_eq!(statistics["total_memory"], 77);
    let off = json!({ "stats_polling_interval_s": 0 });
    let why = vm.refused("PATCH", "/balloon/statistics", Some(&off));
    assert!(
        why.contains("Statistics cannot be enabled/disabled after activation."),
        "{why}"
    );
    set_target(vm, 1);
    vm.expect_pass();
}

#[vm_test(kernel = "balloon_hostile", mmio, pci)]
fn pages_that_are_none_are_left_alone(vm: &mut TestVm) {
    start(vm, &json!({}));
    vm.expect_pass();
    assert_eq!(vm.value("cases"), "9");
}

#[vm_test(kernel = "balloon_resets", mmio, pci)]
fn it_can_be_asked_while_its_driver_resets_it(vm: &mut TestVm) {
    let options = json!({ "stats_polling_interval_s": 1, "free_page_hinting": true });
    start(vm, &options);
    vm.wait_for("storming");
    for _ in 0..100 {
        assert_eq!(get(vm, "/balloon/statistics")["target_pages"], 0);
        assert_eq!(get(vm, "/balloon/hinting/status")["host_cmd"], 0);
    }
    vm.type_text("q");
    vm.expect_pass();
    assert!(vm.value("resets").parse::<u64>().unwrap() > 0);
}

#[vm_test(kernel = "halt")]
fn what_cannot_be_asked_is_refused(vm: &mut TestVm) {
    let none = vm.refused("GET", "/balloon", None);
    assert_eq!(none, "Balloon config error: No balloon device found.");
    let body = |amount_mib: u64| json!({ "amount_mib": amount_mib, "deflate_on_oom": false });
    let why = vm.refused("PUT", "/balloon", Some(&body(129)));
    assert!(
        why.contains("Amount of pages requested is too large."),
        "{why}"
    );
    vm.put("/balloon", &body(128));
    let smaller = json!({ "vcpu_count": 1, "mem_size_mib": 127 });
    let why = vm.refused("PUT", "/machine-config", Some(&smaller));
    let words = "smaller than the previously set balloon device target size";
    assert!(why.contains(words), "{why}");
    vm.start();
    vm.wait_for("sleeping");

    for (method, path, body, words) in [
        (
            "PATCH",
            "/balloon",
            Some(json!({ "amount_mib": 1 })),
            "Balloon: Device not activated yet.",
        ),
        (
            "GET",
            "/balloon/statistics",
            None,
            "Received stats query when stats are disabled.",
        ),
        (
            "PATCH",
            "/balloon/hinting/start",
            None,
            "Device not activated yet.",
        ),
        (
            "GET",
            "/balloon/hinting/status",
            None,
            "Attempting to use hinting when not enabled",
        ),
        (
            "PATCH",
            "/balloon/statistics",
            Some(json!({ "stats_polling_interval_s": 1 })),
            "Statistics cannot be enabled/disabled after activation.",
        ),
    ] {
        let why = vm.refused(method, path, body.as_ref());
        assert!(why.contains(words), "{method} {path}: {why}");
    }
    let same = json!({ "stats_polling_interval_s": 0 });
    patch(vm, "/balloon/statistics", &same);
}

#[vm_test(kernel = "balloon", mmio, pci)]
fn more_than_the_guest_has_is_refused(vm: &mut TestVm) {
    start(vm, &json!({}));
    vm.wait_for("touched=16384");
    let body = json!({ "amount_mib": 129 });
    let why = vm.refused("PATCH", "/balloon", Some(&body));
    assert!(
        why.contains("Requested memory should be less than 128MiB"),
        "{why}"
    );
}

#[vm_test(kernel = "balloon", mmio)]
fn memory_that_can_be_plugged_counts_as_what_the_guest_has(vm: &mut TestVm) {
    vm.put("/hotplug/memory", &json!({ "total_size_mib": 256 }));
    start(vm, &json!({}));
    vm.wait_for("touched=16384");
    let why = vm.refused("PATCH", "/balloon", Some(&json!({ "amount_mib": 385 })));
    assert_eq!(
        why,
        "Balloon update error: Balloon: Requested memory should be less than 384MiB"
    );
}

#[vm_test(kernel = "balloon", mmio, pci)]
fn what_was_left_out_stays_off_while_a_driver_runs(vm: &mut TestVm) {
    start(vm, &json!({}));
    vm.wait_for("touched=16384");
    for (method, path, words) in [
        (
            "PATCH",
            "/balloon/hinting/start",
            "Balloon update error: Balloon: Attempting to use hinting when not enabled",
        ),
        (
            "PATCH",
            "/balloon/hinting/stop",
            "Balloon update error: Balloon: Attempting to use hinting when not enabled",
        ),
        (
            "GET",
            "/balloon/hinting/status",
            "Internal VMM error: Balloon: Attempting to use hinting when not enabled",
        ),
        (
            "GET",
            "/balloon/statistics",
            "Internal VMM error: Balloon: Received stats query when stats are disabled.",
        ),
    ] {
        assert_eq!(vm.refused(method, path, None), words, "{method} {path}");
    }
    let on = json!({ "stats_polling_interval_s": 1 });
    assert_eq!(
        vm.refused("PATCH", "/balloon/statistics", Some(&on)),
        "Balloon update error: Balloon: Statistics cannot be enabled/disabled after activation."
    );
    assert_eq!(get(vm, "/balloon")["stats_polling_interval_s"], 0);
}

#[vm_test(kernel = "halt")]
fn without_a_balloon_there_is_none_to_change(vm: &mut TestVm) {
    vm.start();
    vm.wait_for("sleeping");
    for (method, path, body) in [
        ("GET", "/balloon", None),
        ("PATCH", "/balloon", Some(json!({ "amount_mib": 1 }))),
        ("GET", "/balloon/statistics", None),
        ("PATCH", "/balloon/hinting/stop", None),
    ] {
        let why = vm.refused(method, path, body.as_ref());
        let words = "Failed perform action on device: Device not found";
        assert!(why.contains(words), "{method} {path}: {why}");
    }
}
