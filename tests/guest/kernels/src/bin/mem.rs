//! Plugs as much memory as is requested, fills it, and unplugs it when less is requested.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::println;
use rt::virtio::mem::{self, ACK, MIXED, Mem, PLUG, PLUGGED, STATE, UNPLUG, UNPLUGGED};

rt::kernel!(main);

/// Bytes of unplugged memory that are read: each page is an exit.
const SAMPLE: u64 = 64 << 10;

fn main(boot: &BootInfo) {
    let mut device = Mem::open(boot);
    let region = device.region();
    println!("start={:#x}", region.start);
    println!("size={}", region.end - region.start);
    println!("block={}", device.block_size());
    rt::check!(
        boot.ram()
            .all(|ram| ram.end <= region.start || region.end <= ram.start),
        "it overlaps RAM"
    );
    println!("usable={} plugged={}", device.usable(), device.plugged());

    let wanted = device.wait_requested(|requested| requested > 0);
    rt::check!(device.usable() >= wanted, "not all of it is usable");
    let blocks = u16::try_from(wanted / device.block_size()).unwrap_or(u16::MAX);
    mem::map(region.clone());
    // One by one from the end, as few drivers do, then read at once.
    for block in (0..blocks).rev() {
        let at = region.start + u64::from(block) * device.block_size();
        rt::check!(device.ask(PLUG, at, 1) == (ACK, 0), "block {block}");
    }
    rt::check!(device.plugged() == wanted, "{} plugged", device.plugged());
    rt::check!(
        device.ask(STATE, region.start, blocks) == (ACK, PLUGGED),
        "it is not plugged"
    );
    let all = region.start..region.start + wanted;
    rt::check!(mem::is_zero(all.clone()), "it is not fresh");
    mem::fill(all.clone());
    println!("filled={wanted}");

    let kept = device.wait_requested(|requested| requested < wanted);
    let kept_blocks = u16::try_from(kept / device.block_size()).unwrap_or(0);
    let middle = region.start + kept;
    rt::check!(
        device.ask(UNPLUG, middle, blocks - kept_blocks) == (ACK, 0),
        "it does not go"
    );
    if kept > 0 {
        rt::check!(
            device.ask(STATE, region.start, blocks) == (ACK, MIXED),
            "some is plugged and some is not"
        );
    }
    rt::check!(
        device.ask(STATE, middle, blocks - kept_blocks) == (ACK, UNPLUGGED),
        "it is still plugged"
    );
    rt::check!(mem::is_filled(all.start..middle), "what is kept is lost");
    let tail = all.end - SAMPLE..all.end;
    rt::check!(mem::is_zero(tail.clone()), "what is gone can be read");
    println!("kept={kept}");

    device.wait_requested(|requested| requested == wanted);
    rt::check!(
        device.ask(PLUG, middle, blocks - kept_blocks) == (ACK, 0),
        "it does not come back"
    );
    rt::check!(mem::is_zero(middle..all.end), "it is not fresh again");
    mem::fill(middle..all.end);
    rt::check!(mem::is_filled(all), "it does not hold what is written");
    println!("refilled={wanted}");
    rt::check!(!device.device.needs_reset(), "the device gave up");
}
