//! From one processor to another.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU8, Ordering};

const EMPTY: u8 = 0;
const BUSY: u8 = 1;
const FULL: u8 = 2;

/// A place where one processor puts a value and another takes it.
#[derive(Debug)]
pub struct Handed<T> {
    state: AtomicU8,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: `change` lets one caller at a time at `value`, by an atomic exchange.
unsafe impl<T: Send> Sync for Handed<T> {}

impl<T> Handed<T> {
    /// Nothing is there yet.
    pub const fn nothing() -> Self {
        Self {
            state: AtomicU8::new(EMPTY),
            value: UnsafeCell::new(None),
        }
    }

    /// Puts a value there; fails the test if there is one.
    pub fn put(&self, value: T) {
        self.change(EMPTY, FULL, Some(value));
    }

    /// Takes what is there; fails the test if there is nothing.
    pub fn take(&self) -> T {
        match self.change(FULL, EMPTY, None) {
            Some(value) => value,
            None => crate::fail!("a value was handed over as nothing"),
        }
    }

    fn change(&self, from: u8, to: u8, value: Option<T>) -> Option<T> {
        let found = self
            .state
            .compare_exchange(from, BUSY, Ordering::Acquire, Ordering::Relaxed);
        crate::check!(found.is_ok(), "a value was put or taken out of turn");
        // SAFETY: the exchange made this caller the only one until the store below.
        let before = unsafe { core::mem::replace(&mut *self.value.get(), value) };
        self.state.store(to, Ordering::Release);
        before
    }
}
