//! Asks for memory in every wrong way, touches what is not there, and points other devices at it.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::println;
use rt::virtio::Part;
use rt::virtio::block::{
    self, Disk, Request, SECTOR_BYTES, STATUS_UNTOUCHED, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
};
use rt::virtio::mem::{
    self, ACK, ERROR, Mem, NACK, PLUG, REQUEST_BYTES, STATE, UNPLUG, UNPLUG_ALL,
};

rt::kernel!(main);

fn main(boot: &BootInfo) {
    let mut disk = Disk::open(boot);
    let mut device = Mem::open(boot);
    let (start, block) = (device.region().start, device.block_size());
    mem::map(device.region());
    rt::check!(
        device.ask(PLUG, start, 1).0 == ERROR,
        "nothing is usable yet"
    );
    println!("ready");
    let wanted = device.wait_requested(|requested| requested > 0);
    let usable = device.usable();

    rt::check!(device.ask(PLUG, start + block, 1).0 == ACK, "a good one");
    let mut refused = 0;
    for kind in [PLUG, UNPLUG, STATE] {
        for (address, blocks) in [
            (start + 1, 1),
            (start + block / 2, 1),
            (start, 0),
            (start, u16::MAX),
            (start - block, 1),
            (start - block, 2),
            (start + usable, 1),
            (start + usable - block, 2),
            (0, 1),
            (u64::MAX, 1),
            (u64::MAX - block + 1, u16::MAX),
            (1 << 63, 1),
        ] {
            let (response, _) = device.ask(kind, address, blocks);
            rt::check!(
                response == ERROR,
                "{kind} {address:#x} {blocks}: {response}"
            );
            refused += 1;
        }
    }
    for (kind, address, blocks) in [
        (PLUG, start + block, 1),
        (PLUG, start, 2),
        (UNPLUG, start, 1),
        (UNPLUG, start + block, 2),
        (4, start, 1),
        (u16::MAX, start, 1),
    ] {
        rt::check!(device.ask(kind, address, blocks).0 == ERROR, "{kind}");
        refused += 1;
    }
    let too_many = u16::try_from(wanted / block).unwrap_or(u16::MAX);
    rt::check!(
        device.ask(PLUG, start + 2 * block, too_many).0 == NACK,
        "more than requested"
    );
    println!("refused={refused}");

    without_messages(&mut device, start);
    point_disk(&mut disk, start, block);

    // The answer lies in the block that goes with the request.
    let request = device.write_request(UNPLUG, start + block, 1);
    let used = device.send(&[request, Part::writable(start + block, 10)]);
    rt::check!(used.len == 10, "{} bytes of response", used.len);
    rt::check!(device.plugged() == 0, "it is still plugged");
    mem::fill(start + block..start + 2 * block);
    rt::check!(
        mem::is_zero(start + block..start + block + 4096),
        "what is gone takes writes"
    );
    let is_done = read_into(&mut disk, start + block) == VIRTIO_BLK_S_OK;
    rt::check!(!is_done, "the disk wrote to what is gone");

    for round in 0..50 {
        rt::check!(device.ask(PLUG, start, 3).0 == ACK, "round {round}");
        mem::fill(start..start + 4096);
        rt::check!(device.ask(UNPLUG_ALL, 0, 0).0 == ACK, "round {round}");
    }
    rt::check!(!device.device.needs_reset(), "the device gave up");
    println!("done=yes");
}

/// Requests and answers that are too short, or lie in what is not plugged.
fn without_messages(device: &mut Mem, start: u64) {
    let request = device.write_request(UNPLUG_ALL, 0, 0);
    let whole = device.response();
    let short = Part::readable(request.address, REQUEST_BYTES - 1);
    let nowhere = Part::readable(start, REQUEST_BYTES);
    let small = Part::writable(whole.address, 9);
    for parts in [
        &[short, whole][..],
        &[nowhere, whole],
        &[request, small],
        &[request, Part::writable(start, 10)],
        &[request],
        &[whole],
    ] {
        let used = device.send(parts);
        rt::check!(used.len == 0, "{} bytes of response", used.len);
        rt::check!(device.plugged() > 0, "it was done all the same");
    }
}

/// Has the disk read and write memory, the plugged block and those around it.
fn point_disk(disk: &mut Disk, start: u64, block: u64) {
    rt::check!(
        read_into(disk, start + block) == VIRTIO_BLK_S_OK,
        "the disk cannot read into plugged memory"
    );
    for address in [start, start + block - 256, start + 2 * block - 256] {
        let status = read_into(disk, address);
        rt::check!(status != VIRTIO_BLK_S_OK, "read into {address:#x}");
    }
    disk.run_well(&[Request {
        kind: VIRTIO_BLK_T_OUT,
        sector: 0,
        len: SECTOR_BYTES,
    }]);
}

/// Reads a sector to `address`; the status, or that there was none.
fn read_into(disk: &mut Disk, address: u64) -> u8 {
    block::write_header(0, VIRTIO_BLK_T_IN, 0);
    disk.queue.add(&[
        Part::readable(block::header_address(0), 16),
        Part::writable(address, 512),
        Part::writable(block::status_address(0), 1),
    ]);
    disk.queue.kick();
    disk.queue.wait_used();
    rt::check!(!disk.device.needs_reset(), "the disk gave up");
    let status = block::status(0);
    if status == STATUS_UNTOUCHED {
        1
    } else {
        status
    }
}
