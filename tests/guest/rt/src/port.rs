//! I/O ports, usable in ring 3 because `entry.s` leaves IOPL at 3.

use core::arch::asm;

/// Reads one byte.
pub fn read(port: u16) -> u8 {
    let value;
    // SAFETY: a port access touches no memory of this kernel.
    unsafe {
        asm!("in al, dx", out("al") value, in("dx") port, options(nomem, nostack, preserves_flags))
    };
    value
}

/// Writes one byte.
pub fn write(port: u16, value: u8) {
    // SAFETY: a port access touches no memory of this kernel.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags))
    };
}

/// Writes all bytes, one after the other, with one instruction.
pub fn write_string(port: u16, bytes: &[u8]) {
    // SAFETY: the instruction reads `bytes` and nothing else; the direction flag is clear (System V ABI).
    unsafe {
        asm!(
            "rep outsb",
            in("dx") port,
            inout("rsi") bytes.as_ptr() => _,
            inout("rcx") bytes.len() => _,
            options(readonly, nostack, preserves_flags),
        )
    };
}

/// Reads one byte after the other, with one instruction.
pub fn read_string(port: u16, into: &mut [u8]) {
    // SAFETY: the instruction writes `into` and nothing else; the direction flag is clear (System V ABI).
    unsafe {
        asm!(
            "rep insb",
            in("dx") port,
            inout("rdi") into.as_mut_ptr() => _,
            inout("rcx") into.len() => _,
            options(nostack, preserves_flags),
        )
    };
}

/// Reads 32 bits.
pub fn read_u32(port: u16) -> u32 {
    let value;
    // SAFETY: a port access touches no memory of this kernel.
    unsafe {
        asm!("in eax, dx", out("eax") value, in("dx") port, options(nomem, nostack, preserves_flags))
    };
    value
}

/// Writes 32 bits.
pub fn write_u32(port: u16, value: u32) {
    // SAFETY: a port access touches no memory of this kernel.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags))
    };
}
