//! Resets through the keyboard controller, and by nothing else.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::{keyboard, println};

rt::kernel!(main);

fn main(_boot: &BootInfo) {
    // The monitor's exit decides; this line says that the kernel got here.
    println!("PASS reset_keyboard");
    keyboard::pulse_reset();
    rt::fail!("the keyboard controller did not reset the machine");
}
