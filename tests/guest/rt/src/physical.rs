//! Guest physical memory by address: device registers, and what the monitor left in RAM.

use core::ops::Range;
use core::ptr;

unsafe extern "C" {
    safe static image_start: u8;
    safe static image_end: u8;
}

/// Any bit pattern is a value, and one load instruction reads it.
pub trait Plain: Copy + sealed::Sealed {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for u8 {}
    impl Sealed for u16 {}
    impl Sealed for u32 {}
    impl Sealed for u64 {}
}

/// Where this kernel lies, with its zeroed memory and its stacks, in whole pages.
pub fn image() -> Range<u64> {
    &raw const image_start as u64..&raw const image_end as u64
}

/// Reads an integer from mapped memory; it need not be aligned.
pub fn read<T: Plain>(address: u64) -> T {
    let pointer = ptr::with_exposed_provenance::<T>(to_usize(address));
    if pointer.is_aligned() {
        // SAFETY: aligned, identity-mapped, and every bit pattern is a `T`. Volatile, so the compiler
        // assumes nothing about what is there; an unmapped address is a page fault, which is reported.
        unsafe { pointer.read_volatile() }
    } else {
        // SAFETY: as above. Only tables the monitor wrote before entry lie unaligned: nobody writes them.
        unsafe { pointer.read_unaligned() }
    }
}

/// Writes an integer to mapped memory, aligned.
///
/// # Safety
///
/// Nothing the compiler knows of may live at `address`: it is a device register, or RAM outside the
/// image, or memory whose owner reads it as volatile.
pub unsafe fn write<T: Plain>(address: u64, value: T) {
    let pointer = ptr::with_exposed_provenance_mut::<T>(to_usize(address));
    // SAFETY: identity-mapped; the caller vouches for the place.
    unsafe { pointer.write_volatile(value) }
}

#[expect(clippy::cast_possible_truncation, reason = "this is 64-bit code")]
fn to_usize(address: u64) -> usize {
    address as usize
}
