//! `GET /events` tells what happens to a microVM, in order, to whoever reads, and to whoever comes back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::Command;
use std::time::Duration;

use api_client::{Client, Events};
use integration::{TestVm, vm_test};
use serde_json::{Value, json};

fn events(vm: &TestVm, since: u64) -> Events {
    let mut client = Client::connect(vm.path("api.sock")).unwrap();
    client.set_timeout(Some(Duration::from_secs(60))).unwrap();
    client.events(since).unwrap()
}

fn names(events: &[Value]) -> Vec<&str> {
    let names = events.iter().map(|event| event["event"].as_str().unwrap());
    names.collect()
}

#[vm_test(kernel = "count", mmio, pci)]
fn a_life_is_told_from_its_start_to_its_end(vm: &mut TestVm) {
    vm.drive("disk", &[0; 512], &json!({}));
    let mut early = events(vm, 0);
    vm.start();
    // No polling: the guest's driver says when it is there.
    let beginning: Vec<Value> = early.by_ref().take(3).map(Result::unwrap).collect();
    assert_eq!(names(&beginning), ["starting", "running", "driver_ready"]);
    assert_eq!(
        (&beginning[2]["kind"], &beginning[2]["id"]),
        (&json!("drive"), &json!("disk"))
    );
    vm.pause();
    vm.resume();
    vm.type_text("q");
    vm.expect_pass();
    let rest: Vec<Value> = early.map(Result::unwrap).collect();
    assert_eq!(names(&rest), ["paused", "resumed", "exited"]);
    let last = &rest[2];
    assert_eq!(
        (&last["reason"], &last["exit_code"]),
        (&json!("guest_reset"), &json!(0))
    );
    for (event, seq) in beginning.iter().chain(&rest).zip(1_u64..) {
        assert_eq!(event["seq"], seq);
        assert_eq!(
            event["timestamp"].as_str().unwrap().len(),
            "2026-11-22T08:03:43.567378Z".len()
        );
    }
}

#[vm_test(kernel = "count")]
fn who_comes_back_hears_what_it_missed(vm: &mut TestVm) {
    vm.drive("disk", &[0; 512], &json!({}));
    vm.start();
    let first: Vec<Value> = events(vm, 0).take(3).map(Result::unwrap).collect();
    vm.pause();
    let missed = events(vm, first[2]["seq"].as_u64().unwrap())
        .next()
        .unwrap();
    assert_eq!(missed.unwrap()["event"], "paused");
    // Pauses push the beginning out of what is kept.
    for _ in 0..600 {
        vm.resume();
        vm.pause();
    }
    let late: Vec<Value> = events(vm, 0).take(2).map(Result::unwrap).collect();
    assert_eq!(late[0]["event"], "dropped");
    let count = late[0]["count"].as_u64().unwrap();
    assert_eq!(count, 4 + 1200 - 1024);
    assert_eq!(
        (&late[0]["seq"], &late[1]["seq"]),
        (&json!(count), &json!(count + 1))
    );
    vm.resume();
    vm.type_text("q");
    vm.expect_pass();
}

#[vm_test(kernel = "hello")]
fn a_start_that_fails_is_told_and_the_next_one_too(vm: &mut TestVm) {
    let mut all = events(vm, 0);
    let start = json!({ "action_type": "InstanceStart" });
    let why = vm.refused("PUT", "/actions", Some(&start));
    let told: Vec<Value> = all.by_ref().take(2).map(Result::unwrap).collect();
    assert_eq!(names(&told), ["starting", "start_failed"]);
    assert_eq!(
        why,
        format!(
            "Start microvm error: {}",
            "Cannot start microvm without kernel configuration."
        )
    );
    assert_eq!(told[1]["message"], why);
    vm.start();
    vm.expect_pass();
    let rest: Vec<Value> = all.map(Result::unwrap).collect();
    assert_eq!(names(&rest).first(), Some(&"starting"));
    assert_eq!(names(&rest).last(), Some(&"exited"));
}

#[vm_test(kernel = "panic_notice")]
fn a_panic_is_told(vm: &mut TestVm) {
    let all = events(vm, 0);
    vm.boot("boot_args", "times=100");
    vm.start();
    vm.wait_for("ready");
    vm.type_text("x");
    vm.wait_for("told");
    vm.type_text("x");
    vm.expect_pass();
    let all: Vec<Value> = all.map(Result::unwrap).collect();
    assert_eq!(
        names(&all),
        ["starting", "running", "guest_panicked", "exited"]
    );
    assert_eq!(all[2]["has_crash_kernel"], false);
}

/// The events of the device `id`, in their order, until one of them is `last`.
fn of_device(events: &mut Events, id: &str, last: &str) -> Vec<String> {
    let mut found = Vec::new();
    while found.last().is_none_or(|name| name != last) {
        let event = events.next().unwrap().unwrap();
        if event["id"] == id {
            assert_eq!(event["kind"], "drive");
            found.push(event["event"].as_str().unwrap().to_owned());
        }
    }
    found
}

#[vm_test(kernel = "hotplug", pci)]
fn devices_that_come_and_go_are_told(vm: &mut TestVm) {
    let mut all = events(vm, 0);
    vm.drive("first", &[1; 4096], &json!({}));
    vm.start();
    vm.wait_for("ready");
    vm.drive("second", &[7; 4096], &json!({}));
    assert_eq!(
        of_device(&mut all, "second", "driver_ready"),
        ["device_added", "driver_ready"]
    );
    vm.delete("/drives/second");
    assert_eq!(
        of_device(&mut all, "second", "device_removed"),
        ["device_removed"]
    );
}

#[vm_test(kernel = "hotplug", pci)]
fn a_guest_that_keeps_a_device_is_told_of(vm: &mut TestVm) {
    let mut all = events(vm, 0);
    vm.boot("boot_args", "stubborn");
    vm.drive("first", &[1; 4096], &json!({}));
    vm.start();
    vm.wait_for("ready");
    vm.drive("second", &[3; 4096], &json!({}));
    of_device(&mut all, "second", "driver_ready");
    vm.refused("DELETE", "/drives/second", None);
    let refused = "device_removal_refused";
    assert_eq!(of_device(&mut all, "second", refused), [refused]);
}

#[vm_test(kernel = "count")]
fn curl_shows_events_as_they_happen(vm: &mut TestVm) {
    vm.drive("disk", &[0; 512], &json!({}));
    vm.start();
    let curl = Command::new("curl")
        .args([
            "--silent",
            "--no-buffer",
            "--max-time",
            "2",
            "--unix-socket",
        ])
        .arg(vm.path("api.sock"))
        .arg("http://localhost/events")
        .output();
    let Ok(output) = curl else {
        eprintln!("skipped: curl is not installed on this host");
        return;
    };
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\"event\":\"running\""), "{text}");
    assert!(text.ends_with("}\n"), "{text}");
    vm.type_text("q");
    vm.expect_pass();
}

#[vm_test(kernel = "blk_hostile", mmio, pci)]
fn a_device_that_its_driver_breaks_is_told_of_and_floods_nobody(vm: &mut TestVm) {
    let all = events(vm, 0);
    vm.drive("disk", &[0; 64 * 512], &json!({}));
    vm.start();
    vm.expect_pass();
    let all: Vec<Value> = all.map(Result::unwrap).collect();
    let broken = all
        .iter()
        .filter(|event| event["event"] == "device_needs_reset");
    let count = broken
        .inspect(|event| assert_eq!(event["id"], "disk"))
        .count();
    assert!((1..100).contains(&count), "{count} of {}", all.len());
}
