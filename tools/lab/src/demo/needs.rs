//! What the demonstration needs of the machine, asked for before anything is started.

use std::fs::File;
use std::io::ErrorKind;

use anyhow::{Result, bail};
use rustix::process::geteuid;

use crate::setup::find_program;

/// Fails with everything that is missing, and what it is for.
pub fn check() -> Result<()> {
    let mut missing = Vec::new();
    if let Some(what) = device(
        "/dev/kvm",
        "guests run on it; load the kernel's kvm modules",
    ) {
        missing.push(what);
    }
    if let Some(what) = device(
        "/dev/net/tun",
        "guests reach the network by it; load the module tun",
    ) {
        missing.push(what);
    }
    if !geteuid().is_root() {
        missing.push("root: the guest's network is a tap device (CAP_NET_ADMIN)".to_owned());
    }
    if find_program("ip").is_none() {
        missing.push("`ip`, to give the tap an address: install iproute2".to_owned());
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("the demonstration needs\n  {}", missing.join("\n  "))
}

/// What to say of a device that cannot be read and written.
fn device(path: &str, reason: &str) -> Option<String> {
    let error = File::options().read(true).write(true).open(path).err()?;
    Some(match error.kind() {
        ErrorKind::PermissionDenied => {
            format!("permission to read and write {path}: run this as root")
        }
        _ => format!("{path}, which gives `{error}`: {reason}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_missing_says_what_it_is_for() {
        let what = device("/dev/nonexistent", "for a test").unwrap();
        assert!(
            what.contains("/dev/nonexistent") && what.contains("for a test"),
            "{what}"
        );
        assert!(device("/dev/null", "").is_none());
    }
}
