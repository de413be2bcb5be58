//! What the guest wrote, searched for lines that name a cause.
//!
//! The words are those of Linux (`init/do_mounts.c`, `init/main.c`, `init/initramfs.c`, `kernel/exit.c`, `kernel/panic.c`,
//! `mm/oom_kill.c`, `arch/x86`) and of the usual tools of an initrd. A guest can write any of them, so each is evidence of the
//! guest's word alone. Searched are at most 16 KiB.

use super::super::facts::Facts;
use super::super::report::{Cause, CauseCode, Confidence, Evidence, Source};
use super::super::text::printable;

/// The longest line that is shown as evidence, characters.
const MAX_LINE: usize = 200;

/// What is said in so many lines is the last that was heard.
const LAST_LINES: usize = 3;

/// A cause, the words that name it, and what to do.
struct Rule {
    code: CauseCode,
    /// Any of them, in one line.
    words: &'static [&'static str],
    /// Any of them, in one of the last lines: what is said in passing when all goes well.
    last_words: &'static [&'static str],
    summary: &'static str,
    remedy: Remedy,
}

enum Remedy {
    Text(&'static str),
    /// Depends on what was configured.
    Root,
    /// Depends on the error in the line.
    Init,
    /// Depends on how much there is.
    Memory,
}

/// The guest's root is not there.
const LOST_ROOT: Rule = Rule {
    code: CauseCode::NoRootDevice,
    words: &[
        "VFS: Cannot open root device",
        "VFS: Unable to mount root fs",
        "/dev/root: Can't open blockdev",
        "Gave up waiting for root",
        "does not exist.  Dropping to a shell",
        "Unable to find a medium containing a live file system",
    ],
    last_words: &["Waiting for root device"],
    summary: "the kernel did not find its root device",
    remedy: Remedy::Root,
};

/// Causes with words of their own.
const PARTICULAR: [Rule; 11] = [
    Rule {
        code: CauseCode::BadRootFilesystem,
        words: &[
            "No filesystem could mount root",
            "VFS: Can't find ext",
            "wrong fs type, bad option, bad superblock",
        ],
        last_words: &[],
        summary: "the root device has no file system that the kernel can read",
        remedy: Remedy::Text(
            "see that the image holds the file system itself (`file image`), not a partition table or an archive; name a partition with root=/dev/vda1, and build its file system into the kernel",
        ),
    },
    LOST_ROOT,
    Rule {
        code: CauseCode::WrongInit,
        words: &[
            "Requested init ",
            "No working init found",
            "Failed to execute ",
            "exists but couldn't execute it",
            "No init found",
            "Target filesystem doesn't have requested",
            "switch_root: can't execute",
            "run-init: can't execute",
            "can't run '/sbin/init'",
        ],
        last_words: &[],
        summary: "the guest's first program is missing, or is none",
        remedy: Remedy::Init,
    },
    Rule {
        code: CauseCode::MissingCpuFeature,
        words: &[
            "requires the following features not present",
            "kernel requires an x86-64 CPU",
            "kernel requires an x86_64 CPU",
            "invalid opcode: 0000",
            "trap invalid opcode",
            "Illegal instruction",
            "CPU does not support x86-64-v",
        ],
        last_words: &[],
        summary: "the guest needs a processor feature that it does not have",
        remedy: Remedy::Text(
            "use a kernel and programs built for the baseline x86-64, or a host (or CPU template) that has the feature",
        ),
    },
    Rule {
        code: CauseCode::OutOfMemory,
        words: &[
            "System is deadlocked on memory",
            "Out of memory",
            "out of memory",
            "oom-kill:",
            "page allocation failure",
            "initrd extends beyond end of memory",
            "initrd too large",
            "Failed to allocate page table",
            "alloc_low_pages: can not alloc memory",
            "Cannot allocate memory",
        ],
        last_words: &[],
        summary: "the guest has too little memory",
        remedy: Remedy::Memory,
    },
    Rule {
        code: CauseCode::DamagedInitrd,
        words: &[
            "Initramfs unpacking failed",
            "rootfs image is not initramfs",
            "junk in compressed archive",
            "junk within compressed archive",
        ],
        last_words: &[],
        summary: "the initrd is damaged, or packed in a way that the kernel cannot undo",
        remedy: Remedy::Text(
            "make the initrd again as a newc cpio archive, and pack it with what the kernel was built for (CONFIG_RD_GZIP and its like)",
        ),
    },
    Rule {
        code: CauseCode::NoVirtioDriver,
        words: &[
            "Module virtio",
            "virtio_blk: Unknown symbol",
            "virtio_mmio: Unknown symbol",
        ],
        last_words: &[],
        summary: "the guest has a virtio module missing",
        remedy: Remedy::Text("put the virtio modules of that very kernel into the initrd"),
    },
    Rule {
        code: CauseCode::NoInterrupts,
        words: &[
            "IO-APIC + timer doesn't work",
            "8254 timer not connected to IO-APIC",
            "Disabling IRQ #",
        ],
        last_words: &[],
        summary: "interrupts do not reach the guest",
        remedy: Remedy::Text(
            "take acpi=off, noapic and nolapic out of boot_args: there is no legacy interrupt controller here",
        ),
    },
    Rule {
        code: CauseCode::InitDied,
        words: &["Attempted to kill init!"],
        last_words: &[],
        summary: "the guest's first program ended or crashed",
        remedy: Remedy::Text(
            "an init must not end: start it by hand in a container of the same image to see why it does; exitcode=0x0000000b is a crash, 0x00007f00 a program or library that is missing",
        ),
    },
    Rule {
        code: CauseCode::EmergencyShell,
        words: &[
            "Entering emergency mode",
            "You are in emergency mode",
            "(initramfs) ",
            "dracut-emergency",
        ],
        last_words: &[],
        summary: "the guest stopped in its rescue shell",
        remedy: Remedy::Text(
            "read the lines above it: most often the root device is not there or a mount of /etc/fstab fails",
        ),
    },
    Rule {
        code: CauseCode::KernelPanic,
        words: &[
            "not syncing: Fatal hardware error",
            "not syncing: stack-protector",
        ],
        last_words: &[],
        summary: "the kernel panicked over its processor or its memory",
        remedy: Remedy::Text("try another kernel, then another host"),
    },
];

/// Causes that say little more than that there was one.
const GENERAL: [Rule; 2] = [
    Rule {
        code: CauseCode::KernelPanic,
        words: &["Kernel panic - not syncing"],
        last_words: &[],
        summary: "the guest gave up: a kernel panic",
        remedy: Remedy::Text("the rest of the line, and those above it, say why"),
    },
    Rule {
        code: CauseCode::KernelOops,
        words: &[
            "BUG: ",
            "Oops: ",
            "general protection fault",
            "Unable to handle kernel",
            "unable to handle page fault",
        ],
        last_words: &[],
        summary: "the guest's kernel found a mistake of its own",
        remedy: Remedy::Text(
            "try another version of the kernel, and report the lines to who made it",
        ),
    },
];

/// A line that the guest wrote.
pub(super) struct Line {
    text: String,
    is_console: bool,
}

/// All that is kept of what the guest wrote, by lines.
pub(super) fn lines(facts: &Facts) -> Vec<Line> {
    let console = facts.console.as_ref().map(|text| (&text.tail, true));
    let both = [Some((&facts.serial.tail, false)), console];
    let mut lines = Vec::new();
    for (tail, is_console) in both.into_iter().flatten() {
        let text = String::from_utf8_lossy(tail);
        lines.extend(text.split(['\n', '\r']).map(|line| Line {
            text: line.to_owned(),
            is_console,
        }));
    }
    lines
}

/// Where the guest says that its root is not there.
pub(super) fn lost_root(lines: &[Line]) -> Option<Evidence> {
    LOST_ROOT.evidence(lines).into_iter().next()
}

/// Causes that the guest's words name.
pub(super) fn particular(facts: &Facts, lines: &[Line]) -> Vec<Cause> {
    apply(&PARTICULAR, facts, lines)
}

/// Causes that are left when nothing better is known.
pub(super) fn general(facts: &Facts, lines: &[Line]) -> Vec<Cause> {
    let mut causes = apply(&GENERAL, facts, lines);
    if causes.is_empty() && facts.has_panicked {
        causes.push(Cause {
            code: CauseCode::KernelPanic,
            confidence: Confidence::Likely,
            summary: "the guest gave up: a kernel panic".to_owned(),
            remedy: "add console=ttyS0 to boot_args to read why".to_owned(),
            evidence: vec![Evidence {
                source: Source::Guest,
                text: "it said so to the pvpanic device".to_owned(),
            }],
        });
    }
    causes
}

fn apply(rules: &[Rule], facts: &Facts, lines: &[Line]) -> Vec<Cause> {
    let found = rules.iter().filter_map(|rule| {
        let evidence = rule.evidence(lines);
        let first = evidence.first()?.text.clone();
        Some(Cause {
            code: rule.code,
            confidence: Confidence::Likely,
            summary: rule.summary.to_owned(),
            remedy: rule.remedy.told(facts, &first),
            evidence,
        })
    });
    found.collect()
}

impl Rule {
    /// The first two lines that have one of the words.
    fn evidence(&self, lines: &[Line]) -> Vec<Evidence> {
        let has = |line: &Line, words: &[&str]| words.iter().any(|word| line.text.contains(word));
        let anywhere = lines.iter().filter(|line| has(line, self.words));
        let said = lines
            .iter()
            .rev()
            .filter(|line| !line.text.trim().is_empty());
        let at_last = said
            .take(LAST_LINES)
            .filter(|line| has(line, self.last_words));
        anywhere
            .chain(at_last)
            .take(2)
            .map(Line::evidence)
            .collect()
    }
}

impl Line {
    fn evidence(&self) -> Evidence {
        let from = if self.is_console { "console" } else { "serial" };
        Evidence {
            source: Source::Guest,
            text: format!("{from}: {}", printable(self.text.trim(), MAX_LINE)),
        }
    }
}

impl Remedy {
    fn told(&self, facts: &Facts, line: &str) -> String {
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

/// Whether `word` is one of the words of `line`.
pub(super) fn has_word(line: &str, word: &str) -> bool {
    line.split_ascii_whitespace().any(|other| other == word)
}
