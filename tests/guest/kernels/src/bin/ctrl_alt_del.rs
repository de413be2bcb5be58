//! Waits for the keys Ctrl, Alt and Delete from the keyboard controller, as codes of set 2.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::interrupts::DeviceVector;
use rt::keyboard::Keyboard;
use rt::println;

rt::kernel!(main);

const CTRL_ALT_DELETE: [u8; 4] = [0x14, 0x11, 0xe0, 0x71];

fn main(_boot: &BootInfo) {
    let vector = DeviceVector::new(0);
    let mut keyboard = Keyboard::enable(vector);
    println!("ready");

    let mut last = [0; CTRL_ALT_DELETE.len()];
    while last != CTRL_ALT_DELETE {
        last.rotate_left(1);
        last[CTRL_ALT_DELETE.len() - 1] = keyboard.read();
        println!("scancode={:02x}", last[CTRL_ALT_DELETE.len() - 1]);
    }
    println!("interrupts={}", vector.count());
}
