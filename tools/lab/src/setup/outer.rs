//! What the outer machine boots: Debian's kernel with KVM, busybox, and an init that starts the
//! agent. The programs under test are appended per run.

use anyhow::Result;

use super::modules::Modules;
use super::tools;
use super::tree::{Busybox, Tree};

/// Virtio for the way in and out, KVM for the monitor, the rest for its devices and for tests.
pub const MODULES: [&str; 10] = [
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "kvm_amd",
    "tun",
    "bridge",
    "vhost_net",
    "vhost_vsock",
    "loop",
    "overlay",
];

/// Scripts that the initramfs depends on; part of the cache's key.
pub const SOURCES: [&str; 1] = [include_str!("../../images/outer-init.sh")];

/// The outer initramfs without any program under test.
pub fn initramfs(busybox: &Busybox, modules: &Modules) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.directories(&[
        "bin", "dev", "etc", "images", "logs", "mnt", "proc", "sys", "tmp", "tools",
    ])
    .busybox(busybox)
    .links(&tools::LINKS)
    .executable("init", SOURCES[0])
    .modules(modules.in_load_order(&MODULES)?);
    Ok(tree)
}
