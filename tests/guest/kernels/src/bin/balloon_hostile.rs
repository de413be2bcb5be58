//! Gives up pages that are none, in lists that are none; the device answers each and takes nothing else.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::println;
use rt::virtio::Part;
use rt::virtio::balloon::{
    self, Balloon, DEFLATE, INFLATE, frame, is_filled, is_given_back, page, write_frames,
};

rt::kernel!(main);

/// Pages that no list names.
const KEPT: u64 = 64;

fn main(boot: &BootInfo) {
    let mut device = Balloon::open(boot, 0);
    balloon::fill(boot, KEPT + 2);
    let end = boot.ram().map(|region| region.end).max().unwrap_or(0);
    let registers = 0xc000_1000;
    let mut cases = 0;
    let mut try_list = |device: &mut Balloon, name: &str, list: Part| {
        for queue in [INFLATE, DEFLATE] {
            let used = device.send(queue, &[list]);
            rt::check!(used.len == 0, "{name}: {} bytes written", used.len);
            rt::check!(!device.device.needs_reset(), "{name}: it needs a reset");
        }
        cases += 1;
    };
    for (name, address) in [
        ("end_of_ram", end),
        ("registers", registers),
        ("local_apic", 0xfee0_0000),
        ("highest", u64::from(u32::MAX) << 12),
    ] {
        let list = write_frames(&[frame(address)]);
        try_list(&mut device, name, list);
    }
    let all = [u32::MAX; 256];
    try_list(&mut device, "many", write_frames(&all));
    let mut ragged = write_frames(&[frame(page(0)); 2]);
    ragged.len -= 1;
    try_list(&mut device, "ragged", ragged);
    let whole_memory = Part::readable(page(0), 64 << 20);
    try_list(&mut device, "endless", whole_memory);
    let list = write_frames(&[frame(page(0))]);
    try_list(&mut device, "writable", Part::writable(list.address, 4));
    let outside = Part::readable(end, 4096);
    try_list(&mut device, "list_outside_ram", outside);

    for index in 0..KEPT {
        rt::check!(is_filled(index), "page {index} is lost");
    }
    // Good pages among bad ones are given up all the same.
    let mixed = [
        u32::MAX,
        frame(page(KEPT + 1)),
        frame(end),
        frame(page(KEPT)),
    ];
    device.send(INFLATE, &[write_frames(&mixed)]);
    rt::check!(
        is_given_back(KEPT) && is_given_back(KEPT + 1),
        "good pages were not given back"
    );
    println!("cases={cases}");
}
