//! Touches memory and names it as free during a run of hints, and some of it before and after.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::clock;
use rt::println;
use rt::virtio::Part;
use rt::virtio::balloon::{
    self, Balloon, FEATURE, PAGE_BYTES, VIRTIO_BALLOON_CMD_ID_DONE, VIRTIO_BALLOON_CMD_ID_STOP,
    VIRTIO_BALLOON_F_FREE_PAGE_HINT, is_filled, is_given_back, page,
};

rt::kernel!(main);

fn main(boot: &BootInfo) {
    let pages = boot.command_line().number("pages").unwrap_or(256);
    let mut device = Balloon::open(boot, VIRTIO_BALLOON_F_FREE_PAGE_HINT);
    balloon::fill(boot, pages);
    let (first, last) = (0, pages - 1);
    hint(&mut device, first);
    println!("touched={pages}");

    wait_command(&device, |command| command > VIRTIO_BALLOON_CMD_ID_DONE);
    let run = device.command();
    println!("run={run}");
    device.send(FEATURE, &[balloon::write_bytes(&run.to_le_bytes())]);
    for index in 1..last {
        hint(&mut device, index);
    }
    let stop = balloon::write_bytes(&VIRTIO_BALLOON_CMD_ID_STOP.to_le_bytes());
    device.send(FEATURE, &[stop]);
    println!("hinted={}", pages - 2);
    wait_command(&device, |command| command == VIRTIO_BALLOON_CMD_ID_DONE);
    hint(&mut device, last);

    for index in 1..last {
        rt::check!(is_given_back(index), "page {index} was not given back");
    }
    rt::check!(is_filled(first), "a page was given back before the run");
    rt::check!(is_filled(last), "a page was given back after the run");
    println!("done");
    device.wait_target(|target| target > 0);
}

fn hint(device: &mut Balloon, index: u64) {
    let len = u32::try_from(PAGE_BYTES).unwrap_or(0);
    device.send(FEATURE, &[Part::writable(page(index), len)]);
}

fn wait_command(device: &Balloon, is_right: impl Fn(u32) -> bool) {
    let is_in_time = clock::spin_until(6 * clock::LONG, || is_right(device.command()));
    rt::check!(is_in_time, "the command stays at {}", device.command());
}
