//! The tools disk: programs that tests run in the guest and beside the monitor, and the libraries they need.
//!
//! It holds one `usr`, as systems with a merged `/usr` have it. Both machines mount it at `/tools`, and their links
//! `/usr`, `/lib` and `/lib64` lead there; without the disk nothing needs them.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::packages;

/// Packages whose programs tests use; part of the cache's key.
pub const PROGRAMS: [&str; 5] = ["ethtool", "fio", "iperf3", "socat", "util-linux"];

/// Where the disk is mounted, and links that lead from the places where programs look for libraries.
pub const LINKS: [(&str, &str); 3] = [
    ("usr", "tools/usr"),
    ("lib", "tools/usr/lib"),
    ("lib64", "tools/usr/lib64"),
];

/// Of a package only these are taken, from `/` and from `/usr` alike.
const DIRECTORIES: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Writes the content of the disk into a new directory.
pub fn write(cache: &Path, root: &Path) -> Result<()> {
    let names = packages::with_libraries(&PROGRAMS)?;
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let tree = packages::unpack_together(&PROGRAMS.join("+"), &names, cache)?;
    for name in DIRECTORIES {
        let target = root.join("usr").join(name);
        fs::create_dir_all(&target)?;
        for source in [tree.join(name), tree.join("usr").join(name)] {
            if source.is_dir() {
                packages::run(
                    Command::new("cp")
                        .arg("-a")
                        .arg(source.join("."))
                        .arg(&target),
                )?;
            }
        }
    }
    Ok(())
}
