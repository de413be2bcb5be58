//! Echoes serial input, byte by byte, up to and including a line `quit`.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::interrupts::DeviceVector;
use rt::{println, serial};

rt::kernel!(main);

const LAST_LINE: &[u8; 6] = b"\nquit\n";

fn main(_boot: &BootInfo) {
    let vector = DeviceVector::new(0);
    let mut input = serial::Input::enable(vector);
    println!("ready");

    // As if a line had just ended.
    let mut last = [b'\n'; LAST_LINE.len()];
    let mut received = 0;
    while last != *LAST_LINE {
        let byte = input.read();
        serial::write_bytes(&[byte]);
        last.rotate_left(1);
        last[LAST_LINE.len() - 1] = byte;
        received += 1;
    }
    println!("received={received}");
    println!("interrupts={}", vector.count());
}
