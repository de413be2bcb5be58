//! A guest says that it has booted.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::thread;
use std::time::{Duration, Instant};

use integration::{TestVm, vm_test};

const KERNEL: &str = "boot_timer";
const WORDS: &str = "Guest-boot-time = ";
/// How long the guest is left alone before it says so.
const WAIT: Duration = Duration::from_millis(200);

/// Boots, and gives the time from before the start was asked for to after the guest had said so.
fn boot(vm: &mut TestVm) -> Duration {
    let before = Instant::now();
    vm.start();
    vm.wait_for("quiet");
    thread::sleep(WAIT);
    assert!(!vm.log().contains(WORDS), "{}", vm.log());
    vm.type_text("x");
    vm.wait_for("told");
    let took = before.elapsed();
    vm.expect_pass();
    took
}

/// The four numbers of the one line.
fn told(log: &str) -> [u128; 4] {
    let lines: Vec<_> = log.lines().filter(|line| line.contains(WORDS)).collect();
    let [line] = lines[..] else {
        panic!("{lines:?}");
    };
    let (head, told) = line.split_once(WORDS).unwrap();
    assert!(head.contains(":vcpu/0] "), "{line}");
    let words: Vec<_> = told.split_whitespace().collect();
    let [
        us,
        "us",
        ms,
        "ms,",
        cpu_us,
        "CPU",
        "us",
        cpu_ms,
        "CPU",
        "ms",
    ] = words[..]
    else {
        panic!("{line}");
    };
    [us, ms, cpu_us, cpu_ms].map(|number| number.parse().unwrap())
}

fn the_time_since_the_start_is_told_once(vm: &mut TestVm) {
    let process_began = Instant::now();
    thread::sleep(WAIT);
    let took = boot(vm);
    let [us, ms, cpu_us, cpu_ms] = told(&vm.log());
    assert_eq!([us / 1000, cpu_us / 1000], [ms, cpu_ms]);
    assert!((WAIT.as_micros()..=took.as_micros()).contains(&us), "{us}");
    let longest = process_began.elapsed().as_micros();
    assert!((1..=longest * 3).contains(&cpu_us), "{cpu_us} of {longest}");
}

#[test]
fn the_time_is_told() {
    let test = the_time_since_the_start_is_told_once;
    integration::run("boot-timer", KERNEL, &["--boot-timer"], test);
}

#[test]
fn the_time_is_told_on_pci() {
    let test = the_time_since_the_start_is_told_once;
    let arguments = ["--boot-timer", "--enable-pci"];
    integration::run("boot-timer-pci", KERNEL, &arguments, test);
}

#[vm_test(kernel = "boot_timer", mmio, pci)]
fn nobody_listens_unless_asked_to(vm: &mut TestVm) {
    boot(vm);
    assert!(!vm.log().contains(WORDS), "{}", vm.log());
}
