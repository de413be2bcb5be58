//! What the monitor under test boots: an initramfs that ends in a shell on the serial console,
//! and an ext4 root disk with the same user space.

use anyhow::Result;

use super::modules::Modules;
use super::tools;
use super::tree::{Busybox, Tree};

/// Transports first, then a driver for each device.
pub const MODULES: [&str; 14] = [
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_balloon",
    "virtio_console",
    "virtio_mem",
    "virtio_pmem",
    "nd_pmem",
    "virtio_rng",
    "vmw_vsock_virtio_transport",
    "pvpanic_mmio",
    "button",
    "evdev",
];

const INIT: &str = include_str!("../../images/guest-init.sh");
const INITTAB: &str = include_str!("../../images/guest-inittab");
const RC: &str = include_str!("../../images/guest-rc.sh");
const DRIVER: &str = include_str!("../../images/guest-driver.sh");
const SHUTDOWN: &str = include_str!("../../images/guest-shutdown.sh");

/// Scripts that the images depend on; part of the cache's key.
pub const SOURCES: [&str; 5] = [INIT, INITTAB, RC, DRIVER, SHUTDOWN];

/// The initramfs. With `root=` on the command line it goes on to that disk.
pub fn initramfs(busybox: &Busybox, modules: &Modules) -> Result<Tree> {
    let mut tree = user_space(busybox);
    tree.executable("init", INIT)
        .modules(modules.in_load_order(&MODULES)?);
    Ok(tree)
}

/// The content of the root disk. It has no modules: the initramfs loaded them.
pub fn user_space(busybox: &Busybox) -> Tree {
    let mut tree = Tree::default();
    tree.directories(&[
        "bin", "dev", "etc", "mnt", "proc", "root", "sbin", "sys", "tmp", "tools",
    ])
    .busybox(busybox)
    .links(&tools::LINKS)
    .link("sbin/init", "../bin/busybox")
    .file("etc/inittab", INITTAB)
    .executable("etc/rc", RC)
    .executable("etc/driver", DRIVER)
    .executable("etc/shutdown", SHUTDOWN);
    tree
}
