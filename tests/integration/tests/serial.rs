//! The guest's serial output goes where the user says.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use integration::{TestVm, vm_test};
use serde_json::json;

/// `O_NONBLOCK` (Linux `asm-generic/fcntl.h`).
const O_NONBLOCK: i32 = 0o4000;

#[vm_test(kernel = "hello")]
fn the_file_is_made_and_holds_the_console(vm: &mut TestVm) {
    let path = vm.path("console");
    vm.put("/serial", &json!({ "serial_out_path": path }));
    assert!(!path.exists(), "it is opened at the start");
    vm.start();
    assert_eq!(vm.wait_exit(), 0);
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains("PASS hello"), "{text}");
    assert_eq!(vm.output(), "", "nothing is left for standard output");
}

#[vm_test(kernel = "hello")]
fn a_full_pipe_does_not_hold_the_guest_up(vm: &mut TestVm) {
    let path = vm.fifo("fifo");
    let mut full = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(O_NONBLOCK)
        .open(&path)
        .unwrap();
    while full.write(&[0; 4096]).is_ok() {}
    vm.put("/serial", &json!({ "serial_out_path": path }));
    vm.start();
    assert_eq!(vm.wait_exit(), 0);
}

#[vm_test(kernel = "hello")]
fn a_file_that_cannot_be_opened_is_named_and_can_be_corrected(vm: &mut TestVm) {
    let path = vm.path("");
    vm.put("/serial", &json!({ "serial_out_path": path }));
    let boot_source = json!({ "kernel_image_path": integration::guest_kernel("hello") });
    vm.put("/boot-source", &boot_source);
    let start = json!({ "action_type": "InstanceStart" });
    let why = vm.refused("PUT", "/actions", Some(&start));
    assert!(why.contains("serial_out_path"), "{why}");
    assert!(why.contains("Is a directory"), "{why}");
    vm.put("/serial", &json!({}));
    vm.put("/actions", &start);
    vm.expect_pass();
}

#[vm_test(kernel = "serial_flood")]
fn output_over_the_limit_is_dropped_and_the_guest_goes_on(vm: &mut TestVm) {
    let limit = json!({ "size": 1000, "one_time_burst": 24, "refill_time": 3_600_000 });
    vm.put("/serial", &json!({ "rate_limiter": limit }));
    vm.boot("boot_args", "kib=4");
    vm.start();
    assert_eq!(vm.wait_exit(), 0);
    let bytes = vm.output().len();
    // A token comes back every 3.6 seconds.
    assert!((1024..1050).contains(&bytes), "{bytes}");
}

#[vm_test(kernel = "serial_flood")]
fn a_bucket_with_a_zero_does_not_limit(vm: &mut TestVm) {
    let limit = json!({ "size": 0, "refill_time": 1 });
    vm.put("/serial", &json!({ "rate_limiter": limit }));
    vm.boot("boot_args", "kib=4");
    vm.start();
    vm.expect_pass();
    assert!(vm.output().len() > 4096);
}
