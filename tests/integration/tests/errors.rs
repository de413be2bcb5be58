//! What a user can get wrong: one message says what and what to do, the process stays, a corrected request works.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on has failed; patterns wrap"
)]

use std::fs;

use integration::{Tap, TestVm, guest_kernel, vm_test};
use serde_json::{Value, json};

const START: &str = "/actions";

fn instance_start() -> Value {
    json!({ "action_type": "InstanceStart" })
}

/// Starts with a good kernel, to show that the process took no harm.
fn a_corrected_request_works(vm: &mut TestVm) {
    let boot_source = json!({ "kernel_image_path": guest_kernel("hello") });
    vm.put("/boot-source", &boot_source);
    vm.put(START, &instance_start());
    vm.expect_pass();
}

#[vm_test(kernel = "hello")]
fn a_start_without_a_kernel(vm: &mut TestVm) {
    let why = vm.refused("PUT", START, Some(&instance_start()));
    assert!(
        why.contains("Cannot start microvm without kernel configuration."),
        "{why}"
    );
    a_corrected_request_works(vm);
}

#[vm_test(kernel = "hello")]
fn a_missing_kernel(vm: &mut TestVm) {
    let body = json!({ "kernel_image_path": vm.path("nothing") });
    let why = vm.refused("PUT", "/boot-source", Some(&body));
    assert!(
        why.contains("The kernel file cannot be opened: No such file"),
        "{why}"
    );
    a_corrected_request_works(vm);
}

#[vm_test(kernel = "hello")]
fn a_text_file_as_kernel(vm: &mut TestVm) {
    let path = vm.path("notes.txt");
    fs::write(&path, "this is no kernel\n".repeat(1000)).unwrap();
    vm.put("/boot-source", &json!({ "kernel_image_path": path }));
    let why = vm.refused("PUT", START, Some(&instance_start()));
    assert!(why.contains("invalid kernel image"), "{why}");
    a_corrected_request_works(vm);
}

#[vm_test(kernel = "hello")]
fn an_empty_file_and_a_directory_as_kernel(vm: &mut TestVm) {
    let empty = vm.path("empty");
    fs::write(&empty, "").unwrap();
    for path in [empty, vm.path("")] {
        vm.put("/boot-source", &json!({ "kernel_image_path": path }));
        let why = vm.refused("PUT", START, Some(&instance_start()));
        assert!(why.contains("invalid kernel image"), "{why}");
    }
    a_corrected_request_works(vm);
}

#[vm_test(kernel = "hello")]
fn an_image_that_is_not_whole_sectors(vm: &mut TestVm) {
    let path = vm.path("disk");
    fs::write(&path, [0; 1000]).unwrap();
    let body = json!({ "drive_id": "disk", "path_on_host": path, "is_root_device": false });
    let why = vm.refused("PUT", "/drives/disk", Some(&body));
    assert!(why.contains("1000 bytes, not a multiple of 512"), "{why}");
    assert!(why.contains("truncate"), "{why}");
    fs::write(&path, [0; 1024]).unwrap();
    vm.put("/drives/disk", &body);
    a_corrected_request_works(vm);
}

#[vm_test(kernel = "hello")]
fn a_missing_initrd(vm: &mut TestVm) {
    let body = json!({ "kernel_image_path": guest_kernel("hello"), "initrd_path": "/none" });
    assert_eq!(
        vm.refused("PUT", "/boot-source", Some(&body)),
        "Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. No such \
         file or directory (os error 2)"
    );
    a_corrected_request_works(vm);
}

#[vm_test(kernel = "hello")]
fn a_missing_image(vm: &mut TestVm) {
    let body =
        json!({ "drive_id": "disk", "path_on_host": vm.path("none"), "is_root_device": true });
    let why = vm.refused("PUT", "/drives/disk", Some(&body));
    assert!(why.contains("No such file or directory"), "{why}");
    a_corrected_request_works(vm);
}

#[vm_test(kernel = "hello")]
fn a_second_root_drive(vm: &mut TestVm) {
    vm.drive("one", &[0; 512], &json!({ "is_root_device": true }));
    let path = vm.path("one");
    let body = json!({ "drive_id": "two", "path_on_host": path, "is_root_device": true });
    let why = vm.refused("PUT", "/drives/two", Some(&body));
    assert!(why.contains("A root block device already exists!"), "{why}");
    a_corrected_request_works(vm);
}

#[vm_test(kernel = "hello")]
fn a_tap_that_is_taken(vm: &mut TestVm) {
    let tap = Tap::new();
    let body = json!({ "iface_id": "eth0", "host_dev_name": tap.name() });
    let mut owner = TestVm::new("owner");
    owner.put("/network-interfaces/eth0", &body);
    let why = vm.refused("PUT", "/network-interfaces/eth0", Some(&body));
    assert!(why.contains("Could not create the network device"), "{why}");
    assert!(why.contains("Resource busy"), "{why}");
    drop(owner);
    vm.put("/network-interfaces/eth0", &body);
    a_corrected_request_works(vm);
}

#[vm_test(kernel = "hello")]
fn what_does_not_go_with_the_kernels_network_back_end(vm: &mut TestVm) {
    let tap = Tap::new();
    let put = |vm: &mut TestVm, field: &str, value: Value| {
        let mut body =
            json!({ "iface_id": "eth0", "host_dev_name": tap.name(), "backend": "Vhost" });
        body[field] = value;
        vm.refused("PUT", "/network-interfaces/eth0", Some(&body))
    };
    let limit = json!({ "ops": { "size": 1, "refill_time": 1 } });
    for field in ["rx_rate_limiter", "tx_rate_limiter"] {
        let why = put(vm, field, limit.clone());
        assert!(why.contains("pass through the host's kernel"), "{why}");
    }
    let why = put(vm, "num_queues", json!(2));
    assert!(why.contains("which has one pair of queues"), "{why}");
    let why = put(vm, "backend", json!("vhost"));
    assert!(why.contains("expected `Tap` or `Vhost`"), "{why}");
    assert!(!tap.exists(), "a refused interface made its tap");
    if fs::exists("/dev/vhost-net").unwrap() {
        eprintln!("not shown: what is said where /dev/vhost-net is missing");
    } else {
        let why = put(vm, "num_queues", json!(1));
        assert!(why.contains("cannot use /dev/vhost-net"), "{why}");
        assert!(why.contains("load the kernel module vhost_net"), "{why}");
        assert!(why.contains("leave `backend` out"), "{why}");
        assert!(!tap.exists(), "a refused interface made its tap");
    }
    a_corrected_request_works(vm);
}

#[vm_test(kernel = "hello")]
fn memory_that_does_not_fit(vm: &mut TestVm) {
    for mem_size_mib in [1_u64 << 40, 1 << 34, u64::MAX] {
        vm.put(
            "/machine-config",
            &json!({ "vcpu_count": 1, "mem_size_mib": mem_size_mib }),
        );
        vm.put(
            "/boot-source",
            &json!({ "kernel_image_path": guest_kernel("hello") }),
        );
        let why = vm.refused("PUT", START, Some(&instance_start()));
        assert!(why.contains("Invalid Memory Configuration"), "{why}");
        assert!(why.contains("ask for less"), "{why}");
    }
    vm.machine(1, 128);
    a_corrected_request_works(vm);
}

/// Address space of the monitor.
fn mapped_kib(vm: &TestVm) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", vm.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse().unwrap()
}

#[vm_test(kernel = "hello")]
fn failed_starts_give_back_what_they_took(vm: &mut TestVm) {
    vm.machine(1, 512);
    let empty = vm.path("empty");
    fs::write(&empty, "").unwrap();
    let source = json!({ "kernel_image_path": guest_kernel("hello"), "initrd_path": empty });
    vm.put("/boot-source", &source);
    let mut fail = || {
        let why = vm.refused("PUT", START, Some(&instance_start()));
        assert!(why.contains("the initrd is empty"), "{why}");
        mapped_kib(vm)
    };
    let first = fail();
    let last = (0..20).map(|_| fail()).last().unwrap();
    assert!(last < first + (512 << 10), "{} KiB more", last - first);
    a_corrected_request_works(vm);
}

#[vm_test(kernel = "hello")]
fn memory_too_small_for_the_kernel(vm: &mut TestVm) {
    vm.machine(1, 1);
    vm.put(
        "/boot-source",
        &json!({ "kernel_image_path": guest_kernel("hello") }),
    );
    let why = vm.refused("PUT", START, Some(&instance_start()));
    assert!(why.contains("Start microvm error"), "{why}");
    vm.machine(1, 128);
    a_corrected_request_works(vm);
}

#[vm_test(kernel = "hello")]
fn more_devices_than_interrupts(vm: &mut TestVm) {
    for index in 0..20 {
        vm.drive(&format!("disk{index}"), &[0; 512], &json!({}));
    }
    vm.put(
        "/boot-source",
        &json!({ "kernel_image_path": guest_kernel("hello") }),
    );
    let why = vm.refused("PUT", START, Some(&instance_start()));
    assert!(why.contains("Could not allocate GSI"), "{why}");
}

#[vm_test(kernel = "halt")]
fn what_is_too_late_after_the_start(vm: &mut TestVm) {
    vm.start();
    vm.wait_for("sleeping");
    let late = "not supported after starting the microVM";
    for (path, body) in [
        (START, instance_start()),
        ("/boot-source", json!({ "kernel_image_path": "/x" })),
        (
            "/machine-config",
            json!({ "vcpu_count": 1, "mem_size_mib": 1 }),
        ),
    ] {
        let why = vm.refused("PUT", path, Some(&body));
        assert!(why.contains(late), "{path}: {why}");
    }
    let drive = json!({ "drive_id": "d", "path_on_host": "/dev/null", "is_root_device": false });
    let interface = json!({ "iface_id": "n", "host_dev_name": "none" });
    for (path, body) in [("/drives/d", drive), ("/network-interfaces/n", interface)] {
        let why = vm.refused("PUT", path, Some(&body));
        assert_eq!(why, "PCI is not enabled", "{path}");
    }
}

#[vm_test(kernel = "hello")]
fn what_is_too_early_before_the_start(vm: &mut TestVm) {
    let early = "not supported before starting the microVM";
    let why = vm.refused("PATCH", "/vm", Some(&json!({ "state": "Paused" })));
    assert!(why.contains(early), "{why}");
    let keys = json!({ "action_type": "SendCtrlAltDel" });
    let why = vm.refused("PUT", START, Some(&keys));
    assert!(why.contains(early), "{why}");
}
