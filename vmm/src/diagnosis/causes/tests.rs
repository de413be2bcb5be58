use std::time::Duration;

use devices::tail::Written;
use devices::virtio::VIRTIO_ID_BLOCK;
use devices::virtio::transport::Progress;
use vm_config::DeviceTransport;

use super::*;
use crate::ExitReason;
use crate::diagnosis::facts::DeviceFacts;

/// A guest that ran for a second, wrote `text`, and has nothing else.
fn guest(text: &str) -> Facts {
    Facts {
        phase: Phase::Running,
        uptime: Some(Duration::from_secs(1)),
        end: None,
        start_failure: None,
        has_panicked: false,
        missing: Vec::new(),
        transport: DeviceTransport::Mmio,
        kernel: None,
        has_initrd: false,
        mem_size_mib: 128,
        command_line: Some("console=ttyS0 root=/dev/vda".to_owned()),
        vcpus: Vec::new(),
        devices: Vec::new(),
        serial: written(text),
        console: None,
    }
}

fn written(text: &str) -> Written {
    Written {
        tail: text.as_bytes().to_vec(),
        count: text.len() as u64,
    }
}

fn disk(status: u32) -> DeviceFacts {
    DeviceFacts {
        id: "rootfs".to_owned(),
        device_type: VIRTIO_ID_BLOCK,
        place: "MMIO 0xd0000000".to_owned(),
        progress: Progress {
            status,
            queues: 1,
            ready_queues: 0,
        },
    }
}

const DRIVER_OK: u32 = 0xf;

fn codes(facts: &Facts) -> Vec<CauseCode> {
    find(facts, None).iter().map(|cause| cause.code).collect()
}

fn first(facts: &Facts) -> Cause {
    find(facts, None)
        .into_iter()
        .next()
        .expect("there is a cause")
}

#[test]
fn lines_of_linux_name_their_cause() {
    let cases = [
        (
            "VFS: Cannot open root device \"vda1\" or unknown-block(0,0): error -6\nKernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
            CauseCode::NoRootDevice,
        ),
        (
            "ALERT!  /dev/vdb does not exist.  Dropping to a shell!",
            CauseCode::NoRootDevice,
        ),
        (
            "[    9.1] Waiting for root device /dev/vda9...",
            CauseCode::NoRootDevice,
        ),
        (
            "Kernel panic - not syncing: Requested init /nope failed (error -2).",
            CauseCode::WrongInit,
        ),
        ("Failed to execute /init (error -8)", CauseCode::WrongInit),
        (
            "Kernel panic - not syncing: No working init found.  Try passing init= option to kernel.",
            CauseCode::WrongInit,
        ),
        (
            "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
            CauseCode::InitDied,
        ),
        (
            "This kernel requires the following features not present on the CPU:\nla57",
            CauseCode::MissingCpuFeature,
        ),
        (
            "invalid opcode: 0000 [#1] SMP",
            CauseCode::MissingCpuFeature,
        ),
        (
            "Kernel panic - not syncing: System is deadlocked on memory",
            CauseCode::OutOfMemory,
        ),
        (
            "Initramfs unpacking failed: junk in compressed archive",
            CauseCode::DamagedInitrd,
        ),
        (
            "Kernel panic - not syncing: something new",
            CauseCode::KernelPanic,
        ),
        (
            "BUG: kernel NULL pointer dereference, address: 0",
            CauseCode::KernelOops,
        ),
        (
            "Kernel panic - not syncing: IO-APIC + timer doesn't work!",
            CauseCode::NoInterrupts,
        ),
        (
            "Kernel panic - not syncing: No filesystem could mount root, tried: ext4",
            CauseCode::BadRootFilesystem,
        ),
    ];
    for (text, code) in cases {
        let mut facts = guest(text);
        facts.devices = vec![disk(DRIVER_OK)];
        let cause = first(&facts);
        assert_eq!(cause.code, code, "{text}");
        let from_guest = &cause.evidence[0];
        assert_eq!(from_guest.source, Source::Guest);
        assert!(
            from_guest.text.starts_with("serial: "),
            "{}",
            from_guest.text
        );
    }
}

#[test]
fn what_is_said_in_passing_is_no_cause() {
    let text =
        "Waiting for root device /dev/vda...\nEXT4-fs (vda): mounted\nRun /sbin/init\nlogin:";
    assert_eq!(codes(&guest(text)), []);
    assert_eq!(codes(&guest("hello\n")), []);
}

#[test]
fn a_console_of_its_own_is_read_too() {
    let mut facts = guest("");
    facts.console = Some(written("Kernel panic - not syncing: x"));
    assert!(first(&facts).evidence[0].text.starts_with("console: "));
}

#[test]
fn a_lost_root_on_a_disk_that_nobody_drives_is_a_missing_driver() {
    let mut facts = guest("VFS: Unable to mount root fs on unknown-block(0,0)");
    facts.devices = vec![disk(0)];
    assert_eq!(
        codes(&facts),
        [CauseCode::NoVirtioDriver, CauseCode::NoRootDevice]
    );
    assert!(first(&facts).remedy.contains("CONFIG_VIRTIO_MMIO"));
    facts.devices = vec![disk(1)];
    assert!(first(&facts).remedy.contains("virtio_mmio works"));
    facts.devices = vec![disk(DRIVER_OK)];
    assert_eq!(codes(&facts), [CauseCode::NoRootDevice]);
    facts.devices.clear();
    assert!(first(&facts).remedy.contains("no drive is configured"));
}

#[test]
fn pci_off_hides_devices_on_pci_until_one_is_found() {
    let mut facts = guest("hello");
    facts.command_line = Some("console=ttyS0 pci=off".to_owned());
    facts.devices = vec![disk(0)];
    assert_eq!(codes(&facts), []);
    facts.transport = DeviceTransport::Pci;
    assert_eq!(codes(&facts), [CauseCode::DevicesHidden]);
    facts.devices = vec![disk(3)];
    assert_eq!(codes(&facts), []);
}

#[test]
fn an_end_without_a_word_is_certain_and_says_so() {
    let mut facts = guest("");
    facts.phase = Phase::Ended;
    facts.end = Some(ExitReason::TripleFault { vcpu: 0 });
    let cause = first(&facts);
    assert_eq!(
        (cause.code, cause.confidence),
        (CauseCode::TripleFault, Confidence::Certain)
    );
    assert!(cause.remedy.contains("earlyprintk"));
    facts.end = Some(ExitReason::Reset);
    facts.devices = vec![disk(0)];
    assert_eq!(codes(&facts), [CauseCode::EarlyReset]);
}

#[test]
fn silence_is_a_cause_only_after_a_while_or_when_the_kernel_is_up() {
    let mut facts = guest("");
    assert_eq!(codes(&facts), []);
    facts.uptime = Some(SIGN_OF_LIFE);
    assert_eq!(codes(&facts), [CauseCode::Silent]);
    facts.command_line = Some("root=/dev/vda".to_owned());
    assert_eq!(codes(&facts), [CauseCode::NoConsole]);
    facts.uptime = Some(Duration::from_secs(1));
    facts.devices = vec![disk(DRIVER_OK)];
    assert_eq!(first(&facts).confidence, Confidence::Likely);
}

#[test]
fn a_panic_that_only_pvpanic_tells_is_one() {
    let mut facts = guest("");
    facts.has_panicked = true;
    assert_eq!(codes(&facts), [CauseCode::KernelPanic]);
}

#[test]
fn what_a_start_lacks_and_why_it_failed_is_told() {
    let mut facts = guest("");
    facts.phase = Phase::NotStarted;
    assert_eq!(codes(&facts), []);
    facts.missing = vec!["what to boot".to_owned()];
    assert_eq!(codes(&facts), [CauseCode::NotConfigured]);
    let kernel = KernelError::BzImage(BzImageError::NotAKernel { start: Vec::new() });
    assert_eq!(
        code_of(&StartError::Kernel(kernel)),
        CauseCode::WrongKernelFormat
    );
    let initrd = InitrdError::DoesNotFit {
        len: 1,
        kernel_end: 1,
        limit: 1,
        short: 1,
    };
    assert_eq!(code_of(&StartError::Initrd(initrd)), CauseCode::OutOfMemory);
    // That a template asks for too much says nothing of /dev/kvm.
    let lacking = KvmError::MissingCapability {
        number: 136,
        name: "asked for by the CPU template",
    };
    assert_eq!(code_of(&StartError::Kvm(lacking)), CauseCode::StartFailed);
}

#[test]
fn a_hostile_guest_fills_neither_evidence_nor_text() {
    let line = format!(
        "\u{1b}]0;x\u{7}Kernel panic - not syncing: {}\n",
        "A".repeat(6000)
    );
    let mut facts = guest(&line.repeat(3));
    facts.command_line = Some("x".repeat(2000));
    let diagnosis = facts.diagnose(None);
    assert!(diagnosis.causes[0].evidence[0].text.len() < 300);
    assert!(diagnosis.text.lines().count() <= 150);
    assert!(
        diagnosis
            .text
            .lines()
            .all(|line| line.chars().count() <= 243)
    );
    assert!(!diagnosis.text.contains('\u{1b}'));
}
