//! A boot that fails is explained: by `GET /vm/diagnosis` while there is somebody to ask, in the log when it is over.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, Instant};
use std::{fs, thread};

use integration::{TestVm, vm_test};
use serde_json::{Value, json};

/// A line that a Linux without its root ends with, as `say=` takes it.
const LOST_ROOT: &str =
    "Kernel_panic_-_not_syncing:_VFS:_Unable_to_mount_root_fs_on_unknown-block(0,0)";

fn diagnosis(vm: &mut TestVm) -> Value {
    let answer = vm.request("GET", "/vm/diagnosis", None);
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    answer.body.unwrap()
}

/// Asks until the first cause has this code.
fn expect_cause(vm: &mut TestVm, code: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let diagnosis = diagnosis(vm);
        if diagnosis["causes"][0]["code"] == code {
            return diagnosis;
        }
        assert!(Instant::now() < deadline, "{}", diagnosis["text"]);
        thread::sleep(Duration::from_millis(50));
    }
}

/// Waits for the end, and for the log to name this cause.
fn expect_logged_cause(vm: &mut TestVm, code: &str, exit_code: i32) -> String {
    assert_eq!(vm.wait_exit(), exit_code, "{}", vm.log());
    let log = vm.log();
    assert!(log.contains(&format!("ause, {code}: ")), "{log}");
    log
}

fn fail(vm: &mut TestVm, arguments: &str) {
    vm.boot("boot_args", format!("console=ttyS0 {arguments}"));
    vm.start();
}

fn add_root(vm: &mut TestVm) {
    vm.drive("rootfs", &[0; 4096], &json!({ "is_root_device": true }));
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[vm_test(kernel = "hello")]
fn before_the_start_it_says_what_is_missing(vm: &mut TestVm) {
    let before = diagnosis(vm);
    assert_eq!(before["state"], "Not started");
    assert_eq!(before["causes"][0]["code"], "not_configured");
    assert!(text(&before["missing"][0]).contains("/boot-source"));
}

#[vm_test(kernel = "hello")]
fn a_file_that_is_no_kernel(vm: &mut TestVm) {
    let path = vm.path("text");
    fs::write(&path, "not a kernel, by any means").unwrap();
    vm.put("/boot-source", &json!({ "kernel_image_path": path }));
    let start = json!({ "action_type": "InstanceStart" });
    let refused = vm.refused("PUT", "/actions", Some(&start));
    let after = expect_cause(vm, "wrong_kernel_format");
    assert!(
        refused.ends_with(text(&after["start_failure"])),
        "{refused}"
    );
    assert_eq!(after["state"], "Not started");
    assert!(
        vm.log().contains("Cause, wrong_kernel_format: "),
        "{}",
        vm.log()
    );
}

#[vm_test(kernel = "hello")]
fn an_initrd_that_does_not_fit(vm: &mut TestVm) {
    let path = vm.path("initrd");
    fs::File::create(&path).unwrap().set_len(200 << 20).unwrap();
    let kernel = integration::guest_kernel("hello");
    let source = json!({ "kernel_image_path": kernel, "initrd_path": path });
    vm.put("/boot-source", &source);
    let start = json!({ "action_type": "InstanceStart" });
    vm.refused("PUT", "/actions", Some(&start));
    expect_cause(vm, "out_of_memory");
}

#[vm_test(kernel = "boot_failure")]
fn a_triple_fault_before_the_first_byte(vm: &mut TestVm) {
    fail(vm, "fail=fault");
    let log = expect_logged_cause(vm, "triple_fault", 1);
    assert!(
        log.contains("it had not written a byte and used no device"),
        "{log}"
    );
    assert!(log.contains("1 shutdown"), "{log}");
    // The last line of it.
    assert!(log.contains("Nothing came out of the serial port"), "{log}");
}

#[vm_test(kernel = "boot_failure")]
fn an_instruction_at_an_address_without_a_page(vm: &mut TestVm) {
    fail(vm, "fail=unmapped");
    let log = expect_logged_cause(vm, "jumped_outside_memory", 1);
    assert!(log.contains("0x5000001234"), "{log}");
    assert!(log.contains("not present: the level 3 entry"), "{log}");
}

#[vm_test(kernel = "boot_failure")]
fn an_instruction_where_no_memory_is(vm: &mut TestVm) {
    fail(vm, "fail=nowhere say=hello");
    let log = expect_logged_cause(vm, "jumped_outside_memory", 1);
    assert!(log.contains("guest-physical 0xd0000000, no RAM"), "{log}");
    assert!(log.contains("| hello"), "{log}");
}

#[vm_test(kernel = "boot_failure", mmio, pci)]
fn a_reset_before_any_device_is_used(vm: &mut TestVm) {
    add_root(vm);
    fail(vm, "fail=reset");
    let log = expect_logged_cause(vm, "early_reset", 0);
    assert!(log.contains("it wrote nothing to a console"), "{log}");
}

#[vm_test(kernel = "hello", mmio, pci)]
fn a_guest_that_ends_well_leaves_no_diagnosis(vm: &mut TestVm) {
    add_root(vm);
    vm.start();
    vm.expect_pass();
    assert!(!vm.log().contains("Boot diagnosis"), "{}", vm.log());
}

#[vm_test(kernel = "boot_failure", mmio, pci)]
fn a_root_that_no_driver_looked_at(vm: &mut TestVm) {
    add_root(vm);
    fail(vm, &format!("fail=reset say={LOST_ROOT}"));
    let log = expect_logged_cause(vm, "no_virtio_driver", 0);
    assert!(log.contains("\"rootfs\" at"), "{log}");
    assert!(log.contains("no driver has looked at it"), "{log}");
    assert!(
        log.contains("the guest says: serial: Kernel panic"),
        "{log}"
    );
}

#[vm_test(kernel = "boot_failure", mmio, pci)]
fn a_root_whose_bus_has_a_driver_and_whose_kind_has_none(vm: &mut TestVm) {
    add_root(vm);
    fail(vm, &format!("fail=acknowledge say={LOST_ROOT}"));
    let found = expect_cause(vm, "no_virtio_driver");
    let remedy = text(&found["causes"][0]["remedy"]);
    assert!(
        remedy.contains("virtio_blk") && remedy.contains("works"),
        "{remedy}"
    );
    assert_eq!(found["devices"][0]["status"], json!(["acknowledge"]));
}

#[vm_test(kernel = "boot_failure")]
fn no_root_was_given(vm: &mut TestVm) {
    fail(vm, &format!("fail=reset say={LOST_ROOT}"));
    let log = expect_logged_cause(vm, "no_root_device", 0);
    assert!(log.contains("no drive is configured"), "{log}");
}

#[vm_test(kernel = "boot_failure", pci)]
fn pci_is_off_where_the_devices_are_on_it(vm: &mut TestVm) {
    add_root(vm);
    fail(vm, "pci=off say=hello");
    expect_cause(vm, "devices_hidden");
}

#[vm_test(kernel = "boot_failure")]
fn all_vcpus_sleep_with_interrupts_off(vm: &mut TestVm) {
    fail(vm, "say=good_night");
    let found = expect_cause(vm, "halted_forever");
    let place = &found["vcpus"][0]["place"];
    assert_eq!(place["activity"], "halted");
    assert_eq!(place["interrupts_enabled"], false);
    assert!(text(&place["symbol"]).starts_with("gate_halt+"), "{place}");
    assert!(text(&place["walk"]).contains("RAM"), "{place}");
    assert_eq!(found["serial"]["tail"], "good night \n");
}

#[vm_test(kernel = "boot_failure")]
fn a_vcpu_runs_in_one_place(vm: &mut TestVm) {
    fail(vm, "fail=spin");
    let found = expect_cause(vm, "spinning");
    let place = &found["vcpus"][0]["place"];
    assert!(text(&place["symbol"]).contains("spin"), "{place}");
    assert_eq!(place["mode"], "long");
    assert_eq!(place["ring"], 3);
}

#[vm_test(kernel = "boot_failure")]
fn a_vcpu_polls_one_port(vm: &mut TestVm) {
    fail(vm, "fail=poll");
    let found = expect_cause(vm, "spinning");
    let evidence = found["causes"][0]["evidence"].to_string();
    assert!(evidence.contains("it goes on to access 0x64"), "{evidence}");
    let last = &found["vcpus"][0]["last_exits"][0];
    let expected = json!({ "kind": "port_read", "address": "0x64", "size": 1, "times": 16 });
    assert_eq!(*last, expected);
}

#[vm_test(kernel = "boot_failure", mmio, pci)]
fn the_kernel_is_up_and_was_told_of_no_console(vm: &mut TestVm) {
    add_root(vm);
    vm.boot("boot_args", "fail=use_disk");
    vm.start();
    let found = expect_cause(vm, "no_console");
    assert_eq!(found["causes"][0]["confidence"], "likely");
    let disk = &found["devices"][0];
    assert_eq!(disk["driver_ok"], true);
    assert_eq!(disk["queues_enabled"], 1);
}

#[vm_test(kernel = "boot_failure")]
fn a_panic_that_no_console_shows(vm: &mut TestVm) {
    fail(vm, "fail=panic");
    let found = expect_cause(vm, "kernel_panic");
    assert_eq!(found["guest_panicked"], true);
    assert!(
        vm.log().contains("Likely cause, kernel_panic: "),
        "{}",
        vm.log()
    );
}

#[vm_test(kernel = "boot_failure")]
fn what_linux_says_of_its_end_is_heard_with_the_console_in_no_place(vm: &mut TestVm) {
    vm.put("/serial", &json!({ "serial_out_path": "/dev/null" }));
    fail(
        vm,
        "fail=reset say=Kernel_panic_-_not_syncing:_Requested_init_/nope_failed_(error_-2).",
    );
    let log = expect_logged_cause(vm, "wrong_init", 0);
    assert!(log.contains("there is no such file"), "{log}");
}

#[vm_test(kernel = "boot_failure")]
fn a_missing_feature_of_the_processor(vm: &mut TestVm) {
    fail(
        vm,
        "say=This_kernel_requires_the_following_features_not_present_on_the_CPU:",
    );
    expect_cause(vm, "missing_cpu_feature");
}

#[vm_test(kernel = "boot_failure")]
fn a_guest_without_a_sign_of_life_is_told_of_once(vm: &mut TestVm) {
    fail(vm, "fail=spin");
    let deadline = Instant::now() + Duration::from_secs(40);
    while !vm.log().contains("Boot diagnosis") {
        assert!(Instant::now() < deadline, "{}", vm.log());
        thread::sleep(Duration::from_millis(100));
    }
    thread::sleep(Duration::from_millis(500));
    let log = vm.log();
    assert_eq!(log.matches("Boot diagnosis: running").count(), 1, "{log}");
    assert!(log.contains("Possible cause, spinning: "), "{log}");
    assert!(log.contains("Possible cause, silent: "), "{log}");
}

#[vm_test(kernel = "halt")]
fn asking_changes_nothing(vm: &mut TestVm) {
    vm.machine(2, 128);
    vm.start();
    vm.wait_for("sleeping");
    for state in ["Running", "Paused", "Running"] {
        let found = diagnosis(vm);
        assert_eq!(found["state"], state);
        assert_eq!(found["causes"], json!([]));
        assert_eq!(found["vcpus"][0]["place"]["activity"], "halted");
        assert_eq!(found["vcpus"][1]["place"]["activity"], "not_started");
        let instance = vm.request("GET", "/", None).body.unwrap();
        assert_eq!(instance["state"], state);
        match state {
            "Running" => vm.pause(),
            _ => vm.resume(),
        }
    }
}
