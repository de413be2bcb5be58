//! Disks under `fio`, which remembers what it wrote and compares.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::vm::{LONG, Vm};

/// What each job writes, and how many there are at once.
const PART: u64 = 4 << 20;
const JOBS: u64 = 3;
const DISK: u64 = PART * JOBS;

/// Adds a disk that `io_engine` serves, with this many queues.
pub(super) fn attach(vm: &mut Vm, engine: &str, queues: u8) -> Result<()> {
    let image = image(vm, engine);
    File::create(&image)?.set_len(DISK)?;
    let drive = json!({
        "drive_id": engine,
        "path_on_host": image,
        "is_root_device": false,
        "cache_type": "Writeback",
        "io_engine": engine,
        "serial": engine,
        "num_queues": queues,
    });
    vm.put(&format!("/drives/{engine}"), &drive)
}

/// Several jobs write random blocks of random sizes, 32 requests at a time, with flushes between, and read all back. A
/// byte that is changed behind their back is found, so the comparison is one.
pub(super) fn verifies(vm: &mut Vm, engine: &str) -> Result<()> {
    let disk = vm.run(&format!("grep -lx {engine} /sys/block/vd*/serial"))?;
    let disk = disk
        .trim_start_matches("/sys/block/")
        .trim_end_matches("/serial");
    let jobs = format!(
        "fio --name=jobs --filename=/dev/{disk} --size={PART} --offset_increment={PART} --numjobs={JOBS} --thread \
         --rw=randwrite --bsrange=4k-64k --ioengine=libaio --iodepth=32 --direct=1 --fsync=64 \
         --verify=crc32c --verify_fatal=1 --eta=never --minimal --output=/tmp/fio.log"
    );
    vm.run_long(&format!("{jobs} || {{ tail -n 20 /tmp/fio.log; false; }}"))?;

    let image = OpenOptions::new()
        .read(true)
        .write(true)
        .open(image(vm, engine))?;
    let mut byte = [0];
    let at = PART + PART / 2 + 100;
    image.read_exact_at(&mut byte, at)?;
    image.write_all_at(&[!byte[0]], at)?;
    let (found, status) = vm
        .console()
        .try_run(&format!("{jobs} --verify_only > /tmp/fio.err 2>&1"), LONG)?;
    ensure!(
        status != 0,
        "fio does not see a changed byte on {disk}: {found}"
    );
    image.write_all_at(&byte, at)?;
    vm.run_long(&format!("{jobs} --verify_only"))?;
    Ok(())
}

fn image(vm: &Vm, engine: &str) -> PathBuf {
    vm.scratch(&format!("{engine}.img"))
}
