//! The driver's side of virtio over MMIO: registers, initialization, queues, and the drivers on top.
//!
//! Source: virtio 1.2, §3.1 (initialization), §4.2 (MMIO, version 2 only), §2.7 (split virtqueues).

pub mod block;
pub mod net;
mod queue;

pub use queue::{Part, Queue, Rings, Used, descriptor_flags};

use crate::boot::BootInfo;
use crate::{clock, physical};

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

/// Device status bits (virtio 1.2 §2.1).
pub mod status {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const DEVICE_NEEDS_RESET: u32 = 64;
}

/// Device-independent feature bits (virtio 1.2 §6).
pub const VIRTIO_F_VERSION_1: u64 = 1 << 32;
/// See [`VIRTIO_F_VERSION_1`].
pub const VIRTIO_F_EVENT_IDX: u64 = 1 << 29;

/// "virt".
const MAGIC: u32 = 0x7472_6976;

/// The register window of one device.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    base: u64,
    gsi: u32,
}

impl Device {
    /// The `nth` device with this ID among those the command line announces. Fails the test if there
    /// is none, or if an announced window is no virtio device.
    pub fn find(boot: &BootInfo, device_id: u32, nth: usize) -> Self {
        let found = boot
            .command_line()
            .devices()
            .map(|announced| Self {
                base: announced.address,
                gsi: announced.gsi,
            })
            .filter(|device| device.id() == device_id)
            .nth(nth);
        match found {
            Some(device) => device,
            None => crate::fail!("the command line announces no device {nth} with ID {device_id}"),
        }
    }

    /// The device in the window at `base`, whatever it is; its interrupt is not known.
    pub fn at(base: u64) -> Self {
        Self { base, gsi: 0 }
    }

    /// Interrupt controller input.
    pub fn gsi(self) -> u32 {
        self.gsi
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

    /// Reads a byte of the configuration space.
    pub fn config_byte(self, offset: u64) -> u8 {
        physical::read(self.base + registers::CONFIG + offset)
    }

    /// Reads a 64-bit field of the configuration space, as two halves (§4.2.2.2).
    pub fn config_u64(self, offset: u64) -> u64 {
        let low = self.read(registers::CONFIG + offset);
        let high = self.read(registers::CONFIG + offset + 4);
        u64::from(high) << 32 | u64::from(low)
    }

    /// Resets the device and waits until it has (§2.4.2).
    pub fn reset(self) {
        self.write(registers::STATUS, 0);
        let is_reset = clock::spin_until(clock::LONG, || self.read(registers::STATUS) == 0);
        crate::check!(is_reset, "the device at {:#x} does not reset", self.base);
    }

    /// Resets the device and agrees on `wanted` and VERSION_1, as far as offered (§3.1.1, steps 1 to
    /// 6). Returns what was agreed on.
    pub fn negotiate(self, wanted: u64) -> u64 {
        self.reset();
        self.write(registers::STATUS, status::ACKNOWLEDGE);
        self.write(registers::STATUS, status::ACKNOWLEDGE | status::DRIVER);

        let offered = self.offered_features();
        crate::check!(
            offered & VIRTIO_F_VERSION_1 != 0,
            "VERSION_1 is not offered: {offered:#x}"
        );
        let accepted = offered & (wanted | VIRTIO_F_VERSION_1);
        let [b0, b1, b2, b3, b4, b5, b6, b7] = accepted.to_le_bytes();
        self.write(registers::DRIVER_FEATURES_SEL, 0);
        self.write(
            registers::DRIVER_FEATURES,
            u32::from_le_bytes([b0, b1, b2, b3]),
        );
        self.write(registers::DRIVER_FEATURES_SEL, 1);
        self.write(
            registers::DRIVER_FEATURES,
            u32::from_le_bytes([b4, b5, b6, b7]),
        );

        let features_ok = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        self.write(registers::STATUS, features_ok);
        let found = self.read(registers::STATUS);
        crate::check!(
            found == features_ok,
            "features {accepted:#x} refused: status {found:#x}"
        );
        accepted
    }

    /// All feature bits the device offers.
    pub fn offered_features(self) -> u64 {
        self.write(registers::DEVICE_FEATURES_SEL, 0);
        let low = self.read(registers::DEVICE_FEATURES);
        self.write(registers::DEVICE_FEATURES_SEL, 1);
        let high = self.read(registers::DEVICE_FEATURES);
        u64::from(high) << 32 | u64::from(low)
    }

    /// Gives queue `index` its rings (§4.2.3.2). `features` are those agreed on.
    pub fn set_up_queue(self, index: u32, rings: &'static Rings, features: u64) -> Queue {
        self.write(registers::QUEUE_SEL, index);
        let ready = self.read(registers::QUEUE_READY);
        crate::check!(ready == 0, "queue {index} is ready before it is set up");
        let max = self.read(registers::QUEUE_NUM_MAX);
        crate::check!(max != 0, "there is no queue {index}");
        let size = u16::try_from(max).unwrap_or(u16::MAX).min(Rings::MAX_SIZE);

        let queue = Queue::new(self, index, rings, size, features & VIRTIO_F_EVENT_IDX != 0);
        self.write(registers::QUEUE_NUM, u32::from(size));
        self.write_address(registers::QUEUE_DESC, rings.descriptors_address());
        self.write_address(registers::QUEUE_DRIVER, rings.available_address());
        self.write_address(registers::QUEUE_DEVICE, rings.used_address());
        self.write(registers::QUEUE_READY, 1);
        queue
    }

    /// Lets the device begin (§3.1.1, step 8).
    pub fn start(self) {
        let bits = self.read(registers::STATUS) | status::DRIVER_OK;
        self.write(registers::STATUS, bits);
        let found = self.read(registers::STATUS);
        crate::check!(found == bits, "the device did not start: status {found:#x}");
    }

    /// Reads and acknowledges the reasons for an interrupt; bit 0 is a used buffer.
    pub fn acknowledge_interrupt(self) -> u32 {
        let reasons = self.read(registers::INTERRUPT_STATUS);
        self.write(registers::INTERRUPT_ACK, reasons);
        reasons
    }

    /// Whether the device has given up until it is reset.
    pub fn needs_reset(self) -> bool {
        self.read(registers::STATUS) & status::DEVICE_NEEDS_RESET != 0
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

    fn write_address(self, register: u64, address: u64) {
        let [b0, b1, b2, b3, b4, b5, b6, b7] = address.to_le_bytes();
        self.write(register, u32::from_le_bytes([b0, b1, b2, b3]));
        self.write(register + 4, u32::from_le_bytes([b4, b5, b6, b7]));
    }
}
