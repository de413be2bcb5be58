//! Prints the command line it was given.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::println;

rt::kernel!(main);

fn main(boot: &BootInfo) {
    println!("cmdline={}", boot.command_line().text());
}
