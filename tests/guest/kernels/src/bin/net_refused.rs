//! Sends frames with absurd headers, then offers malformed receive buffers for ever, as fast as the device refuses
//! them. Never ends.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::device_memory::DeviceMemory;
use rt::virtio::{Device, Part, Rings, descriptor_flags, net};
use rt::{clock, println};

rt::kernel!(main);

static RECEIVE: Rings = Rings::zeroed();
static TRANSMIT: Rings = Rings::zeroed();
static FRAME: DeviceMemory<4096> = DeviceMemory::zeroed();

fn main(boot: &BootInfo) {
    let device = Device::find(boot, net::DEVICE_ID, 0);
    let features = device.negotiate(u64::MAX >> 40);
    let mut receive = device.set_up_queue(0, &RECEIVE, features);
    let mut transmit = device.set_up_queue(1, &TRANSMIT, features);
    device.start();
    let frame = Part::readable(FRAME.address(0), 1514);
    // A loop of all descriptors: the device takes longer to refuse it than this kernel to offer it again.
    let buffer = Part::writable(FRAME.address(0), 16);
    for index in 0..receive.size() {
        let next = (index + 1) % receive.size();
        receive.write_descriptor(
            index,
            buffer,
            descriptor_flags::NEXT | descriptor_flags::WRITE,
            next,
        );
    }
    for head in 0..16_u16 {
        let flags = if head % 4 == 3 {
            descriptor_flags::NEXT
        } else {
            0
        };
        transmit.write_descriptor(head, frame, flags, head);
    }
    for round in 0..=u8::MAX {
        // The header, virtio 1.2 §5.1.6: flags, kind of segmentation, lengths and offsets beyond the frame.
        let header = [
            round | 1,
            round,
            0xff,
            0xff,
            round,
            0,
            0xff,
            0xff,
            0xff,
            0xff,
            0,
            0,
        ];
        FRAME.write(0, &header);
        let sent = u16::from(round) * 16;
        for head in 0..16 {
            transmit.publish(head);
        }
        device.notify(1);
        let is_back = clock::spin_until(clock::LONG, || transmit.used_index() == sent + 16);
        rt::check!(is_back, "frames did not come back");
    }
    println!("ready");
    let (mut offered, mut round) = (0_u16, 0_u16);
    loop {
        while offered.wrapping_sub(receive.used_index()) < 128 {
            receive.publish(0);
            offered = offered.wrapping_add(1);
        }
        // In case it ever waits for one.
        round = round.wrapping_add(1);
        if round == 0 {
            device.notify(0);
        }
    }
}
