//! Files and names that are not what they should be: each is refused at once, and the monitor goes on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::{Tap, TestVm, guest_kernel, vm_test};
use serde_json::{Value, json};

fn instance_start() -> Value {
    json!({ "action_type": "InstanceStart" })
}

/// Starts with a good kernel, to show that the process took no harm.
fn a_corrected_request_works(vm: &mut TestVm) {
    let boot_source = json!({ "kernel_image_path": guest_kernel("hello") });
    vm.put("/boot-source", &boot_source);
    vm.put("/actions", &instance_start());
    vm.expect_pass();
}

/// A file of `len` bytes that takes no room.
fn sparse(path: PathBuf, start: &[u8], len: u64) -> PathBuf {
    fs::write(&path, start).unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(len)
        .unwrap();
    path
}

/// What a start with this boot source is refused with.
fn refused_start(vm: &mut TestVm, source: &Value) -> String {
    vm.put("/boot-source", source);
    vm.refused("PUT", "/actions", Some(&instance_start()))
}

#[vm_test(kernel = "hello")]
fn a_kernel_that_is_no_regular_file(vm: &mut TestVm) {
    let paths = [
        vm.fifo("fifo"),
        "/dev/zero".into(),
        "/dev/null".into(),
        vm.path(""),
    ];
    for path in paths {
        let why = refused_start(vm, &json!({ "kernel_image_path": path }));
        assert!(why.contains("invalid kernel image"), "{why}");
        assert!(why.contains("check that it is a regular file"), "{why}");
    }
    let socket = vm.path("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let source = json!({ "kernel_image_path": socket });
    let why = vm.refused("PUT", "/boot-source", Some(&source));
    assert!(why.contains("The kernel file cannot be opened"), "{why}");
    a_corrected_request_works(vm);
}

#[vm_test(kernel = "hello")]
fn a_kernel_of_a_tebibyte_of_nothing(vm: &mut TestVm) {
    for start in [&b""[..], b"\x7fELF", b"\x7fELF\x02\x01\x01"] {
        let path = sparse(vm.path("huge"), start, 1 << 40);
        let why = refused_start(vm, &json!({ "kernel_image_path": path }));
        assert!(why.contains("invalid kernel image"), "{why}");
    }
    a_corrected_request_works(vm);
}

/// The 64-bit field at `at` of the ELF file of a good kernel becomes `value`.
fn spoilt(vm: &TestVm, at: usize, value: u64) -> PathBuf {
    let mut bytes = fs::read(guest_kernel("hello64")).unwrap();
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    let path = vm.path("spoilt");
    fs::write(&path, bytes).unwrap();
    path
}

#[vm_test(kernel = "hello")]
fn an_elf_kernel_with_evil_headers(vm: &mut TestVm) {
    const PHOFF: usize = 32;
    const FIRST_HEADER: usize = 64;
    const OFFSET: usize = FIRST_HEADER + 8;
    const PADDR: usize = FIRST_HEADER + 24;
    const FILESZ: usize = FIRST_HEADER + 32;
    const MEMSZ: usize = FIRST_HEADER + 40;
    let fields = [PHOFF, OFFSET, PADDR, FILESZ, MEMSZ];
    for at in fields {
        for value in [u64::MAX, u64::MAX - 0xfff, 1 << 63, 1 << 40] {
            let path = spoilt(vm, at, value);
            let why = refused_start(vm, &json!({ "kernel_image_path": path }));
            assert!(
                why.contains("invalid kernel image"),
                "{at} {value:x}: {why}"
            );
        }
    }
    a_corrected_request_works(vm);
}

#[vm_test(kernel = "hello")]
fn an_initrd_that_is_no_regular_file_or_does_not_fit(vm: &mut TestVm) {
    let empty = vm.path("empty");
    fs::write(&empty, "").unwrap();
    let larger = sparse(vm.path("larger"), b"x", 129 << 20);
    let huge = sparse(vm.path("huge"), b"x", 1 << 42);
    for (path, words) in [
        (vm.fifo("fifo"), "check that it is a regular file"),
        ("/dev/zero".into(), "check that it is a regular file"),
        (vm.path(""), "check that it is a regular file"),
        (empty, "the initrd is empty"),
        (larger, "MiB more memory or make the initrd smaller"),
        (huge, "MiB more memory or make the initrd smaller"),
    ] {
        let source = json!({ "kernel_image_path": guest_kernel("hello"), "initrd_path": path });
        let why = refused_start(vm, &source);
        assert!(why.contains(words), "{path:?}: {why}");
    }
    a_corrected_request_works(vm);
}

fn drive(path: &Path) -> Value {
    json!({ "drive_id": "disk", "path_on_host": path, "is_root_device": false })
}

#[vm_test(kernel = "hello")]
fn a_drive_that_is_no_disk(vm: &mut TestVm) {
    let socket = vm.path("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let neither = "neither a regular file nor a block device";
    for (path, words) in [
        (vm.fifo("fifo"), neither),
        ("/dev/null".into(), neither),
        ("/dev/zero".into(), neither),
        (vm.path(""), "Is a directory (os error 21)"),
        (socket, "No such device or address (os error 6)"),
        (
            "/dev/mapper/cloister-none".into(),
            "No such file or directory (os error 2)",
        ),
        ("".into(), "No such file or directory (os error 2)"),
    ] {
        for is_read_only in [false, true] {
            let mut body = drive(&path);
            body["is_read_only"] = is_read_only.into();
            let why = vm.refused("PUT", "/drives/disk", Some(&body));
            assert!(
                why.contains("Unable to create the virtio block device"),
                "{why}"
            );
            assert!(why.contains(words), "{path:?}: {why}");
        }
    }
    a_corrected_request_works(vm);
}

#[test]
fn a_file_that_cannot_be_written_serves_as_a_read_only_drive() {
    // Not as root, who may write anything.
    let mut program = Command::new("sh");
    let script = "chmod 0755 \"$(dirname \"$2\")\"; chown 65534 \"$(dirname \"$2\")\"; \
                  exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$0\" \"$@\"";
    program.args(["-c", script]).arg(integration::monitor());
    let mut vm = TestVm::with_program("unwritable", program);
    let path = vm.path("disk");
    fs::write(&path, [0; 512]).unwrap();
    let mut body = drive(&path);
    let why = vm.refused("PUT", "/drives/disk", Some(&body));
    assert!(why.contains("Permission denied (os error 13)"), "{why}");
    assert!(why.contains("set `is_read_only`"), "{why}");
    body["is_read_only"] = true.into();
    vm.put("/drives/disk", &body);
}

#[vm_test(kernel = "hello")]
fn a_tap_name_that_no_interface_can_have(vm: &mut TestVm) {
    let long = "sixteen-bytes-ok";
    for name in [
        "", ".", "..", "a/b", "../lo", "a:1", "a b", "a\nb", "tap%d", "a\u{0}b", long,
    ] {
        let body = json!({ "iface_id": "eth0", "host_dev_name": name });
        let why = vm.refused("PUT", "/network-interfaces/eth0", Some(&body));
        assert!(why.contains("Invalid interface name"), "{name:?}: {why}");
        assert!(why.contains("use 1 to 15 bytes"), "{name:?}: {why}");
    }
    let tap = Tap::new();
    vm.put(
        "/network-interfaces/eth0",
        &json!({ "iface_id": "eth0", "host_dev_name": tap.name() }),
    );
    a_corrected_request_works(vm);
}

#[vm_test(kernel = "hello")]
fn an_interface_that_is_no_tap(vm: &mut TestVm) {
    let body = json!({ "iface_id": "eth0", "host_dev_name": "lo" });
    let why = vm.refused("PUT", "/network-interfaces/eth0", Some(&body));
    assert!(why.contains("Could not create the network device"), "{why}");
    assert!(
        why.contains("lo exists and is no single-queue tap"),
        "{why}"
    );
    a_corrected_request_works(vm);
}
