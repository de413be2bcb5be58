//! What to do about a cause, where that depends on what was configured or on the line that was found.

use crate::diagnosis::facts::Facts;
use crate::diagnosis::text::printable;

/// What to do.
pub(super) enum Remedy {
    Text(&'static str),
    /// Depends on what was configured.
    Root,
    /// Depends on the error in the line.
    Init,
    /// Depends on how much there is.
    Memory,
}

impl Remedy {
    /// In words; `line` is the first that named the cause.
    pub(super) fn told(&self, facts: &Facts, line: &str) -> String {
        match self {
            Self::Text(text) => (*text).to_owned(),
            Self::Root => root_remedy(facts),
            Self::Init => init_remedy(line).to_owned(),
            Self::Memory => format!(
                "raise mem_size_mib, which is {}, or use a smaller initrd or root in memory",
                facts.mem_size_mib
            ),
        }
    }
}

fn root_remedy(facts: &Facts) -> String {
    let disks = facts.devices.iter().filter(|device| device.can_be_root());
    let line = facts.command_line.as_deref().unwrap_or_default();
    let root = line
        .split_ascii_whitespace()
        .rfind(|word| word.starts_with("root="));
    match (disks.count(), root) {
        (0, _) if facts.has_initrd => {
            "no drive is configured: PUT /drives with is_root_device, or give an initrd whose /init needs none (rdinit=)".to_owned()
        }
        (0, _) => {
            "no drive is configured: PUT /drives with is_root_device, or give initrd_path".to_owned()
        }
        (_, None) => {
            "no root= is in the command line: set is_root_device on the root drive, or add root=/dev/vda to boot_args".to_owned()
        }
        (count, Some(root)) => format!(
            "the command line says {}, and the machine has this many disks: {count}. Drives are /dev/vda, /dev/vdb and so on in the order of PUT /drives, root first; see that their driver is in the kernel or the initrd",
            printable(root, 80)
        ),
    }
}

/// The error numbers are those of execve(2).
fn init_remedy(line: &str) -> &'static str {
    let errors = [
        (
            "-2)",
            "error -2: there is no such file, or its interpreter or loader (`#!` line, ld-linux) is not in the image; correct init= or rdinit=",
        ),
        (
            "-8)",
            "error -8: it is no program for this machine; it must be an x86_64 ELF file or a script that begins with #!",
        ),
        (
            "-13)",
            "error -13: it is not executable; chmod +x it in the image",
        ),
        (
            "-20)",
            "error -20: a part of its path is no directory; correct init= or rdinit=",
        ),
        (
            "-26)",
            "error -26: the file is being written; do not share the image",
        ),
    ];
    let found = errors.iter().find(|(number, _)| line.contains(number));
    found.map_or(
        "see that init= (or rdinit= for an initrd) names an executable x86_64 program in the image, with its interpreter and libraries",
        |(_, remedy)| remedy,
    )
}
