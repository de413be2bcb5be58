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
