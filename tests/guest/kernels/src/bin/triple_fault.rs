//! Faults without an interrupt table: a triple fault.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::{gates, println};

rt::kernel!(main);

fn main(_boot: &BootInfo) {
    // The monitor's exit decides; this line says that the kernel got here.
    println!("PASS triple_fault");
    gates::triple_fault();
}
