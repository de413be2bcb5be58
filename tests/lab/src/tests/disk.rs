//! Disks, compared with their image files on the host.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::Bench;
use crate::host;
use crate::vm::Vm;

const MIB: u64 = 1 << 20;

/// A file system keeps a file over a remount and a dropped cache, and the host finds it there.
pub fn file_system_keeps_a_file(bench: &Bench) -> Result<()> {
    let mut vm = Vm::start(bench)?;
    configure(&mut vm)?;
    let image = vm.copy_image("root.ext4", "data.ext4")?;
    attach(&mut vm, "data", &image, false)?;
    vm.boot()?;
    vm.run("mount -t ext4 /dev/vda /mnt")?;
    vm.run("dd if=/dev/urandom of=/mnt/file bs=1M count=24 && sync")?;
    let written = vm.run("sha256sum < /mnt/file")?;
    vm.run("umount /mnt && echo 3 > /proc/sys/vm/drop_caches && mount -t ext4 /dev/vda /mnt")?;
    let read_again = vm.run("sha256sum < /mnt/file")?;
    ensure!(
        read_again == written,
        "wrote {written} and read {read_again} after a remount"
    );
    vm.run("umount /mnt")?;
    vm.reboot()?;

    let on_host = host::with_mounted(&image, |root| host::sha256(&root.join("file")))?;
    ensure!(
        written.starts_with(&on_host),
        "wrote {written} and the host finds {on_host}"
    );
    Ok(())
}

/// What is written to the bare disk is in the image file, byte for byte.
pub fn bare_disk_is_the_image_file(bench: &Bench) -> Result<()> {
    let mut vm = Vm::start(bench)?;
    configure(&mut vm)?;
    let image = vm.scratch("bare.img");
    File::create(&image)?.set_len(16 * MIB)?;
    attach(&mut vm, "bare", &image, false)?;
    vm.boot()?;
    vm.run("dd if=/dev/urandom of=/dev/vda bs=1M count=16 conv=fsync")?;
    vm.run("echo 3 > /proc/sys/vm/drop_caches")?;
    let in_guest = vm.run("sha256sum < /dev/vda")?;
    let on_host = host::sha256(&image)?;
    ensure!(
        in_guest.starts_with(&on_host),
        "the guest reads {in_guest}, the host {on_host}"
    );
    vm.reboot()
}

/// The guest sees that a disk is read-only, and cannot change it.
pub fn read_only_disk_stays_as_it_is(bench: &Bench) -> Result<()> {
    let mut vm = Vm::start(bench)?;
    configure(&mut vm)?;
    let image = vm.scratch("fixed.img");
    fs::write(&image, vec![0x5a; 1 << 20])?;
    attach(&mut vm, "fixed", &image, true)?;
    vm.boot()?;
    let flag = vm.run("cat /sys/block/vda/ro")?;
    ensure!(flag == "1", "the disk's read-only flag is {flag}");
    let write = "dd if=/dev/zero of=/dev/vda bs=4096 count=1 conv=fsync";
    let (_, status) = vm.console().try_run(write, crate::vm::SHORT)?;
    ensure!(status != 0, "a write to a read-only disk succeeded");
    ensure!(
        fs::read(&image)?.iter().all(|byte| *byte == 0x5a),
        "the read-only image changed"
    );
    vm.reboot()
}

fn configure(vm: &mut Vm) -> Result<()> {
    vm.machine(1, 256)?;
    vm.kernel("vmlinux")
}

fn attach(vm: &mut Vm, id: &str, image: &Path, is_read_only: bool) -> Result<()> {
    let drive = json!({
        "drive_id": id,
        "path_on_host": image,
        "is_root_device": false,
        "is_read_only": is_read_only,
        "cache_type": "Writeback",
    });
    vm.put(&format!("/drives/{id}"), &drive)
}
