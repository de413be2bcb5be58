//! Drives that share a base and keep what they write to themselves.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on has failed; patterns wrap"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use api_client::Client;
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
            kill(&writer);
            writer.wait_killed();
            kept(&writer)
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

/// The most pieces that the guest said it has kept.
fn kept(vm: &TestVm) -> u64 {
    let said = vm.output();
    let counts = said.lines().filter_map(|line| line.strip_prefix("kept="));
    counts.filter_map(|n| n.parse().ok()).max().unwrap_or(0)
}

fn kill(vm: &TestVm) {
    let killed = Command::new("kill")
        .args(["-9", &vm.pid().to_string()])
        .status();
    assert!(killed.unwrap().success());
}

fn seal(overlay: &Path) -> Value {
    json!({ "drive_id": "disk", "overlay_path": overlay, "seal_overlay": true })
}

/// The drive as the monitor tells it.
fn told_drive(vm: &mut TestVm) -> Value {
    let config = vm.request("GET", "/vm/config", None).body.unwrap();
    config["drives"][0].clone()
}

/// A guest finds so many pieces on the drive.
fn verify(drive: &Value, count: u64) {
    let mut reader = another("reader", "blk_commit");
    reader.put("/drives/disk", drive);
    reader.boot("boot_args", format!("verify={count}"));
    reader.start();
    reader.expect_pass();
    assert_eq!(reader.value("verified"), count.to_string());
}

#[vm_test(kernel = "blk_commit", mmio, pci)]
fn a_running_drive_is_sealed_and_goes_on(vm: &mut TestVm) {
    let base = vm.path("base");
    fs::write(&base, content()).unwrap();
    for (engine, cache) in [("Sync", "Writeback"), ("Async", "Unsafe")] {
        let path = |n: usize| vm.path(&format!("{engine}{n}"));
        let mut writer = another("writer", "blk_commit");
        let options = json!({ "io_engine": engine, "cache_type": cache });
        put_overlay(&mut writer, &base, &path(0), &options);
        writer.start();
        let mut sealed = Vec::new();
        for n in 1..5 {
            writer.wait_for(&format!("kept={}\n", n * 7));
            if n == 3 {
                writer.pause();
            }
            let count = kept(&writer);
            let answer = writer.request("PATCH", "/drives/disk", Some(&seal(&path(n))));
            assert_eq!(answer.status, 204, "{:?}", answer.body);
            if n == 3 {
                writer.resume();
            }
            sealed.push((count, path(n - 1), fs::read(path(n - 1)).unwrap()));
        }
        writer.wait_for("kept=40\n");
        let drive = told_drive(&mut writer);
        assert_eq!(drive["overlay_path"], json!(path(4)));
        let lower: Vec<_> = sealed.iter().map(|(_, path, _)| path).collect();
        assert_eq!(drive["lower_overlay_paths"], json!(lower));
        // Others read what is sealed while the guest goes on, each with an overlay of its own.
        for (n, (count, ..)) in sealed.iter().enumerate() {
            let mut child = drive.clone();
            child["lower_overlay_paths"] = json!(lower[..=n]);
            child["overlay_path"] = json!(vm.path(&format!("{engine}child{n}")));
            verify(&child, *count);
        }
        kill(&writer);
        verify(&drive, kept(&writer));
        for (_, path, bytes) in &sealed {
            assert!(fs::read(path).unwrap() == *bytes, "{path:?} changed");
        }
    }
    assert!(fs::read(&base).unwrap() == content(), "the base changed");
}

#[vm_test(kernel = "blk_commit", mmio)]
fn a_monitor_killed_while_it_seals_leaves_one_chain(vm: &mut TestVm) {
    let base = vm.path("base");
    fs::write(&base, content()).unwrap();
    let (mut old, mut new) = (0, 0);
    for (round, delay_us) in (0..16).map(|n| (n, n * 400)) {
        let path = |n: u32| vm.path(&format!("{round}-{n}"));
        let engine = if round % 2 == 0 { "Sync" } else { "Async" };
        let options = json!({ "io_engine": engine, "cache_type": "Writeback" });
        let mut writer = another("writer", "blk_commit");
        put_overlay(&mut writer, &base, &path(0), &options);
        writer.start();
        writer.wait_for("kept=5\n");
        let drive = told_drive(&mut writer);
        let mut client = Client::connect(writer.path("api.sock")).unwrap();
        let body = seal(&path(1));
        let asking = thread::spawn(move || {
            // Whether it is answered is the question.
            let _ = client.patch("/drives/disk", Some(&body));
        });
        thread::sleep(Duration::from_micros(delay_us));
        kill(&writer);
        asking.join().unwrap();
        writer.wait_killed();
        let count = kept(&writer);
        // The one or the other is refused by name.
        let mut stacked = drive.clone();
        stacked["lower_overlay_paths"] = json!([path(0)]);
        stacked["overlay_path"] = json!(path(1));
        let mut asked = TestVm::new("asked");
        let answer = asked.request("PUT", "/drives/disk", Some(&drive));
        drop(asked);
        if answer.status == 204 {
            old += 1;
            let why = vm.refused("PUT", "/drives/disk", Some(&stacked));
            assert!(why.contains("is not sealed"), "{why}");
            verify(&drive, count);
        } else {
            new += 1;
            let why = answer.body.unwrap()["fault_message"].to_string();
            assert!(why.contains("is sealed, so nobody writes to it"), "{why}");
            verify(&stacked, count);
        }
    }
    println!("killed before the seal {old} times, after it {new} times");
}

#[vm_test(kernel = "blk_commit", mmio, pci)]
fn what_cannot_be_sealed_is_refused_by_name(vm: &mut TestVm) {
    let base = vm.path("base");
    fs::write(&base, content()).unwrap();
    put_overlay(vm, &base, &vm.path("overlay"), &json!({}));
    let plain = vm.path("plain");
    fs::write(&plain, content()).unwrap();
    let plain = json!({ "drive_id": "plain", "is_root_device": false, "path_on_host": plain });
    vm.put("/drives/plain", &plain);
    vm.start();
    vm.wait_for("kept=3");
    let before = told_drive(vm);
    let used = vm.path("used");
    fs::write(&used, "precious").unwrap();
    let fresh = vm.path("fresh");
    for (body, words) in [
        (
            json!({ "drive_id": "disk", "seal_overlay": true }),
            "give in `overlay_path`",
        ),
        (seal(&used), "not an overlay, so it is left as it is"),
        (seal(&vm.path("overlay")), "in use by this drive"),
        (seal(Path::new("/nowhere/fresh")), "No such file"),
        (seal(Path::new("/dev/full")), "not a regular file"),
        (
            json!({
                "drive_id": "disk", "overlay_path": fresh, "seal_overlay": true,
                "lower_overlay_paths": [],
            }),
            "leave `path_on_host` and `lower_overlay_paths` out",
        ),
        (
            json!({ "drive_id": "disk", "lower_overlay_paths": [] }),
            "changes with `overlay_path`",
        ),
    ] {
        let why = vm.refused("PATCH", "/drives/disk", Some(&body));
        assert!(why.contains(words), "{why}");
    }
    let mut body = seal(&fresh);
    body["drive_id"] = json!("plain");
    let why = vm.refused("PATCH", "/drives/plain", Some(&body));
    assert!(why.contains("no overlay to seal"), "{why}");
    assert_eq!(told_drive(vm), before);
    assert_eq!(fs::read(&used).unwrap(), b"precious");
    let answer = vm.request("PATCH", "/drives/disk", Some(&seal(&fresh)));
    assert_eq!(answer.status, 204, "{:?}", answer.body);
    // One more layer that somebody changed since.
    let mut moved = told_drive(vm);
    moved["overlay_path"] = json!(vm.path("child"));
    let layer = fs::File::options()
        .write(true)
        .open(vm.path("overlay"))
        .unwrap();
    let then = layer.metadata().unwrap().modified().unwrap();
    vm.wait_for("kept=9");
    let mut child = TestVm::new("child");
    child.put("/drives/disk", &moved);
    drop(child);
    layer.set_modified(then + Duration::from_secs(1)).unwrap();
    let mut child = TestVm::new("child");
    let why = child.refused("PUT", "/drives/disk", Some(&moved));
    assert!(why.contains("if that is the same file, unchanged"), "{why}");
}

/// A file system of 64 KiB, for as long as it lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this process may not mount.
    fn at(path: PathBuf) -> Option<Self> {
        fs::create_dir(&path).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "none"])
            .arg(&path)
            .output();
        mount.unwrap().status.success().then_some(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[vm_test(kernel = "blk_commit", mmio)]
fn a_seal_that_finds_no_room_is_none(vm: &mut TestVm) {
    let Some(small) = SmallDisk::at(vm.path("small")) else {
        eprintln!("skipped, runs where tmpfs can be mounted (CAP_SYS_ADMIN)");
        return;
    };
    let base = vm.path("base");
    fs::write(&base, content()).unwrap();
    let fresh = small.0.join("fresh");
    let filler = small.0.join("filler");
    let mut writer = another("writer", "blk_commit");
    let options = json!({ "cache_type": "Writeback" });
    put_overlay(&mut writer, &base, &vm.path("overlay"), &options);
    writer.start();
    writer.wait_for("kept=3");
    let before = told_drive(&mut writer);
    fs::write(&filler, vec![1; 1 << 16]).unwrap();
    let why = writer.refused("PATCH", "/drives/disk", Some(&seal(&fresh)));
    assert!(why.contains("No space left on device"), "{why}");
    assert_eq!(told_drive(&mut writer), before);
    let kept_then = kept(&writer);
    writer.wait_for(&format!("kept={}", kept_then + 3));
    fs::remove_file(&filler).unwrap();
    let answer = writer.request("PATCH", "/drives/disk", Some(&seal(&fresh)));
    assert_eq!(answer.status, 204, "{:?}", answer.body);
    drop(writer);
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
