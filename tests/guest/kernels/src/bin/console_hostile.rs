//! Breaks the rules of the console, one at a time; after each it must print as before.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::println;
use rt::virtio::Part;
use rt::virtio::console::{Console, address};
use rt::virtio::descriptor_flags::{INDIRECT, NEXT, WRITE};

rt::kernel!(main);

/// Address, length, flags, next; the first is the head.
type Raw = (u64, u32, u16, u16);

fn main(boot: &BootInfo) {
    let data = address(0);
    let far = u64::MAX - 7;
    let chains: &[&[Raw]] = &[
        &[(data, 0, 0, 0)],
        &[(data, 8, WRITE, 0)],
        &[(data, 8, NEXT, 1), (data, 8, WRITE, 0)],
        &[(data, 8, NEXT, 0)],
        &[(data, 8, NEXT, u16::MAX)],
        &[(far, 16, 0, 0)],
        &[(0x4000_0000_0000, 16, 0, 0)],
        &[(data, u32::MAX, 0, 0)],
        &[(data, 16, INDIRECT, 0)],
    ];
    let mut console = Console::open(boot);
    let mut cases = 0;
    for queue in 0..2 {
        for chain in chains {
            let device = console.device;
            let broken = if queue == 0 {
                &mut console.receive
            } else {
                &mut console.transmit
            };
            for (index, (address, len, flags, next)) in (0..).zip(*chain) {
                broken.write_descriptor(index, Part::readable(*address, *len), *flags, *next);
            }
            broken.publish(0);
            broken.notify();
            // What the device makes of it is its affair; a reset must bring it back.
            device.reset();
            console = Console::start(device);
            console.print(b"ok\n", 3);
            cases += 1;
        }
    }
    println!("cases={cases}");
}
