//! Drives that share a base and keep what they write to themselves.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on has failed; patterns wrap"
)]

use std::fs;
use std::path::Path;
use std::process::Command;

use integration::{TestVm, fnv1a64, guest_kernel, vm_test};
use serde_json::{Value, json};

const SECTOR: usize = 512;
const SECTORS: usize = 2051;

fn content() -> Vec<u8> {
    (0..SECTORS * SECTOR)
        .map(|i| ((i / SECTOR * 31) ^ (i * 7)) as u8)
        .collect()
}

/// The pattern that `blk_write` makes from its seed.
fn pattern(seed: u64) -> Vec<u8> {
    (0..(SECTORS * SECTOR / 8) as u64)
        .flat_map(|n| {
            let x = seed.wrapping_add(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (x ^ (x >> 32)).to_le_bytes()
        })
        .collect()
}

/// A microVM with `kernel`, and nothing else yet.
fn another(name: &str, kernel: &str) -> TestVm {
    let mut vm = TestVm::new(name);
    vm.boot("kernel_image_path", guest_kernel(kernel).to_str().unwrap());
    vm
}

fn put_overlay(vm: &mut TestVm, base: &Path, overlay: &Path, options: &Value) {
    let mut drive = json!({
        "drive_id": "disk", "is_root_device": false, "path_on_host": base, "overlay_path": overlay,
    });
    for (key, value) in options.as_object().into_iter().flatten() {
        drive[key] = value.clone();
    }
    vm.put("/drives/disk", &drive);
}

#[vm_test(kernel = "blk_write", mmio, pci)]
fn drives_on_one_base_keep_their_writes_and_the_base_stays(vm: &mut TestVm) {
    let base = vm.path("base");
    fs::write(&base, content()).unwrap();
    let overlays = ["first", "second"].map(|name| vm.path(name));
    let mut other = another("other", "blk_write");
    for (options, vm, overlay) in [
        (json!({ "cache_type": "Writeback" }), &mut *vm, &overlays[0]),
        (json!({ "io_engine": "Async" }), &mut other, &overlays[1]),
    ] {
        put_overlay(vm, &base, overlay, &options);
    }
    vm.boot("boot_args", "seed=1");
    other.boot("boot_args", "seed=2");
    vm.start();
    other.start();
    vm.expect_pass();
    other.expect_pass();
    assert!(fs::read(&base).unwrap() == content(), "the base changed");
    for (seed, overlay) in (1..).zip(&overlays) {
        let mut reader = another("reader", "blk_readback");
        put_overlay(&mut reader, &base, overlay, &json!({}));
        reader.start();
        reader.expect_pass();
        assert_eq!(reader.value("disk_fnv1a64"), fnv1a64(&pattern(seed)));
    }
    let fresh = vm.path("fresh");
    let mut reader = another("reader", "blk_readback");
    put_overlay(&mut reader, &base, &fresh, &json!({}));
    reader.start();
    reader.expect_pass();
    assert_eq!(reader.value("disk_fnv1a64"), fnv1a64(&content()));
}

#[vm_test(kernel = "blk_commit", mmio, pci)]
fn what_was_acknowledged_outlives_a_killed_monitor(vm: &mut TestVm) {
    let base = vm.path("base");
    fs::write(&base, content()).unwrap();
    for (engine, cache) in [
        ("Sync", "Writeback"),
        ("Async", "Writeback"),
        ("Sync", "Unsafe"),
        ("Async", "Unsafe"),
    ] {
        let overlay = vm.path(&format!("{engine}{cache}"));
        let options = json!({ "io_engine": engine, "cache_type": cache });
        let kept = {
            let mut writer = another("writer", "blk_commit");
            put_overlay(&mut writer, &base, &overlay, &options);
            writer.start();
            writer.wait_for("kept=40");
            let pid = writer.pid().to_string();
            let killed = Command::new("kill").args(["-9", &pid]).status();
            assert!(killed.unwrap().success());
            let said = writer.output();
            let counts = said.lines().filter_map(|line| line.strip_prefix("kept="));
            counts
                .filter_map(|count| count.parse::<u64>().ok())
                .max()
                .unwrap()
        };
        let mut reader = another("reader", "blk_commit");
        put_overlay(&mut reader, &base, &overlay, &options);
        reader.boot("boot_args", format!("verify={kept}"));
        reader.start();
        reader.expect_pass();
        assert_eq!(reader.value("verified"), kept.to_string());
    }
    assert!(fs::read(&base).unwrap() == content(), "the base changed");
}

#[vm_test(kernel = "blk_trim", mmio, pci)]
fn what_the_guest_discards_is_zero_above_a_base_that_is_not(vm: &mut TestVm) {
    let base = vm.path("base");
    let bytes = vec![0xa5; 16 << 20];
    fs::write(&base, &bytes).unwrap();
    let overlay = vm.path("overlay");
    put_overlay(vm, &base, &overlay, &json!({}));
    vm.start();
    vm.expect_pass();
    assert!(fs::read(&base).unwrap() == bytes, "the base changed");
}

#[vm_test(kernel = "blk_resize", mmio, pci)]
fn a_running_drive_gets_another_overlay(vm: &mut TestVm) {
    let base = vm.path("base");
    fs::write(&base, &content()[..4 * SECTOR]).unwrap();
    let overlay = vm.path("overlay");
    put_overlay(vm, &base, &overlay, &json!({}));
    // What is put again replaces what was there, overlay and all.
    put_overlay(vm, &base, &overlay, &json!({}));
    vm.start();
    vm.wait_for("ready");
    let told = |vm: &mut TestVm| {
        let config = vm.request("GET", "/vm/config", None).body.unwrap();
        config["drives"][0]["overlay_path"].clone()
    };
    assert_eq!(told(vm), json!(overlay));
    let second = vm.path("second");
    fs::write(&second, content()).unwrap();
    let alone = json!({ "drive_id": "disk", "path_on_host": second });
    let why = vm.refused("PATCH", "/drives/disk", Some(&alone));
    assert!(why.contains("give a new `overlay_path`"), "{why}");
    let mut both = json!({ "drive_id": "disk", "path_on_host": second, "overlay_path": overlay });
    let why = vm.refused("PATCH", "/drives/disk", Some(&both));
    assert!(why.contains("in use"), "{why}");
    let new = vm.path("new");
    both["overlay_path"] = json!(new);
    let answer = vm.request("PATCH", "/drives/disk", Some(&both));
    assert_eq!(answer.status, 204, "{:?}", answer.body);
    assert_eq!(told(vm), json!(new));
    vm.expect_pass();
    assert_eq!(vm.value("disk_fnv1a64"), fnv1a64(&content()));
}

#[vm_test(kernel = "hello")]
fn an_overlay_that_does_not_fit_is_refused_by_name(vm: &mut TestVm) {
    let base = vm.path("base");
    fs::write(&base, content()).unwrap();
    let drive = |overlay: &Path| {
        json!({
            "drive_id": "disk", "is_root_device": false, "path_on_host": base,
            "overlay_path": overlay,
        })
    };
    let precious = vm.path("precious");
    fs::write(&precious, "precious").unwrap();
    for (overlay, words) in [
        (precious.clone(), "not an overlay, so it is left as it is"),
        (base.clone(), "is the file that `path_on_host` names"),
        (vm.path("no/such"), "No such file or directory"),
    ] {
        let why = vm.refused("PUT", "/drives/disk", Some(&drive(&overlay)));
        assert!(why.contains(words), "{why}");
        assert!(why.contains(overlay.to_str().unwrap()), "{why}");
    }
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
    let mut read_only = drive(&vm.path("new"));
    read_only["is_read_only"] = json!(true);
    let why = vm.refused("PUT", "/drives/disk", Some(&read_only));
    assert!(why.contains("remove it, or `is_read_only`"), "{why}");

    let overlay = vm.path("overlay");
    vm.put("/drives/disk", &drive(&overlay));
    let mut other = TestVm::new("other");
    let why = other.refused("PUT", "/drives/disk", Some(&drive(&overlay)));
    assert!(why.contains("in use"), "{why}");
    // Another base below the same overlay, once it is free.
    drop(other);
    let second = vm.path("second");
    fs::write(&second, [content(), content()].concat()).unwrap();
    let mut moved = drive(&overlay);
    moved["path_on_host"] = json!(second);
    let why = vm.refused("PUT", "/drives/disk", Some(&moved));
    assert!(why.contains("was made over \"base\""), "{why}");
}
