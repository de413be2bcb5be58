//! The machine is the one that was asked for: memory, processors, console, keyboard.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on has failed; patterns wrap"
)]

use integration::{TestVm, vm_test};
use serde_json::json;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// `(start, end, kind)` of every `map` line.
fn memory_map(vm: &TestVm) -> Vec<(u64, u64, String)> {
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    vm.output()
        .lines()
        .filter_map(|line| line.strip_prefix("map "))
        .map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            (number(words[0]), number(words[1]), words[2].to_owned())
        })
        .collect()
}

#[vm_test(kernel = "memory_map")]
fn memory_below_the_gap_is_one_piece(vm: &mut TestVm) {
    vm.machine(1, 64);
    vm.start();
    vm.expect_pass();
    let map = memory_map(vm);
    assert!(map.contains(&(0, 0x9_fc00, "1".to_owned())), "{map:x?}");
    assert!(map.contains(&(MIB, 64 * MIB, "1".to_owned())), "{map:x?}");
}

#[vm_test(kernel = "memory_map")]
fn five_gib_go_around_the_gap_and_are_all_there(vm: &mut TestVm) {
    vm.machine(1, 5 << 10);
    vm.start();
    vm.expect_pass();
    let map = memory_map(vm);
    assert!(map.contains(&(MIB, 3 * GIB, "1".to_owned())), "{map:x?}");
    assert!(
        map.contains(&(4 * GIB, 6 * GIB, "1".to_owned())),
        "{map:x?}"
    );
    let resident_kib = resident_kib(vm);
    // `expect_pass` waited for the end, so this reads the peak that the kernel recorded before.
    assert!(
        resident_kib.is_none_or(|kib| kib < 64 << 10),
        "{resident_kib:?}"
    );
}

#[vm_test(kernel = "halt")]
fn memory_that_the_guest_does_not_touch_costs_nothing(vm: &mut TestVm) {
    vm.machine(1, 5 << 10);
    vm.start();
    vm.wait_for("sleeping");
    let kib = resident_kib(vm).expect("the monitor runs");
    assert!(kib < 16 << 10, "{kib} KiB resident");
}

fn resident_kib(vm: &TestVm) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", vm.pid())).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn processors_come_up(vm: &mut TestVm, count: u8) {
    vm.machine(count, 128);
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("cpus"), count.to_string());
}

#[vm_test(kernel = "vcpus")]
fn one_processor_comes_up(vm: &mut TestVm) {
    processors_come_up(vm, 1);
}

#[vm_test(kernel = "vcpus")]
fn two_processors_come_up(vm: &mut TestVm) {
    processors_come_up(vm, 2);
}

#[vm_test(kernel = "vcpus")]
fn thirty_two_processors_come_up(vm: &mut TestVm) {
    processors_come_up(vm, 32);
}

#[vm_test(kernel = "serial_echo")]
fn the_console_works_in_both_directions(vm: &mut TestVm) {
    vm.start();
    vm.wait_for("ready");
    // More than any FIFO holds, so that the guest must drain it many times.
    let text: String = (0..200).map(|line| format!("line {line}\n")).collect();
    vm.type_text(&text);
    vm.type_text("quit\n");
    vm.expect_pass();
    assert!(vm.output().contains(&text), "{}", vm.output());
    assert_eq!(
        vm.value("received"),
        (text.len() + "quit\n".len()).to_string()
    );
}

#[vm_test(kernel = "ctrl_alt_del")]
fn ctrl_alt_del_reaches_the_keyboard(vm: &mut TestVm) {
    vm.start();
    vm.wait_for("ready");
    vm.put("/actions", &json!({ "action_type": "SendCtrlAltDel" }));
    vm.expect_pass();
}

#[vm_test(kernel = "halt")]
fn a_halted_machine_pauses_and_resumes(vm: &mut TestVm) {
    vm.machine(4, 128);
    vm.start();
    vm.wait_for("sleeping");
    let state = |vm: &mut TestVm| vm.request("GET", "/", None).body.unwrap()["state"].clone();
    assert_eq!(state(vm), "Running");
    for _ in 0..20 {
        for (to, reads) in [("Paused", "Paused"), ("Resumed", "Running")] {
            let answer = vm.request("PATCH", "/vm", Some(&json!({ "state": to })));
            assert_eq!(answer.status, 204, "{:?}", answer.body);
            assert_eq!(state(vm), reads);
        }
    }
}
