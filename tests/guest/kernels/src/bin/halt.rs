//! Sleeps for ever with interrupts on, after one line: an idle machine.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::{gates, println};

rt::kernel!(main);

fn main(_boot: &BootInfo) {
    println!("sleeping");
    loop {
        gates::wait_for_interrupt();
    }
}
