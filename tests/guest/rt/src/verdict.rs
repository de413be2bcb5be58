//! How a kernel ends: one line on the serial port, then a reset.
//!
//! `PASS <kernel>` or `FAIL <reason>`. The reset goes through the keyboard controller, as every PC
//! kernel's does; where there is none, by a triple fault.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::{gates, keyboard, println, start};

static HAS_FAILED: AtomicBool = AtomicBool::new(false);

/// Prints `FAIL` and a formatted reason, then resets.
#[macro_export]
macro_rules! fail {
    ($($argument:tt)*) => {
        $crate::verdict::fail_with(format_args!($($argument)*))
    };
}

/// Fails with a formatted reason unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($argument:tt)*) => {
        if !$condition {
            $crate::fail!($($argument)*);
        }
    };
}

/// Ends the test well.
pub fn pass() -> ! {
    println!("PASS {}", start::kernel_name());
    reset()
}

/// Ends the test with a reason. [`fail!`](crate::fail) formats one.
pub fn fail_with(reason: core::fmt::Arguments<'_>) -> ! {
    // A failure while failing, or on a second processor, must not print again.
    if !HAS_FAILED.swap(true, Ordering::Relaxed) {
        println!("FAIL {reason}");
    }
    reset()
}

/// Resets the machine.
pub fn reset() -> ! {
    keyboard::pulse_reset();
    gates::triple_fault()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    crate::fail!("panic {info}")
}

/// The precompiled `core` refers to it; nothing unwinds here.
// SAFETY: no other item has this name, and nothing calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
