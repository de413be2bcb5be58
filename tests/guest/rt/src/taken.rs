//! Static memory with one owner.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

/// A static that is handed out once, for ever. There is no heap; this is where large things live.
#[derive(Debug)]
pub struct Taken<T> {
    is_taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `take` hands out the only reference to `value`, to one caller, by an atomic swap.
unsafe impl<T: Send> Sync for Taken<T> {}

impl<T> Taken<T> {
    /// A value nobody has yet.
    pub const fn new(value: T) -> Self {
        Self {
            is_taken: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// The value; a second call fails the test.
    #[expect(clippy::mut_from_ref, reason = "the swap lets one caller in, ever")]
    pub fn take(&'static self) -> &'static mut T {
        let was_taken = self.is_taken.swap(true, Ordering::AcqRel);
        crate::check!(!was_taken, "a static was taken twice");
        // SAFETY: the swap lets one caller in, ever, so this is the only reference.
        unsafe { &mut *self.value.get() }
    }
}
