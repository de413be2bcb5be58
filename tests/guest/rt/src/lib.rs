//! Runtime of the bare-metal test kernels.
//!
//! A kernel is entered by PVH or by the 64-bit Linux boot protocol ([`boot`]), leaves ring 0 after a
//! few instructions (`entry.s`) and runs its `main` in ring 3 with IOPL 3: software-backed KVM emulates
//! ring 0 one instruction at a time and runs ring 3 natively. What only ring 0 can do goes through
//! [`gates`]. Devices are driven through [`virtio`]; the verdict leaves by [`serial`] and [`verdict`].
//!
//! Memory is identity-mapped: a guest physical address is a pointer. The machine belongs to the kernel
//! alone, so the unsafe code here is about the compiler's view of memory, not about protection.

#![no_std]

pub mod acpi;
pub mod acpi_power;
pub mod apic;
pub mod bench;
pub mod boot;
pub mod checksum;
pub mod clock;
pub mod command_line;
pub mod device_memory;
pub mod echo;
pub mod gates;
pub mod handed;
pub mod hotplug;
pub mod http_client;
pub mod interrupts;
pub mod keyboard;
pub mod paging;
pub mod pattern;
pub mod pci;
pub mod physical;
pub mod port;
pub mod processors;
pub mod serial;
pub mod taken;
pub mod verdict;
pub mod virtio;

mod memory_functions;
mod start;

pub use start::Kernel;

/// Declares a kernel: its `fn main(&BootInfo)`, which passes when it returns.
///
/// `kernel!(main)` carries the PVH note, so a monitor enters it in 32-bit protected mode;
/// `kernel!(linux64 main)` does not, so a monitor enters it by the 64-bit Linux protocol.
#[macro_export]
macro_rules! kernel {
    ($main:path) => {
        $crate::pvh_note!("pvh_entry");
        $crate::kernel!(linux64 $main);
    };
    (linux64 $main:path) => {
        // SAFETY: no other item has this name; the runtime declares it with this type.
        #[unsafe(no_mangle)]
        static KERNEL: $crate::Kernel = $crate::Kernel {
            name: env!("CARGO_BIN_NAME"),
            main: $main,
        };
    };
}

/// Emits the ELF note that names the 32-bit entry point (Xen `XEN_ELFNOTE_PHYS32_ENTRY`, type 18).
#[macro_export]
macro_rules! pvh_note {
    ($entry:literal) => {
        core::arch::global_asm!(
            ".pushsection .note.Xen, \"a\", @note",
            ".balign 4",
            ".long 4",
            ".long 8",
            ".long 18",
            ".asciz \"Xen\"",
            concat!(".quad ", $entry),
            ".popsection",
        );
    };
}
