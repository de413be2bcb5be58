//! One guest with a disk and a network card, for people to watch: says that it runs, writes its disk and
//! reads it back, then answers on the network until a datagram with the text `quit`.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::interrupts::DeviceVector;
use rt::virtio::block::{Disk, SECTOR_BYTES};
use rt::virtio::net::Nic;
use rt::{echo, pattern, println};

rt::kernel!(main);

fn main(boot: &BootInfo) {
    println!("up, entered by {}", boot.protocol.name());

    let seed = boot.command_line().number("seed").unwrap_or(1);
    let mut disk = Disk::open(boot);
    let bytes = disk.capacity * SECTOR_BYTES as u64;
    println!("disk: {bytes} bytes, writing all of it");
    pattern::write(&mut disk, seed);
    let sum = pattern::read_back(&mut disk, seed);
    println!(
        "disk: read back as written, disk_bytes={bytes} disk_fnv1a64={:016x}",
        sum.value()
    );

    let ip = echo::address(boot);
    let mut nic = Nic::open(boot, DeviceVector::new(0));
    let [a, b, c, d, e, f] = nic.mac;
    let [i, j, k, l] = ip;
    println!("net: {i}.{j}.{k}.{l} at {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, ready");
    let counters = echo::answer_until_quit(&mut nic, ip);
    println!(
        "net: answered arp={} icmp={} udp={} udp_bytes={} of received={}",
        counters.arp, counters.icmp, counters.udp, counters.udp_bytes, counters.received
    );
}
