//! A pause stops everything, at any moment, and a resume loses nothing.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on has failed; patterns wrap"
)]

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use integration::{TestVm, boot_echo, vm_test};
use serde_json::json;

const SECTOR: usize = 512;

fn count_on(disk: &Path) -> u64 {
    let sector = fs::read(disk).unwrap();
    u64::from_le_bytes(sector[..8].try_into().unwrap())
}

/// Waits until the guest has counted beyond `start`.
fn wait_beyond(disk: &Path, start: u64) {
    let begin = Instant::now();
    while count_on(disk) <= start {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "stuck at {start}"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

#[vm_test(kernel = "count")]
fn a_paused_guest_does_nothing_and_then_goes_on(vm: &mut TestVm) {
    let disk = vm.drive("disk", &[0; SECTOR], &json!({}));
    vm.start();
    for _ in 0..5 {
        wait_beyond(&disk, count_on(&disk));
        vm.pause();
        let stopped = count_on(&disk);
        thread::sleep(Duration::from_millis(100));
        assert_eq!(count_on(&disk), stopped, "it counts while it is paused");
        vm.resume();
        wait_beyond(&disk, stopped);
    }
    vm.type_text("q");
    vm.expect_pass();
    assert_eq!(vm.value("count"), count_on(&disk).to_string());
}

#[vm_test(kernel = "count")]
fn what_is_typed_during_a_pause_arrives_after_it(vm: &mut TestVm) {
    vm.drive("disk", &[0; SECTOR], &json!({}));
    vm.start();
    vm.wait_for("counting");
    vm.pause();
    vm.type_text("q");
    thread::sleep(Duration::from_millis(50));
    vm.resume();
    vm.expect_pass();
}

#[vm_test(kernel = "blk_write")]
fn pauses_amid_disk_requests_lose_none(vm: &mut TestVm) {
    let path = vm.drive(
        "disk",
        &vec![0; 16 << 20],
        &json!({ "cache_type": "Writeback" }),
    );
    vm.start();
    for _ in 0..50 {
        vm.pause();
        vm.resume();
    }
    vm.expect_pass();
    assert_eq!(fs::metadata(path).unwrap().len(), 16 << 20);
    assert_eq!(vm.value("flushed"), "yes");
}

#[vm_test(kernel = "net_echo")]
fn pauses_amid_frames_lose_none(vm: &mut TestVm) {
    let (_tap, socket) = boot_echo(vm, &json!({ "guest_mac": "06:00:ac:10:00:04" }));
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    for round in 0..50_u32 {
        // Some before, some during, some after the pause.
        for index in 0..12 {
            match index {
                4 => vm.pause(),
                8 => vm.resume(),
                _ => {}
            }
            socket.send(&(round * 12 + index).to_le_bytes()).unwrap();
        }
        for index in 0..12 {
            let mut received = [0; 4];
            assert_eq!(socket.recv(&mut received).unwrap(), 4);
            assert_eq!(u32::from_le_bytes(received), round * 12 + index);
        }
    }
    socket.send(b"quit").unwrap();
    vm.expect_pass();
}

#[vm_test(kernel = "reset_storm")]
fn pauses_amid_device_resets_come_to_rest(vm: &mut TestVm) {
    vm.machine(2, 128);
    vm.drive("disk", &[0; SECTOR], &json!({}));
    vm.start();
    vm.wait_for("storming");
    for _ in 0..100 {
        vm.pause();
        vm.resume();
    }
    vm.type_text("q");
    vm.expect_pass();
    let resets: u64 = vm.value("resets").parse().unwrap();
    assert!(resets > 0);
}

#[vm_test(kernel = "vcpus")]
fn thirty_two_processors_pause_as_they_come_up(vm: &mut TestVm) {
    vm.machine(32, 128);
    vm.start();
    for _ in 0..10 {
        vm.pause();
        vm.resume();
    }
    vm.expect_pass();
    assert_eq!(vm.value("cpus"), "32");
}

#[vm_test(kernel = "halt")]
fn a_paused_machine_answers_and_ends_when_told(vm: &mut TestVm) {
    vm.machine(32, 128);
    vm.start();
    vm.wait_for("sleeping");
    vm.pause();
    vm.pause();
    let state = vm.request("GET", "/", None).body.unwrap()["state"].clone();
    assert_eq!(state, "Paused");
    vm.resume();
    vm.resume();
}

#[vm_test(kernel = "count")]
fn each_pause_is_logged_as_the_client_and_the_monitor_saw_it(vm: &mut TestVm) {
    vm.drive("disk", &[0; SECTOR], &json!({}));
    vm.start();
    for _ in 0..15 {
        vm.pause();
        vm.resume();
    }
    let count = |log: &str, what: &str| log.matches(what).count();
    let log = vm.log();
    for action in ["pause", "resume"] {
        let seen = count(&log, &format!(":api] '{action} vm' API request took "));
        assert_eq!(seen, 15, "what clients ask is never left out");
        let done = count(&log, &format!(":main] '{action} vm' VMM action took "));
        assert!((10..15).contains(&done), "{done} lines in no time");
    }
    // One more in half a second, and it tells of those that were left out.
    thread::sleep(Duration::from_millis(600));
    vm.pause();
    let log = vm.log();
    let done = count(&log, "'pause vm' VMM action took ");
    let told = log.lines().filter_map(|line| {
        let message = line.split_once(":main] ")?.1;
        let number = message.strip_suffix(" messages were suppressed due to rate limiting")?;
        number.parse::<usize>().ok()
    });
    assert_eq!(told.sum::<usize>() + done, 16, "{log}");
    let took = log
        .lines()
        .rev()
        .find_map(|line| line.split_once(" VMM action took "));
    let took = took.unwrap().1.strip_suffix(" us.").unwrap();
    assert!(took.parse::<u64>().is_ok());
    vm.resume();
    vm.type_text("q");
    vm.expect_pass();
}
