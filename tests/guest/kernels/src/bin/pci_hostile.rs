//! Writes garbage wherever PCI can be written, moves windows to where they do not belong, and looks each
//! time whether RAM, the other devices and this one took harm.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::device_memory::DeviceMemory;
use rt::interrupts::DeviceVector;
use rt::pci::{self, COMMAND_MEMORY_AND_MASTER, Function, MSIX, header};
use rt::virtio::block::{Disk, Request, SECTOR_BYTES, VIRTIO_BLK_T_IN};
use rt::{apic, clock, gates, physical, println};

rt::kernel!(main);

const PATTERNS: [u8; 5] = [0x00, 0x01, 0x55, 0x80, 0xff];
/// Bytes of a device's window.
const WINDOW: u64 = 512 << 10;
/// Where windows do not belong, besides RAM and other windows: local APIC, I/O APIC, configuration space,
/// nothing, and the end of the address space.
const ELSEWHERE: [u64; 5] = [
    0xfee0_0000,
    0xfec0_0000,
    0xeec0_0000,
    0x8_0000_0000,
    0xffff_ffff_fff8_0000,
];
const UNTOUCHED: u8 = 0x5a;

static RAM: DeviceMemory<4096> = DeviceMemory::zeroed();

/// What of a function must outlive any garbage.
#[derive(Clone, Copy)]
struct Kept {
    function: Function,
    id: u32,
    class: u32,
    window: u64,
}

fn main(boot: &BootInfo) {
    RAM.write(0, &[UNTOUCHED; 4096]);
    let mut disk = Disk::open(boot);
    let mut kept: [Option<Kept>; 32] = [None; 32];
    let mut count = 0;
    for function in pci::functions(boot) {
        let has_window = function.read::<u32>(header::BASE_ADDRESS_0) != 0;
        kept[count] = Some(Kept {
            function,
            id: function.id(),
            class: function.read(header::CLASS),
            window: if has_window { function.window() } else { 0 },
        });
        count += 1;
    }
    println!("functions={count}");

    configuration_garbage(&kept);
    check(&kept, &mut disk, "configuration garbage");
    nobody_home();
    check(&kept, &mut disk, "accesses to nobody");
    for device in kept.iter().flatten().filter(|device| device.window != 0) {
        move_window(device, &kept);
        check(&kept, &mut disk, "a moved window");
        window_garbage(device);
        device.function.enable();
        check(&kept, &mut disk, "garbage in a window");
        message_garbage(device, &mut disk);
        check(&kept, &mut disk, "garbage in messages");
    }
    interrupts_still_arrive(&mut disk);
}

/// Every byte, half and word of every space, both ways; then what the driver needs is put back.
fn configuration_garbage(kept: &[Option<Kept>]) {
    for device in kept.iter().flatten() {
        for pattern in PATTERNS {
            let word = u32::from_le_bytes([pattern; 4]);
            for offset in (0..=0xfc_u8).step_by(4) {
                pci::write_by_port(device.function.device, offset, word);
            }
            for offset in (0..0x110).chain(0xff0..0x1000) {
                let function = device.function;
                function.write(offset, pattern);
                if offset % 2 == 0 {
                    function.write(offset, u16::from_le_bytes([pattern; 2]));
                }
                if offset % 4 == 0 {
                    function.write(offset, word);
                    let _: u32 = function.read(offset);
                }
            }
        }
        put_back(device);
    }
}

/// Devices that do not exist, functions that do not exist, another bus.
fn nobody_home() {
    for device in 30..pci::DEVICES {
        pci::write_by_port(device, 0x10, 0);
        let found = pci::read_by_port(device, 0);
        rt::check!(found == u32::MAX, "device {device} reads as {found:#x}");
    }
    // Function 1 of device 1, by memory.
    let found: u32 = physical::read(0xeec0_9000);
    rt::check!(found == u32::MAX, "a second function reads as {found:#x}");
}

/// The window goes elsewhere: it falls silent, and what was there stays.
fn move_window(device: &Kept, all: &[Option<Kept>]) {
    let others = all.iter().flatten().map(|other| other.window);
    let others = others.filter(|window| *window != device.window);
    let places = ELSEWHERE
        .into_iter()
        .chain([RAM.address(0) & !(WINDOW - 1), 0])
        .chain(others);
    for place in places {
        set_window(device.function, place);
        let silent: u32 = physical::read(device.window);
        rt::check!(
            silent == u32::MAX,
            "moved to {place:#x}, it reads as {silent:#x} at its old place"
        );
        // SAFETY: the window of a device, which must not hear it.
        unsafe { physical::write(device.window + 0x14, 0_u8) };
        let apic = apic::id();
        rt::check!(apic == 0, "the local APIC is gone: id {apic}");
    }
    // Decoding off is as silent.
    set_window(device.function, device.window);
    device.function.write(header::COMMAND, 0_u16);
    let silent: u32 = physical::read(device.window);
    rt::check!(silent == u32::MAX, "closed, it reads as {silent:#x}");
    put_back(device);
}

/// The structures, their edges and what is between them, in every width.
fn window_garbage(device: &Kept) {
    let offsets = (0..0x40)
        .chain(0x1ffc..0x2004)
        .chain(0x4000..0x4008)
        .chain(0x5ff8..0x6010)
        .chain(0x6ffc..0x7000)
        .chain(0x4_7ff8..0x4_8008)
        .chain(WINDOW - 8..WINDOW);
    for offset in offsets {
        for pattern in [0x00, 0xff] {
            let at = device.window + offset;
            // SAFETY: a device register. No status or ring that this leads to starts a device: features
            // are never agreed on.
            unsafe {
                physical::write(at, pattern);
                if offset % 2 == 0 {
                    physical::write(at, u16::from_le_bytes([pattern; 2]));
                }
                if offset % 4 == 0 {
                    physical::write(at, u32::from_le_bytes([pattern; 4]));
                }
                if offset % 8 == 0 {
                    physical::write(at, u64::from_le_bytes([pattern; 8]));
                }
            }
            let _: u8 = physical::read(at);
        }
    }
}

/// Messages to nobody, opened, with requests going on; the table and beyond.
fn message_garbage(device: &Kept, disk: &mut Disk) {
    let function = device.function;
    let Some(capability) = function.capabilities(MSIX).next() else {
        rt::fail!("device {} has no MSI-X", function.device);
    };
    let control = capability + 2;
    let table = device.window + 0x8000;
    // Not an APIC's, an APIC that does not exist, upper bits.
    for (address, upper) in [(0x1000_u32, 0_u32), (0xfee5_5000, 0), (0xfee0_0000, 1)] {
        for open in [0x8000_u16, 0xc000, 0x0000, 0x8000] {
            for entry in (0..64).map(|entry| table + 16 * entry) {
                for (field, word) in [(0, address), (4, upper), (8, u32::MAX), (12, 0)] {
                    // SAFETY: a device register.
                    unsafe { physical::write(entry + field, word) };
                }
            }
            function.write(control, open);
            read(disk, "messages to nobody");
        }
    }
    // All masked again, and off.
    for entry in (0..4).map(|entry| table + 16 * entry) {
        // SAFETY: a device register.
        unsafe { physical::write(entry + 12, 1_u32) };
    }
    function.write(control, 0_u16);
}

/// Everybody is still who they were, RAM is as it was, and the disk reads.
fn check(kept: &[Option<Kept>], disk: &mut Disk, after: &str) {
    for device in kept.iter().flatten() {
        let function = device.function;
        let (id, class) = (function.id(), function.read::<u32>(header::CLASS));
        rt::check!(
            id == device.id && class == device.class,
            "{after}: device {} is now {id:#x} of class {class:#x}",
            function.device
        );
    }
    let is_untouched = RAM.bytes(0..4096).all(|byte| byte == UNTOUCHED);
    rt::check!(is_untouched, "{after}: RAM changed");
    disk.restart();
    read(disk, after);
}

fn read(disk: &mut Disk, after: &str) {
    let outcome = disk.run_one(VIRTIO_BLK_T_IN, 0, SECTOR_BYTES);
    rt::check!(
        outcome.status == 0,
        "{after}: a read ended with {outcome:?}"
    );
}

fn interrupts_still_arrive(disk: &mut Disk) {
    let vector = DeviceVector::new(1);
    disk.restart();
    apic::enable();
    disk.device.route_interrupts(vector);
    gates::enable_interrupts();
    disk.queue.request_interrupt();
    disk.add(
        0,
        Request {
            kind: VIRTIO_BLK_T_IN,
            sector: 0,
            len: SECTOR_BYTES,
        },
    );
    disk.queue.kick();
    let arrived = clock::spin_until(clock::LONG, || vector.count() > 0);
    rt::check!(arrived, "no interrupt after all that");
}

fn put_back(device: &Kept) {
    set_window(device.function, device.window);
    device
        .function
        .write(header::COMMAND, COMMAND_MEMORY_AND_MASTER);
    if let Some(capability) = device.function.capabilities(MSIX).next() {
        device.function.write(capability + 2, 0_u16);
    }
}

fn set_window(function: Function, address: u64) {
    let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
    let (low, high) = ([a, b, c, d], [e, f, g, h]);
    function.write(header::BASE_ADDRESS_0, u32::from_le_bytes(low));
    function.write(header::BASE_ADDRESS_0 + 4, u32::from_le_bytes(high));
}
