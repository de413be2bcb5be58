//! Jumps to where there is no memory: an instruction that KVM can neither run nor emulate.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::{gates, println};

rt::kernel!(main);

fn main(_boot: &BootInfo) {
    // The monitor's exit decides; this line says that the kernel got here.
    println!("PASS internal_error");
    gates::run_nothing();
}
