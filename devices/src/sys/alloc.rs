//! Counts allocations, for tests that promise none.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counted for each thread.
pub struct Counting;

/// Allocations of this thread so far; what is grown counts, what is freed does not.
pub fn allocations() -> u64 {
    COUNT.get()
}

// SAFETY: every call is passed on as it came, so the system's allocator keeps the promises of the trait. Counting
// touches a plain thread-local number that needs no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller promises a layout of a size above 0.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller promises that `alloc` or `realloc` gave `block` for `layout`; both passed it on.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: as for `dealloc`, and the caller promises a size above 0 that does not overflow.
        unsafe { System.realloc(block, layout, size) }
    }
}
