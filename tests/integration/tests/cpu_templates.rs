//! CPU templates: the guest sees them, on every vCPU, and one that does not fit is told by what does not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;

use integration::{TestVm, guest_kernel, vm_test};
use serde_json::{Value, json};

/// Place of a register in what the kernel prints.
const ECX: usize = 2;
/// `CMPXCHG16B`, in leaf 1: every processor that KVM runs on has it. Not one of the instructions that KVM without
/// hardware virtualization shows whatever it is told, as it cannot hide them.
const CX16: u64 = 1 << 13;
/// The revision of the microcode, which KVM keeps for the guest.
const MSR_UCODE_REV: &str = "0x8b";

fn start_action() -> Value {
    json!({ "action_type": "InstanceStart" })
}

/// What each of the machine's processors answers.
fn look(vm: &mut TestVm, count: usize) -> Vec<[u64; 5]> {
    vm.boot("boot_args", format!("leaf=1 msr={MSR_UCODE_REV}"));
    vm.start();
    vm.expect_pass();
    seen(vm, count)
}

fn seen(vm: &TestVm, count: usize) -> Vec<[u64; 5]> {
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    (0..count)
        .map(|index| {
            let line = vm.value(&format!("cpu{index}"));
            let numbers: Vec<u64> = line.split(' ').map(number).collect();
            numbers.try_into().unwrap()
        })
        .collect()
}

/// Hides CX16 and makes up a revision.
fn template() -> Value {
    json!({
        "cpuid_modifiers": [{ "leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": [
            { "register": "ecx", "bitmap": "0b0x_xxxx_xxxx_xxxx" },
        ]}],
        "msr_modifiers": [{ "addr": MSR_UCODE_REV, "bitmap": "0b1010_0101" }],
    })
}

#[vm_test(kernel = "processor")]
fn without_a_template_there_is_what_kvm_offers(vm: &mut TestVm) {
    for cpu in look(vm, 1) {
        assert_eq!(cpu[ECX] & CX16, CX16, "{cpu:x?}");
    }
}

#[vm_test(kernel = "processor")]
fn every_vcpu_sees_the_template(vm: &mut TestVm) {
    vm.machine(3, 128);
    vm.put("/cpu-config", &template());
    let all = look(vm, 3);
    for cpu in &all {
        assert_eq!(cpu[ECX] & CX16, 0, "{cpu:x?}");
        assert_eq!(cpu[4] & 0xff, 0b1010_0101, "{cpu:x?}");
    }
}

#[vm_test(kernel = "processor")]
fn the_template_of_the_documentation_fits(vm: &mut TestVm) {
    let page = include_str!("../../../docs/cpu-templates.md");
    let (_, rest) = page.split_once("```json\n").unwrap();
    let (template, _) = rest.split_once("```").unwrap();
    let template: Value = serde_json::from_str(template).unwrap();
    vm.put("/cpu-config", &template);
    look(vm, 1);
}

#[vm_test(kernel = "processor")]
fn an_empty_template_takes_the_one_before_away(vm: &mut TestVm) {
    vm.put("/cpu-config", &template());
    vm.put("/cpu-config", &json!({}));
    assert_eq!(look(vm, 1)[0][ECX] & CX16, CX16);
}

#[vm_test(kernel = "processor")]
fn what_does_not_fit_is_named_and_the_start_can_be_repeated(vm: &mut TestVm) {
    let kernel = guest_kernel("processor");
    let source = json!({ "kernel_image_path": kernel, "boot_args": "leaf=1" });
    vm.put("/boot-source", &source);
    let cpuid = |leaf: &str, subleaf: &str| {
        let entry = json!({ "leaf": leaf, "subleaf": subleaf, "flags": 0, "modifiers": [] });
        json!({ "cpuid_modifiers": [entry] })
    };
    let msr = |addr: &str| json!({ "msr_modifiers": [{ "addr": addr, "bitmap": "0b1" }] });
    let config = "Start microvm error: System configuration error: Failed to create guest config: ";
    let no_leaf = "Template changes a CPUID entry not supported by KVM: Leaf: ";
    let no_msr = "Template changes an MSR entry not supported by KVM: Register Address: ";
    for (template, why) in [
        (
            cpuid("0x12345678", "0x0"),
            format!("{config}{no_leaf}12345678, Subleaf: 0"),
        ),
        (
            cpuid("0x7", "0xfe"),
            format!("{config}{no_leaf}7, Subleaf: fe"),
        ),
        (msr("0xabcd1234"), format!("{config}{no_msr}abcd1234")),
        (
            json!({ "kvm_capabilities": ["4000000000"] }),
            "Start microvm error: Kvm error: Missing KVM capabilities: 0xee6b2800".to_owned(),
        ),
    ] {
        vm.put("/cpu-config", &template);
        let refused = vm.refused("PUT", "/actions", Some(&start_action()));
        assert!(refused.starts_with(&why), "{template}: {refused}");
    }
    vm.put(
        "/cpu-config",
        &json!({ "kvm_capabilities": ["3", "!4000000000"] }),
    );
    vm.put("/actions", &start_action());
    vm.expect_pass();
    assert_eq!(seen(vm, 1)[0][ECX] & CX16, CX16);
}

/// The processors that `T2A` is for: family 0x19, model 1, stepping 1.
fn is_milan() -> bool {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap();
    [
        "vendor_id\t: AuthenticAMD",
        "cpu family\t: 25",
        "model\t\t: 1",
        "stepping\t: 1",
    ]
    .iter()
    .all(|line| info.lines().any(|found| found == *line))
}

#[vm_test(kernel = "processor")]
fn a_named_template_is_for_its_processors(vm: &mut TestVm) {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap();
    let (other, own) = if info.contains("GenuineIntel") {
        ("T2A", "T2")
    } else {
        ("T2", "T2A")
    };
    let kernel = guest_kernel("processor");
    let source = json!({ "kernel_image_path": kernel, "boot_args": "leaf=1" });
    vm.put("/boot-source", &source);
    let named = |name: &str| json!({ "vcpu_count": 1, "mem_size_mib": 128, "cpu_template": name });
    vm.put("/machine-config", &named(other));
    let shown = vm.request("GET", "/machine-config", None).body.unwrap();
    assert_eq!(shown["cpu_template"], other);
    let refused = vm.refused("PUT", "/actions", Some(&start_action()));
    let why = "Start microvm error: Failed to get CPU template: CPU vendor mismatched between actual CPU and CPU template.";
    assert!(refused.starts_with(why), "{refused}");

    vm.put("/machine-config", &named(own));
    if own == "T2A" && !is_milan() {
        let refused = vm.refused("PUT", "/actions", Some(&start_action()));
        let why = "Start microvm error: Failed to get CPU template: The current CPU model is not permitted to apply the CPU template.";
        assert!(refused.starts_with(why), "{refused}");
        vm.put("/machine-config", &named("None"));
        let shown = vm.request("GET", "/machine-config", None).body.unwrap();
        assert!(shown.get("cpu_template").is_none(), "{shown}");
    }
    let starts = vm.request("PUT", "/actions", Some(&start_action()));
    if own == "T2A" {
        assert_eq!(starts.status, 204, "{:?}", starts.body);
        vm.expect_pass();
        let signature = seen(vm, 1)[0][0];
        let is_haswell = signature & 0x0fff_3fff == 0x3_06f2;
        assert_eq!(is_haswell, is_milan(), "{signature:#x}");
    }
}

#[test]
fn a_configuration_file_holds_a_template_or_names_its_file() {
    let folder = tempfile::TempDir::new().unwrap();
    let template_file = folder.path().join("template.json");
    fs::write(&template_file, template().to_string()).unwrap();
    for cpu_config in [template(), json!(template_file)] {
        let config = json!({
            "boot-source": {
                "kernel_image_path": guest_kernel("processor"),
                "boot_args": format!("leaf=1 msr={MSR_UCODE_REV}"),
            },
            "drives": [],
            "cpu-config": cpu_config,
        });
        let file = folder.path().join("vm.json");
        fs::write(&file, config.to_string()).unwrap();
        let mut vm = TestVm::with_arguments("template", &["--config-file", file.to_str().unwrap()]);
        vm.expect_pass();
        let cpu = seen(&vm, 1)[0];
        assert_eq!(
            (cpu[ECX] & CX16, cpu[4] & 0xff),
            (0, 0b1010_0101),
            "{cpu:x?}"
        );
    }
}

/// What the monitor prints, and whether it succeeds.
fn printed(arguments: &[&str]) -> (bool, String) {
    let output = std::process::Command::new(integration::monitor())
        .arg("--print-cpu-template")
        .args(arguments)
        .output()
        .unwrap();
    let text = if output.status.success() {
        output.stdout
    } else {
        output.stderr
    };
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// Leaf 1 ecx of a dump, its bits as text.
fn leaf_1_ecx(dump: &str) -> String {
    let dump: Value = serde_json::from_str(dump).unwrap();
    let entries = dump["cpuid_modifiers"].as_array().unwrap();
    let leaf_1 = entries.iter().find(|entry| entry["leaf"] == "0x1").unwrap();
    let registers = leaf_1["modifiers"].as_array().unwrap();
    let ecx = registers
        .iter()
        .find(|register| register["register"] == "ecx");
    let bits = ecx.unwrap()["bitmap"].as_str().unwrap();
    bits.strip_prefix("0b").unwrap().to_owned()
}

#[test]
fn the_monitor_prints_what_a_guest_finds_and_takes_it_as_a_template() {
    let folder = tempfile::TempDir::new().unwrap();
    let cx16 = 31 - CX16.trailing_zeros() as usize;
    let (is_done, plain) = printed(&[]);
    assert!(is_done, "{plain}");
    assert_eq!(leaf_1_ecx(&plain).len(), 32);
    assert_eq!(&leaf_1_ecx(&plain)[cx16..=cx16], "1");

    let file = folder.path().join("template.json");
    fs::write(&file, template().to_string()).unwrap();
    let (is_done, changed) = printed(&["--cpu-template", file.to_str().unwrap()]);
    assert!(is_done, "{changed}");
    assert_eq!(&leaf_1_ecx(&changed)[cx16..=cx16], "0");

    fs::write(&file, &changed).unwrap();
    let config = json!({
        "boot-source": { "kernel_image_path": guest_kernel("processor"), "boot_args": "leaf=1" },
        "drives": [],
        "cpu-config": file,
    });
    let machine = folder.path().join("vm.json");
    fs::write(&machine, config.to_string()).unwrap();
    let mut vm = TestVm::with_arguments("dump", &["--config-file", machine.to_str().unwrap()]);
    vm.expect_pass();
    assert_eq!(seen(&vm, 1)[0][ECX] & CX16, 0);
}

#[test]
fn a_template_that_cannot_be_printed_says_why() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("template.json");
    let entry = json!({ "leaf": "0x12345678", "subleaf": "0x0", "flags": 0, "modifiers": [] });
    fs::write(&file, json!({ "cpuid_modifiers": [entry] }).to_string()).unwrap();
    for (applied, expected) in [
        (
            file.to_str().unwrap(),
            "not supported by KVM: Leaf: 12345678, Subleaf: 0",
        ),
        ("/nonexistent", "No such file or directory"),
    ] {
        let (is_done, why) = printed(&["--cpu-template", applied]);
        assert!(!is_done && why.contains(expected), "{applied}: {why}");
    }
}
