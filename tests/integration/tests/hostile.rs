//! Guests and clients that mean harm: the monitor goes on, answers, and stays small.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::thread;
use std::time::{Duration, Instant};

use api_client::Client;
use integration::{Tap, TestVm, vm_test};
use serde_json::json;

/// What a guest may make the monitor take besides its own memory.
const GROWTH_KIB: u64 = 16 << 10;

/// Far more than an answer takes when the loop is free, far less than a storm lasts.
const PROMPT: Duration = Duration::from_secs(3);

fn resident_kib(vm: &TestVm) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", vm.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.unwrap().split_whitespace().next();
    number.unwrap().parse().unwrap()
}

/// What the event loop answers by its turn; there is no balloon.
const BY_TURN: &str = "/balloon";

/// Asks the event loop ten times; every answer is prompt, and the monitor stays small meanwhile.
fn expect_prompt_answers(vm: &mut TestVm) {
    let before = resident_kib(vm);
    for _ in 0..10 {
        let start = Instant::now();
        assert_eq!(vm.request("GET", BY_TURN, None).status, 400);
        let took = start.elapsed();
        assert!(took < PROMPT, "an answer took {took:?}");
        thread::sleep(Duration::from_millis(20));
    }
    let grown = resident_kib(vm).saturating_sub(before);
    assert!(grown < GROWTH_KIB, "grew by {grown} KiB");
}

/// All processors but one attack; the first disk works, the API answers, nothing grows.
fn storm(vm: &mut TestVm, attack: &str) {
    vm.machine(4, 64);
    vm.drive("first", &[0x5a; 32 * 512], &json!({ "is_read_only": true }));
    let path = vm.drive(
        "second",
        &[0x5a; 32 * 512],
        &json!({ "cache_type": "Writeback" }),
    );
    vm.boot("boot_args", format!("attack={attack}"));
    vm.start();
    vm.wait_for("ready");
    expect_prompt_answers(vm);
    // It may have been written, sector by sector: its content says nothing.
    assert_eq!(fs::metadata(path).unwrap().len(), 32 * 512);
    vm.expect_pass();
    assert!(vm.value("reads").parse::<u32>().unwrap() > 10);
}

#[vm_test(kernel = "storm")]
fn a_disk_works_while_anothers_registers_are_hammered(vm: &mut TestVm) {
    storm(vm, "registers");
}

#[vm_test(kernel = "storm")]
fn a_disk_works_while_anothers_rings_are_rewritten(vm: &mut TestVm) {
    storm(vm, "rings");
}

#[vm_test(kernel = "storm")]
fn a_disk_works_while_interrupt_routes_change(vm: &mut TestVm) {
    storm(vm, "ioapic");
}

#[vm_test(kernel = "storm")]
fn a_disk_works_while_routes_carry_resets_to_nobody(vm: &mut TestVm) {
    storm(vm, "deadly_ioapic");
}

#[vm_test(kernel = "storm")]
fn a_disk_works_while_ports_are_hammered(vm: &mut TestVm) {
    storm(vm, "ports");
}

#[vm_test(kernel = "net_refused")]
fn refused_receive_buffers_do_not_keep_the_api_waiting(vm: &mut TestVm) {
    let tap = Tap::new();
    vm.machine(2, 64);
    let body = json!({ "iface_id": "eth0", "host_dev_name": tap.name() });
    vm.put("/network-interfaces/eth0", &body);
    tap.up();
    vm.start();
    vm.wait_for("ready");
    expect_prompt_answers(vm);
    assert!(!vm.output().contains("FAIL"), "{}", vm.output());
}

#[vm_test(kernel = "hello")]
fn a_machine_ends_whatever_is_asked_of_it_meanwhile(vm: &mut TestVm) {
    let socket = vm.path("api.sock");
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let mut client = Client::connect(&socket).unwrap();
            thread::spawn(move || while client.get(BY_TURN, None).is_ok() {})
        })
        .collect();
    vm.start();
    vm.expect_pass();
    for client in clients {
        client.join().unwrap();
    }
}

#[vm_test(kernel = "hello")]
fn starts_that_fail_leave_no_memory_behind(vm: &mut TestVm) {
    // Kernel and initrd are in memory when the last device finds no place.
    let initrd = vm.path("initrd");
    File::create(&initrd).unwrap().set_len(32 << 20).unwrap();
    for index in 0..20 {
        vm.drive(&format!("disk{index}"), &[0; 512], &json!({}));
    }
    let source =
        json!({ "kernel_image_path": integration::guest_kernel("hello"), "initrd_path": initrd });
    vm.put("/boot-source", &source);
    let before = resident_kib(vm);
    for _ in 0..4 {
        let start = json!({ "action_type": "InstanceStart" });
        let why = vm.refused("PUT", "/actions", Some(&start));
        assert!(why.contains("room for 18"), "{why}");
    }
    let grown = resident_kib(vm).saturating_sub(before);
    assert!(grown < GROWTH_KIB, "grew by {grown} KiB");
}
