//! Prints what the VM clock's page says.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::{acpi, physical, println};

rt::kernel!(main);

const PAGE_BYTES: u64 = 4096;

fn main(boot: &BootInfo) {
    let address = acpi::vm_clock(boot.rsdp);
    println!("clock_address={address:#x}");
    let is_ram = boot
        .ram()
        .any(|region| region.start < address + PAGE_BYTES && address < region.end);
    rt::check!(!is_ram, "the page is ordinary memory");
    println!("magic={:#x}", physical::read::<u32>(address));
    println!("size={:#x}", physical::read::<u32>(address + 4));
    println!("version={}", physical::read::<u8>(address + 8));
    println!("counter={:#x}", physical::read::<u8>(address + 10));
    println!("sequence={}", physical::read::<u32>(address + 12));
    println!("flags={:#x}", physical::read::<u64>(address + 24));
    println!("status={}", physical::read::<u8>(address + 34));
}
