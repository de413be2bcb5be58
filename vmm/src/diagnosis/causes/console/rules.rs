//! The words that name a cause.
//!
//! They are those of Linux (`init/do_mounts.c`, `init/main.c`, `init/initramfs.c`, `kernel/exit.c`, `kernel/panic.c`,
//! `mm/oom_kill.c`, `arch/x86`) and of the usual tools of an initrd.

use super::remedy::Remedy;
use crate::diagnosis::report::CauseCode;

/// A cause, the words that name it, and what to do.
pub(super) struct Rule {
    pub(super) code: CauseCode,
    /// Any of them, in one line.
    pub(super) words: &'static [&'static str],
    /// Any of them, in one of the last lines: what is said in passing when all goes well.
    pub(super) last_words: &'static [&'static str],
    pub(super) summary: &'static str,
    pub(super) remedy: Remedy,
}

/// The guest's root is not there.
pub(super) const LOST_ROOT: Rule = Rule {
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
pub(super) const PARTICULAR: [Rule; 11] = [
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
pub(super) const GENERAL: [Rule; 2] = [
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
