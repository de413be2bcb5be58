//! Every processor but the first attacks for a while, by `attack=`; the first reads a disk all the time,
//! which must go well however the others behave.
//!
//! `registers` and `rings` spoil the second disk, `ioapic` and `deadly_ioapic` the interrupt routes, `ports` the
//! legacy ports.

#![no_std]
#![no_main]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use rt::boot::BootInfo;
use rt::device_memory::DeviceMemory;
use rt::virtio::block::{self, Disk, SECTOR_BYTES, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN};
use rt::virtio::mmio::{MmioWindow, registers};
use rt::virtio::status;
use rt::{acpi, apic, clock, physical, port, println, processors};

rt::kernel!(main);

/// How long, in cycles of the time-stamp counter: a second or so.
const DURATION: u64 = 3_000_000_000;

/// Where the rings and buffers of the second disk are; whatever a device is made to write stays inside.
static VICTIM: DeviceMemory<{ 256 * 1024 }> = DeviceMemory::zeroed();
const AVAILABLE: usize = 0x1000;
const USED: usize = 0x2000;
const BUFFERS: usize = 0x4000;

const IOAPIC: u64 = 0xfec0_0000;
/// Below 4 GiB, where no RAM and no device is.
const GAP: u64 = 0xe000_0000;

/// The second disk's registers, and the end of RAM.
static SECOND_WINDOW: AtomicU64 = AtomicU64::new(0);
static RAM_END: AtomicU64 = AtomicU64::new(0);
static ATTACK: AtomicU64 = AtomicU64::new(0);
static OVER: AtomicU64 = AtomicU64::new(0);
static STOPPED: AtomicU64 = AtomicU64::new(0);

/// Numbers that look random (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    fn word(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.roll().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        let index = usize::try_from(self.below(choices.len() as u64)).unwrap_or(0);
        choices[index]
    }
}

fn main(boot: &BootInfo) {
    let mut devices = boot.command_line().devices().map(|device| device.address);
    SECOND_WINDOW.store(devices.nth(1).unwrap_or(0), Ordering::SeqCst);
    let ram_end = boot.ram().map(|region| region.end).max().unwrap_or(0);
    RAM_END.store(ram_end, Ordering::SeqCst);
    let attack = match boot.command_line().value("attack") {
        Some("registers") => 0,
        Some("rings") => 1,
        Some("ioapic") => 2,
        Some("ports") => 3,
        Some("deadly_ioapic") => 4,
        other => rt::fail!("attack={other:?} is not known"),
    };
    ATTACK.store(attack, Ordering::SeqCst);

    let mut disk = Disk::open(boot);
    apic::enable();
    let all = acpi::processors(boot.rsdp);
    let others = all.apic_ids().get(1..).unwrap_or_default();
    for pin in 0..24 {
        write_ioapic(0x11 + 2 * pin, 0x7f00_0000);
    }
    println!("ready");
    processors::start(others, run);
    let mut reads = 0;
    let end = clock::cycles() + DURATION;
    while clock::cycles() < end {
        read(&mut disk, reads);
        reads += 1;
    }
    OVER.store(1, Ordering::SeqCst);
    let have_stopped = clock::spin_until(clock::LONG, || {
        STOPPED.load(Ordering::SeqCst) == others.len() as u64
    });
    // The port may have been left in any mode: 8 bits, not looped, divisor latch closed.
    port::write(0x3fb, 3);
    port::write(0x3fc, 0);
    println!("");
    rt::check!(have_stopped, "a processor hangs");
    // Both disks work once their driver is sane again.
    disk.restart();
    read(&mut disk, 0);
    let outcome = Disk::open_nth(boot, 1).run_one(VIRTIO_BLK_T_IN, 0, SECTOR_BYTES);
    rt::check!(
        outcome.status == VIRTIO_BLK_S_OK,
        "a read of the second disk ended with {outcome:?}"
    );
    println!("reads={reads}");
}

fn read(disk: &mut Disk, count: u64) {
    let outcome = disk.run_one(VIRTIO_BLK_T_IN, count % disk.capacity, SECTOR_BYTES);
    rt::check!(
        outcome.status == VIRTIO_BLK_S_OK && outcome.used_len == 513,
        "read {count} ended with {outcome:?}"
    );
    let byte = block::data(0, 1).next();
    rt::check!(byte == Some(0x5a), "read {count} gave {byte:?}");
}

/// What each of the others does.
fn run(index: usize) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (index as u64) << 32);
    let attack = ATTACK.load(Ordering::SeqCst);
    while OVER.load(Ordering::SeqCst) == 0 {
        match (attack, index) {
            (0, _) => touch_registers(&mut dice),
            (1, 1) => drive_badly(&mut dice),
            (1, _) => scribble(&mut dice),
            (2, _) => program_ioapic(&mut dice, false),
            (4, _) => program_ioapic(&mut dice, true),
            _ => touch_ports(&mut dice),
        }
    }
    STOPPED.fetch_add(1, Ordering::SeqCst);
    // Not to sleep: interrupts that nobody expects may be pending.
    loop {
        core::hint::spin_loop();
    }
}

fn victim() -> MmioWindow {
    MmioWindow::at(SECOND_WINDOW.load(Ordering::Relaxed))
}

/// The ladder with anything between, and any access to the window and around its end.
fn touch_registers(dice: &mut Dice) {
    let device = victim();
    match dice.below(4) {
        0 => device.write(
            registers::STATUS,
            dice.one_of(&[0, 1, 3, 11, 15, 0x80, 0x4f]),
        ),
        1 => {
            device.write(registers::DRIVER_FEATURES_SEL, 1);
            device.write(registers::DRIVER_FEATURES, 1);
        }
        2 => set_up(device),
        _ => {
            let window = SECOND_WINDOW.load(Ordering::Relaxed);
            let at = window + dice.below(0x1000);
            // Past the last device's window is nobody's.
            access(at, dice);
        }
    }
}

/// One access of any width, aligned or not.
fn access(at: u64, dice: &mut Dice) {
    let (value, kind) = (dice.roll(), dice.below(8));
    // SAFETY: a device register, or nobody's address: no memory of this kernel.
    unsafe {
        match kind {
            0 => asm!("mov [{at}], {value:l}", at = in(reg) at, value = in(reg) value),
            1 => asm!("mov [{at}], {value:x}", at = in(reg) at, value = in(reg) value),
            2 => asm!("mov [{at}], {value:e}", at = in(reg) at, value = in(reg) value),
            3 => asm!("mov [{at}], {value:r}", at = in(reg) at, value = in(reg) value),
            4 => asm!("mov {value:l}, [{at}]", at = in(reg) at, value = out(reg) _),
            5 => asm!("mov {value:x}, [{at}]", at = in(reg) at, value = out(reg) _),
            6 => asm!("mov {value:e}, [{at}]", at = in(reg) at, value = out(reg) _),
            _ => asm!("mov {value:r}, [{at}]", at = in(reg) at, value = out(reg) _),
        }
    }
}

/// Gives the device the rings in [`VICTIM`] and starts it, whatever others do to it meanwhile.
fn set_up(device: MmioWindow) {
    device.write(registers::STATUS, 0);
    device.write(registers::STATUS, status::ACKNOWLEDGE);
    device.write(registers::STATUS, status::ACKNOWLEDGE | status::DRIVER);
    device.write(registers::DRIVER_FEATURES_SEL, 1);
    device.write(registers::DRIVER_FEATURES, 1);
    device.write(registers::STATUS, 11);
    device.write(registers::QUEUE_SEL, 0);
    device.write(registers::QUEUE_NUM, 256);
    for (register, offset) in [
        (registers::QUEUE_DESC, 0),
        (registers::QUEUE_DRIVER, AVAILABLE),
        (registers::QUEUE_DEVICE, USED),
    ] {
        let address = u32::try_from(VICTIM.address(offset)).unwrap_or(0);
        device.write(register, address);
        device.write(register + 4, 0);
    }
    device.write(registers::QUEUE_READY, 1);
    device.write(registers::STATUS, 15);
}

/// Adds heads and kicks, now and then far too many; starts over when the device gives up.
fn drive_badly(dice: &mut Dice) {
    let device = victim();
    set_up(device);
    for head in 0..=255_u8 {
        let slot = AVAILABLE + 4 + 2 * usize::from(head);
        VICTIM.write(slot, &[dice.roll().to_le_bytes()[0], 0]);
    }
    for _ in 0..200 {
        let mut index = [0; 2];
        VICTIM.read(USED + 2, &mut index);
        let ahead = dice.one_of(&[1, 8, 64, 255, 256, 257, 0x8000]);
        let ahead = if dice.below(16) == 0 { ahead } else { 8 };
        let next = u16::from_le_bytes(index).wrapping_add(ahead);
        VICTIM.write(AVAILABLE + 2, &next.to_le_bytes());
        device.write(registers::QUEUE_NOTIFY, 0);
        if device.status() & status::DEVICE_NEEDS_RESET != 0 {
            break;
        }
    }
}

/// Rewrites descriptors and headers while the device reads them.
fn scribble(dice: &mut Dice) {
    let ram_end = RAM_END.load(Ordering::Relaxed);
    let inside = usize::try_from(dice.below(0x1_0000)).unwrap_or(0);
    let address = match dice.below(8) {
        0 => dice.one_of(&[GAP, IOAPIC, u64::MAX - 8, 1 << 46, ram_end - 8, ram_end]),
        1 => VICTIM.address(inside & !0xfff),
        _ => VICTIM.address(BUFFERS + (inside & !0xf)),
    };
    let len = match dice.below(8) {
        0 => dice.one_of(&[0, 1, 8, u32::MAX]),
        1 => 0x8000,
        2..5 => 16,
        _ => 512,
    };
    let [flags, next, ..] = dice.roll().to_le_bytes();
    let mut descriptor = [0; 16];
    descriptor[..8].copy_from_slice(&address.to_le_bytes());
    descriptor[8..12].copy_from_slice(&len.to_le_bytes());
    descriptor[12] = flags & 7;
    descriptor[14] = next;
    let at = usize::try_from(dice.below(256)).unwrap_or(0);
    VICTIM.write(16 * at, &descriptor);
    // Some buffer becomes a header: read, write or flush of some sector near the end.
    let mut header = [0; 16];
    header[0] = dice.one_of(&[0, 1, 4, 8, 9]);
    header[8] = dice.roll().to_le_bytes()[0] & 31;
    VICTIM.write(BUFFERS + (inside & !0xf), &header);
}

/// Every entry with every delivery mode. For those that no kernel survives every destination is a processor that
/// does not exist, whichever half of the entry a value ends up in: others select and write between.
fn program_ioapic(dice: &mut Dice, is_deadly: bool) {
    let register = u32::try_from(0x10 + dice.below(52)).unwrap_or(0);
    let value = if is_deadly {
        let mode = dice.one_of(&[2, 4, 5, 6]);
        0x7f00_0000 | dice.word() & 0x0001_f0ff | mode << 8
    } else {
        dice.word() & !0x700 | dice.one_of(&[0, 1, 3, 7]) << 8
    };
    write_ioapic(register, value);
    access(IOAPIC + 0x20 + dice.below(0xfd0), dice);
}

fn write_ioapic(register: u32, value: u32) {
    // SAFETY: a device register.
    unsafe { physical::write(IOAPIC, register) };
    // SAFETY: a device register.
    unsafe { physical::write(IOAPIC + 0x10, value) };
}

/// All ports of the serial port and the keyboard controller and those around, but nothing that resets.
fn touch_ports(dice: &mut Dice) {
    let offset = u16::try_from(dice.below(12)).unwrap_or(0);
    let (first, value) = match dice.below(2) {
        0 => (0x5e, dice.word()),
        _ => (0x3f6, dice.word()),
    };
    let at = first + offset;
    // Bytes that reset: commands 0xd1 and 0xf0 to 0xfe, and a parameter after 0xd1.
    let value = if first == 0x5e {
        value & 0x7f7f_7f7f
    } else {
        value
    };
    let kind = dice.below(6);
    // SAFETY: a port access touches no memory of this kernel.
    unsafe {
        match kind {
            0 => asm!("out dx, al", in("dx") at, in("eax") value),
            1 => asm!("out dx, ax", in("dx") at, in("eax") value),
            2 => asm!("out dx, eax", in("dx") at, in("eax") value),
            3 => asm!("in al, dx", in("dx") at, out("eax") _),
            4 => asm!("in ax, dx", in("dx") at, out("eax") _),
            _ => asm!("in eax, dx", in("dx") at, out("eax") _),
        }
    }
}
