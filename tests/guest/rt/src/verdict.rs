//! How a kernel ends: one line on the serial port, then a reset.
//!
//! `PASS <kernel>` or `FAIL <reason>`. The reset goes through the keyboard controller, as every PC
//! kernel's does; where there is none, by a triple fault.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::{gates, port, print, println, start};

/// Keyboard controller command port.
const I8042_COMMAND: u16 = 0x64;
/// Pulses the processor's reset line.
const PULSE_RESET: u8 = 0xfe;

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

/// Ends the test with a reason. [`fail!`] formats one.
pub fn fail_with(reason: core::fmt::Arguments<'_>) -> ! {
    // A failure while failing, or on a second processor, must not print again.
    if !HAS_FAILED.swap(true, Ordering::Relaxed) {
        print!("FAIL {reason}\n");
    }
    reset()
}

/// Resets the machine.
pub fn reset() -> ! {
    keyboard_reset();
    gates::triple_fault()
}

/// Asks the keyboard controller for a reset; returns only if there was none.
pub fn keyboard_reset() {
    port::write(I8042_COMMAND, PULSE_RESET);
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    crate::fail!("panic {info}")
}

/// The precompiled `core` refers to it; nothing unwinds here.
// SAFETY: no other item has this name, and nothing calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
