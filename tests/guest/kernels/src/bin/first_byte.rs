//! Prints one byte with its very first instructions, then resets: for measuring start-up.
//!
//! Without the runtime. The same instructions mean the same in 32-bit protected mode and in long mode,
//! so both entry points are one.

#![no_std]
#![no_main]

use core::arch::global_asm;
use core::panic::PanicInfo;

global_asm!(
    // XEN_ELFNOTE_PHYS32_ENTRY.
    ".pushsection .note.Xen, \"a\", @note",
    ".long 4, 8, 18",
    ".asciz \"Xen\"",
    ".quad first_byte",
    ".popsection",
    ".pushsection .text.entry, \"ax\", @progbits",
    ".globl first_byte",
    "first_byte:",
    // COM1, transmitter holding register.
    "mov edx, 0x3f8",
    "mov al, 0x21",
    "out dx, al",
    // Keyboard controller, pulse the reset line.
    "mov al, 0xfe",
    "out 0x64, al",
    "sleep:",
    "hlt",
    "jmp sleep",
    ".popsection",
);

#[panic_handler]
fn panic(_info: &PanicInfo<'_>) -> ! {
    loop {}
}
