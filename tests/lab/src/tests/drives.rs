//! Disks that give space back, and disks that change while the guest runs.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::Bench;
use crate::process::wait_until;
use crate::vm::Vm;

const MIB: u64 = 1 << 20;
const DISK_MIB: u64 = 16;
/// Disks that are layers over one base.
const LAYERS: [&str; 2] = ["one", "other"];

/// Discards and zeroes reach the image; a new length and new limits reach the guest.
pub fn disks_shrink_and_change(bench: &Bench) -> Result<()> {
    let mut vm = Vm::start(bench)?;
    vm.machine(1, 256)?;
    vm.kernel("vmlinux")?;
    let bare = vm.scratch("bare.img");
    File::create(&bare)?.set_len(DISK_MIB * MIB)?;
    attach(&mut vm, "bare", &bare, "Async")?;
    let files = vm.copy_image("root.ext4", "files.ext4")?;
    attach(&mut vm, "files", &files, "Sync")?;
    for id in LAYERS {
        attach_layer(&mut vm, bench, id)?;
    }
    vm.tools()?;
    vm.boot()?;
    vm.mount_tools()?;

    discards_and_zeroes(&mut vm, &bare)?;
    fstrim_shrinks(&mut vm, &files)?;
    layers_share_a_base(&mut vm)?;
    new_length_is_seen(&mut vm, &bare)?;
    new_limit_slows(&mut vm)?;
    vm.reboot()
}

/// The disk is filled, then the first quarter is discarded, the second zeroed, and of the third a hole made.
fn discards_and_zeroes(vm: &mut Vm, image: &Path) -> Result<()> {
    vm.run_long("dd if=/dev/urandom of=/dev/vda bs=1M count=16 oflag=direct")?;
    let full = occupied(image)?;
    ensure!(full == DISK_MIB * MIB, "a full image occupies {full} bytes");
    let last = vm.run("dd if=/dev/vda bs=1M skip=12 iflag=direct 2> /dev/null | sha256sum")?;

    vm.run("/usr/sbin/blkdiscard --offset 0 --length 4M /dev/vda")?;
    let after_discard = occupied(image)?;
    ensure!(
        after_discard == full - 4 * MIB,
        "4 MiB were discarded, {full} bytes became {after_discard}"
    );
    vm.run("/usr/sbin/blkdiscard --zeroout --offset 4M --length 4M /dev/vda")?;
    let after_zeroes = occupied(image)?;
    ensure!(
        after_zeroes == after_discard,
        "zeroes took {after_discard} bytes to {after_zeroes}"
    );
    vm.run("/usr/bin/fallocate --punch-hole --offset 8M --length 4M /dev/vda")?;
    let after_hole = occupied(image)?;
    ensure!(
        after_hole == after_zeroes - 4 * MIB,
        "a hole took {after_zeroes} bytes to {after_hole}"
    );

    let bytes = fs::read(image)?;
    let (zeroes, rest) = bytes.split_at(usize::try_from(12 * MIB)?);
    ensure!(
        zeroes.iter().all(|byte| *byte == 0),
        "what is discarded or zeroed does not read as zeroes"
    );
    ensure!(rest.iter().any(|byte| *byte != 0), "the rest is gone too");
    let still = vm.run("dd if=/dev/vda bs=1M skip=12 iflag=direct 2> /dev/null | sha256sum")?;
    ensure!(still == last, "the rest has changed");
    Ok(())
}

/// A file system tells the disk what its deleted files held.
fn fstrim_shrinks(vm: &mut Vm, image: &Path) -> Result<()> {
    vm.run("mount -t ext4 /dev/vdb /mnt")?;
    vm.run_long("dd if=/dev/urandom of=/mnt/file bs=1M count=16 && sync")?;
    let full = occupied(image)?;
    vm.run("rm /mnt/file && sync && /usr/sbin/fstrim /mnt && umount /mnt")?;
    let trimmed = occupied(image)?;
    println!("the image occupies {full} bytes, trimmed {trimmed}");
    ensure!(
        trimmed + 15 * MIB <= full,
        "16 MiB were trimmed, {full} bytes became {trimmed}"
    );
    Ok(())
}

/// The guest learns by itself that a disk has grown, and can use what it gained.
fn new_length_is_seen(vm: &mut Vm, image: &Path) -> Result<()> {
    let length = (DISK_MIB + 5) * MIB;
    File::options().write(true).open(image)?.set_len(length)?;
    vm.patch(
        "/drives/bare",
        &json!({"drive_id": "bare", "path_on_host": image}),
    )?;
    let mut seen = String::new();
    let is_seen = wait_until(Duration::from_secs(30), || {
        seen = vm.run("blockdev --getsize64 /dev/vda")?;
        Ok(seen == length.to_string())
    })?;
    ensure!(
        is_seen,
        "the disk has {length} bytes, the guest sees {seen}"
    );
    vm.run("echo grown | dd of=/dev/vda bs=1M seek=20 conv=sync oflag=direct")?;
    let bytes = fs::read(image)?;
    ensure!(
        bytes[usize::try_from(20 * MIB)?..].starts_with(b"grown\n"),
        "what the guest wrote behind the old end is not there"
    );
    Ok(())
}

/// A limit set on a running disk holds, whatever the machine's speed; without it the disk is faster again.
fn new_limit_slows(vm: &mut Vm) -> Result<()> {
    let free = time_to_read(vm)?;
    limit(vm, json!({"size": MIB, "refill_time": 1000}))?;
    let limited = time_to_read(vm)?;
    limit(vm, json!({"size": 0, "refill_time": 0}))?;
    let free_again = time_to_read(vm)?;
    println!("6 MiB read in {free:?}, limited to 1 MiB/s in {limited:?}, then in {free_again:?}");
    // The bucket was full: the first MiB passes at once, the other five take a second each.
    ensure!(
        limited >= Duration::from_millis(4900),
        "6 MiB took {limited:?} at 1 MiB/s"
    );
    ensure!(
        free_again < limited,
        "the limit is gone, and 6 MiB take {free_again:?} after {limited:?}"
    );
    Ok(())
}

fn time_to_read(vm: &mut Vm) -> Result<Duration> {
    let started = Instant::now();
    vm.run_long("dd if=/dev/vda of=/dev/null bs=64k count=96 iflag=direct")?;
    Ok(started.elapsed())
}

fn limit(vm: &mut Vm, bandwidth: Value) -> Result<()> {
    vm.patch(
        "/drives/bare",
        &json!({"drive_id": "bare", "rate_limiter": {"bandwidth": bandwidth}}),
    )
}

/// Two disks have the same base, which lies on a file system that nobody can write. What is written to one is there after
/// a remount, and not on the other.
fn layers_share_a_base(vm: &mut Vm) -> Result<()> {
    let mut checksums = Vec::new();
    for (disk, id) in ["vdc", "vdd"].iter().zip(LAYERS) {
        let mount = format!("mount -t ext4 /dev/{disk} /mnt");
        vm.run(&format!(
            "{mount} && [ -x /mnt/bin/busybox ] && [ ! -e /mnt/file ]"
        ))?;
        vm.run("dd if=/dev/urandom of=/mnt/file bs=1M count=4 && sync")?;
        let written = vm.run("sha256sum < /mnt/file")?;
        vm.run(&format!("umount /mnt && {mount}"))?;
        let read_again = vm.run("sha256sum < /mnt/file")?;
        ensure!(
            read_again == written,
            "wrote {written} to {disk} and read {read_again}"
        );
        vm.run("umount /mnt")?;
        let layer = occupied(&vm.scratch(&format!("{id}.overlay")))?;
        println!("the layer of {disk} occupies {layer} bytes");
        ensure!(
            (4 * MIB..16 * MIB).contains(&layer),
            "4 MiB were written to {disk}, its layer has {layer} bytes"
        );
        checksums.push(written);
    }
    ensure!(checksums[0] != checksums[1], "both disks hold the same");
    Ok(())
}

/// Bytes of the host's file system that a file takes.
fn occupied(image: &Path) -> Result<u64> {
    Ok(fs::metadata(image)?.blocks() * 512)
}

fn attach_layer(vm: &mut Vm, bench: &Bench, id: &str) -> Result<()> {
    let drive = json!({
        "drive_id": id,
        "path_on_host": bench.images.join("root.ext4"),
        "overlay_path": vm.scratch(&format!("{id}.overlay")),
        "is_root_device": false,
        "cache_type": "Writeback",
    });
    vm.put(&format!("/drives/{id}"), &drive)
}

fn attach(vm: &mut Vm, id: &str, image: &Path, engine: &str) -> Result<()> {
    let drive = json!({
        "drive_id": id,
        "path_on_host": image,
        "is_root_device": false,
        "cache_type": "Writeback",
        "io_engine": engine,
    });
    vm.put(&format!("/drives/{id}"), &drive)
}
