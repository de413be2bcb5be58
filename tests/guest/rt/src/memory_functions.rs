//! The functions the compiler calls for copies and comparisons, which a C library would bring.
//!
//! String instructions and plain loops only: a loop the compiler recognises would call itself.

use core::arch::asm;

// SAFETY (all four names): the C library's, with its signatures; no library is linked that has them.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller promises two ranges of `len` bytes; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") len => _,
            options(nostack, preserves_flags));
    }
    to
}

// SAFETY: as for `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= len {
        // SAFETY: a forward copy reads every byte before it is overwritten.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: the ranges overlap with `to` above `from`, so the copy runs downwards; `len` is not 0
    // here, so the last bytes exist. The direction flag is cleared again.
    unsafe {
        asm!("std", "rep movsb", "cld",
            inout("rdi") to.add(len - 1) => _, inout("rsi") from.add(len - 1) => _,
            inout("rcx") len => _, options(nostack));
    }
    to
}

// SAFETY: as for `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller promises `len` bytes; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep stosb", inout("rdi") to => _, inout("rcx") len => _, in("eax") value,
            options(nostack, preserves_flags));
    }
    to
}

// SAFETY: as for `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    for offset in 0..len {
        // SAFETY: the caller promises `len` readable bytes on both sides.
        let (a, b) = unsafe { (left.add(offset).read(), right.add(offset).read()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

// SAFETY: as for `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    // SAFETY: the same promise.
    unsafe { memcmp(left, right, len) }
}
