//! A host without what a microVM needs: the message says what is wrong, and a host put right is enough.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::Command;

use integration::{TestVm, guest_kernel, monitor, vm_test};
use serde_json::{Value, json};

fn instance_start() -> Value {
    json!({ "action_type": "InstanceStart" })
}

/// A monitor with a `/dev` of its own, in which `set_up` has run; `become` is the command that becomes it.
fn with_own_dev(name: &str, set_up: &str, r#become: &str) -> TestVm {
    let script = format!(
        "set -e; mount -t tmpfs -o mode=0755 none /dev; mknod -m 666 /dev/null c 1 3; {set_up}; \
         exec {become} \"$0\" \"$@\"",
        become = r#become
    );
    let mut program = Command::new("unshare");
    program
        .args(["--mount", "sh", "-c", &script])
        .arg(monitor());
    TestVm::with_program(name, program)
}

/// Runs `script` where the monitor sees the result.
fn put_right(vm: &TestVm, script: &str) {
    let pid = vm.pid().to_string();
    let mut program = Command::new("nsenter");
    program.args(["--target", &pid, "--mount", "sh", "-c", script]);
    assert!(program.status().unwrap().success());
}

/// Refused with all of `words`; after `script` put things right, the same request boots the guest.
fn refused_until(vm: &mut TestVm, words: &[&str], script: &str) {
    vm.put(
        "/boot-source",
        &json!({ "kernel_image_path": guest_kernel("hello") }),
    );
    for _ in 0..2 {
        let why = vm.refused("PUT", "/actions", Some(&instance_start()));
        for word in words {
            assert!(why.contains(word), "{why}");
        }
    }
    let state = vm.request("GET", "/", None).body.unwrap()["state"].clone();
    assert_eq!(state, "Not started");
    put_right(vm, script);
    vm.put("/actions", &instance_start());
    vm.expect_pass();
}

#[test]
fn a_host_without_kvm_says_so_and_boots_once_it_has_it() {
    let mut vm = with_own_dev("no-kvm", "true", "");
    let words =
        ["Start microvm error: Kvm error: cannot open /dev/kvm: it does not exist; load the"];
    refused_until(&mut vm, &words, "mknod /dev/kvm c 10 232");
}

#[test]
fn a_user_who_may_not_use_kvm_is_told_and_boots_once_permitted() {
    let set_up = "mknod -m 600 /dev/kvm c 10 232; chown 65534 \"$(dirname \"$2\")\"";
    let user = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    let mut vm = with_own_dev("forbidden-kvm", set_up, user);
    let words =
        ["cannot open /dev/kvm: this process (uid 65534) may not; add its user to the group"];
    refused_until(&mut vm, &words, "chown 65534 /dev/kvm");
}

#[vm_test(kernel = "vcpus")]
fn smt_with_two_processors_boots(vm: &mut TestVm) {
    let machine = json!({ "vcpu_count": 2, "mem_size_mib": 128, "smt": true });
    vm.put("/machine-config", &machine);
    vm.start();
    vm.expect_pass();
    assert_eq!(vm.value("cpus"), "2");
    let output = vm.output();
    assert!(
        output.contains(" leafb_smt=1/2 "),
        "two threads on one core: {output}"
    );
}

#[vm_test(kernel = "memory_map")]
fn transparent_huge_pages_boot(vm: &mut TestVm) {
    let machine = json!({ "vcpu_count": 1, "mem_size_mib": 128, "huge_pages": "Transparent" });
    vm.put("/machine-config", &machine);
    vm.start();
    vm.expect_pass();
}

const POOL: &str = "/proc/sys/vm/nr_hugepages";

fn pool() -> u64 {
    std::fs::read_to_string(POOL)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

/// Gives back what it took when it goes.
struct Pool(u64);

impl Drop for Pool {
    fn drop(&mut self) {
        std::fs::write(POOL, self.0.to_string()).unwrap();
    }
}

#[vm_test(kernel = "memory_map")]
fn huge_pages_need_a_pool_and_boot_once_there_is_one(vm: &mut TestVm) {
    // The one test that uses the pool, so no other sees the change.
    let before = Pool(pool());
    let mem_size_mib = (before.0 + 16) * 2;
    let machine = json!({ "vcpu_count": 1, "mem_size_mib": mem_size_mib, "huge_pages": "2M" });
    vm.put("/machine-config", &machine);
    vm.put(
        "/boot-source",
        &json!({ "kernel_image_path": guest_kernel("memory_map") }),
    );
    let why = vm.refused("PUT", "/actions", Some(&instance_start()));
    assert!(
        why.contains("from 2 MiB pages; raise /proc/sys/vm/nr_hugepages"),
        "{why}"
    );
    let wanted = before.0 + 16;
    let is_granted = std::fs::write(POOL, wanted.to_string()).is_ok() && pool() == wanted;
    if !is_granted {
        eprintln!(
            "half of it skipped: this host gives no huge pages; runs where {POOL} can be raised"
        );
        return;
    }
    vm.put("/actions", &instance_start());
    vm.expect_pass();
}
