//! What the other tests stand on.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::Bench;

/// The outer machine offers all that tests use.
pub fn the_bench_is_complete(bench: &Bench) -> Result<()> {
    for device in [
        "/dev/kvm",
        "/dev/net/tun",
        "/dev/vhost-net",
        "/dev/vhost-vsock",
    ] {
        File::options()
            .read(true)
            .write(true)
            .open(device)
            .with_context(|| format!("cannot open {device}"))?;
    }
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?;
    for controller in ["cpu", "io", "memory", "pids"] {
        let is_there = controllers
            .split_whitespace()
            .any(|name| name == controller);
        ensure!(
            is_there,
            "cgroup v2 has no controller {controller}, only {controllers}"
        );
    }
    for image in [
        "vmlinux",
        "bzImage",
        "initramfs.cpio",
        "root.ext4",
        "tools.ext4",
    ] {
        let path = bench.images.join(image);
        ensure!(path.is_file(), "{} is missing", path.display());
    }
    ensure!(
        bench.monitor.is_file(),
        "{} is missing",
        bench.monitor.display()
    );
    ensure!(Path::new("/dev/loop-control").exists(), "no loop devices");
    Ok(())
}
