//! A device over MMIO, version 2 only (virtio 1.2 §4.2).

use super::{Doorbell, RingAddresses, halves};
use crate::boot::BootInfo;
use crate::interrupts::DeviceVector;
use crate::{apic, physical};

/// Register offsets (virtio 1.2 §4.2.2).
pub mod registers {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const MAGIC_VALUE: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC: u64 = 0x080;
    pub const QUEUE_DRIVER: u64 = 0x090;
    pub const QUEUE_DEVICE: u64 = 0x0a0;
    pub const CONFIG: u64 = 0x100;
}

/// "virt".
const MAGIC: u32 = 0x7472_6976;

/// The register window of one device.
#[derive(Clone, Copy, Debug)]
pub struct MmioWindow {
    base: u64,
    gsi: u32,
}

impl MmioWindow {
    /// The window at `base`, whatever is in it; its interrupt is not known.
    pub fn at(base: u64) -> Self {
        Self { base, gsi: 0 }
    }

    /// The devices with this ID that the command line announces.
    pub(super) fn all(boot: &BootInfo, device_id: u32) -> impl Iterator<Item = Self> {
        boot.command_line()
            .devices()
            .map(|announced| Self {
                base: announced.address,
                gsi: announced.gsi,
            })
            .filter(move |window| window.id() == device_id)
    }

    pub(super) fn route_interrupts(self, vector: DeviceVector) {
        apic::route(self.gsi, vector);
    }

    pub(super) fn doorbell(self, queue: u32) -> Doorbell {
        Doorbell::Word(self.base + registers::QUEUE_NOTIFY, queue)
    }

    pub(super) fn set_driver_features(self, select: u32, half: u32) {
        self.write(registers::DRIVER_FEATURES_SEL, select);
        self.write(registers::DRIVER_FEATURES, half);
    }

    pub(super) fn device_features(self, select: u32) -> u32 {
        self.write(registers::DEVICE_FEATURES_SEL, select);
        self.read(registers::DEVICE_FEATURES)
    }

    /// Selects a queue; gives its greatest size.
    pub(super) fn select_queue(self, index: u32) -> u32 {
        self.write(registers::QUEUE_SEL, index);
        let ready = self.read(registers::QUEUE_READY);
        crate::check!(ready == 0, "queue {index} is ready before it is set up");
        self.read(registers::QUEUE_NUM_MAX)
    }

    pub(super) fn enable_queue(self, size: u16, rings: RingAddresses) {
        self.write(registers::QUEUE_NUM, u32::from(size));
        for (register, address) in [
            (registers::QUEUE_DESC, rings.descriptors),
            (registers::QUEUE_DRIVER, rings.available),
            (registers::QUEUE_DEVICE, rings.used),
        ] {
            let [low, high] = halves(address);
            self.write(register, low);
            self.write(register + 4, high);
        }
        self.write(registers::QUEUE_READY, 1);
    }

    pub(super) fn acknowledge_interrupt(self) -> u32 {
        let reasons = self.read(registers::INTERRUPT_STATUS);
        self.write(registers::INTERRUPT_ACK, reasons);
        reasons
    }

    /// The device status.
    pub fn status(self) -> u32 {
        self.read(registers::STATUS)
    }

    pub(super) fn set_status(self, status: u32) {
        self.write(registers::STATUS, status);
    }

    pub(super) fn config(self) -> u64 {
        self.base + registers::CONFIG
    }

    fn id(self) -> u32 {
        let magic = self.read(registers::MAGIC_VALUE);
        crate::check!(magic == MAGIC, "magic {magic:#x} at {:#x}", self.base);
        let version = self.read(registers::VERSION);
        crate::check!(
            version == 2,
            "virtio-mmio version {version} at {:#x}",
            self.base
        );
        self.read(registers::DEVICE_ID)
    }

    /// Reads a register.
    pub fn read(self, register: u64) -> u32 {
        physical::read(self.base + register)
    }

    /// Writes a register.
    pub fn write(self, register: u64, value: u32) {
        // SAFETY: a device register. What the device may write in turn are `Rings` and
        // `DeviceMemory`, which are atomics.
        unsafe { physical::write(self.base + register, value) };
    }
}
