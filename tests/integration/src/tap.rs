//! A tap name of one's own, and the host's end of it.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A tap name that no other test has. The monitor makes the tap; it goes with the monitor.
pub struct Tap {
    name: String,
    subnet: u8,
    index: u8,
}

impl Tap {
    /// A fresh name: unique across the processes of a parallel test run.
    pub fn new() -> Self {
        let pid = std::process::id();
        let count = NEXT.fetch_add(1, Ordering::Relaxed);
        let [low, high, ..] = (pid.wrapping_mul(31).wrapping_add(count)).to_le_bytes();
        Self {
            name: format!("ct{pid:x}.{count:x}"),
            subnet: high,
            index: low,
        }
    }

    /// The interface's name on the host.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's address, after [`Tap::up`].
    pub fn host_ip(&self) -> String {
        format!("10.{}.{}.1", self.subnet, self.index)
    }

    /// The address a guest may take.
    pub fn guest_ip(&self) -> String {
        format!("10.{}.{}.2", self.subnet, self.index)
    }

    /// Gives the host's end its address and turns it on. The tap exists once the monitor opened it.
    pub fn up(&self) {
        ip(&[
            "addr",
            "add",
            &format!("{}/30", self.host_ip()),
            "dev",
            &self.name,
        ]);
        ip(&["link", "set", &self.name, "up"]);
    }

    /// Tells the host the guest's hardware address, so that it asks nobody.
    pub fn knows(&self, mac: &str) {
        let guest = self.guest_ip();
        ip(&["neigh", "add", &guest, "lladdr", mac, "dev", &self.name]);
    }

    /// Makes the interface, as a user would before a microVM: of one queue, or `multi_queue`. It stays until
    /// [`Tap::remove`].
    pub fn make(&self, options: &[&str]) {
        let made = ["tuntap", "add", "dev", &self.name, "mode", "tap"];
        ip(&[&made, options].concat());
    }

    /// Removes the interface that [`Tap::make`] made.
    pub fn remove(&self) {
        ip(&["link", "delete", &self.name]);
    }

    /// Whether the host still has the interface.
    pub fn exists(&self) -> bool {
        std::path::Path::new("/sys/class/net")
            .join(&self.name)
            .exists()
    }
}

impl Default for Tap {
    fn default() -> Self {
        Self::new()
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .expect("`ip` is there: install the package iproute2");
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
