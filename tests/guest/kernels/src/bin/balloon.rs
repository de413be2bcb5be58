//! Touches memory, gives up as much as the device wants, and takes it back.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::println;
use rt::virtio::balloon::{self, Balloon, DEFLATE, INFLATE, is_filled, is_given_back};

rt::kernel!(main);

fn main(boot: &BootInfo) {
    let pages = boot.command_line().number("pages").unwrap_or(256);
    let mut device = Balloon::open(boot, 0);
    println!("features={:#x}", device.offered);
    balloon::fill(boot, pages);
    println!("touched={pages}");

    let target = device.wait_target(|target| target > 0);
    rt::check!(target < pages, "the target of {target} pages is too much");
    device.send_pages(INFLATE, target);
    device.set_actual(target);
    println!("inflated={target}");

    device.wait_target(|target| target == 0);
    device.send_pages(DEFLATE, target);
    device.set_actual(0);
    for index in 0..target {
        rt::check!(is_given_back(index), "page {index} was not given back");
    }
    for index in target..pages {
        rt::check!(
            is_filled(index),
            "page {index} was not given up and is lost"
        );
    }
    println!("deflated={target}");
}
