//! Prints the generation id.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::{acpi, physical, print, println};

rt::kernel!(main);

const ID_BYTES: u64 = 16;
const PAGE_BYTES: u64 = 4096;

fn main(boot: &BootInfo) {
    let address = acpi::generation_id(boot.rsdp);
    println!("generation_address={address:#x}");
    let is_ram = boot
        .ram()
        .any(|region| region.start < address + PAGE_BYTES && address < region.end);
    rt::check!(!is_ram, "the page is ordinary memory");
    print!("generation=");
    for at in address..address + ID_BYTES {
        print!("{:02x}", physical::read::<u8>(at));
    }
    println!("");
}
