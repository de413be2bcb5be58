//! Answers ARP requests for `ip=`, ICMP echo requests and UDP datagrams to port 7, until a datagram
//! with the text `quit`.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::interrupts::DeviceVector;
use rt::virtio::net::Nic;
use rt::{echo, println};

rt::kernel!(main);

fn main(boot: &BootInfo) {
    let ip = echo::address(boot);
    let mut nic = Nic::open(boot, DeviceVector::new(0));
    let [a, b, c, d, e, f] = nic.mac;
    println!("mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    println!("ready");

    let counters = echo::answer_until_quit(&mut nic, ip);
    println!("received={}", counters.received);
    println!("arp={}", counters.arp);
    println!("icmp={}", counters.icmp);
    println!("udp={}", counters.udp);
    println!("udp_bytes={}", counters.udp_bytes);
}
