//! A device on PCI, modern only, with MSI-X (virtio 1.2 §4.1).

use super::{Doorbell, RingAddresses};
use crate::boot::BootInfo;
use crate::interrupts::DeviceVector;
use crate::pci::{self, Function};
use crate::physical;

/// Device 0x1040 + ID of vendor 0x1af4 (§4.1.2).
const FIRST_ID: u32 = 0x1040_1af4;
const VENDOR_SPECIFIC: u8 = 0x09;

/// Structure types (§4.1.4).
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;
const DEVICE: u8 = 4;

/// Fields of the common configuration (§4.1.4.3).
mod common {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const DEVICE_STATUS: u64 = 0x14;
    pub const NUM_QUEUES: u64 = 0x12;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_MSIX_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub const QUEUE_DESC: u64 = 0x20;
    pub const QUEUE_DRIVER: u64 = 0x28;
    pub const QUEUE_DEVICE: u64 = 0x30;
}

/// The message all queues use. Message 0 is left to the configuration.
const QUEUE_MESSAGE: u16 = 1;
/// A used buffer, as an interrupt status says it.
const USED_BUFFER: u32 = 1;

/// The structures of one device.
#[derive(Clone, Copy, Debug)]
pub struct PciWindow {
    function: Function,
    common: u64,
    isr: u64,
    config: u64,
    notify: u64,
    notify_multiplier: u32,
}

impl PciWindow {
    /// The devices with this ID on the bus, ready to be driven.
    pub(super) fn all(boot: &BootInfo, device_id: u32) -> impl Iterator<Item = Self> + use<> {
        let id = FIRST_ID + (device_id << 16);
        pci::functions(boot)
            .filter(move |function| function.id() == id)
            .map(Self::new)
    }

    pub(super) fn new(function: Function) -> Self {
        function.enable();
        let (notify, notify_capability) = structure(function, NOTIFY);
        Self {
            function,
            common: structure(function, COMMON).0,
            isr: structure(function, ISR).0,
            config: structure(function, DEVICE).0,
            notify,
            notify_multiplier: function.read(notify_capability + 16),
        }
    }

    pub(super) fn route_interrupts(self, vector: DeviceVector) {
        self.function.route_message(QUEUE_MESSAGE, vector);
        for queue in 0..self.read::<u16>(common::NUM_QUEUES) {
            self.write(common::QUEUE_SELECT, queue);
            self.write(common::QUEUE_MSIX_VECTOR, QUEUE_MESSAGE);
            let found: u16 = self.read(common::QUEUE_MSIX_VECTOR);
            crate::check!(
                found == QUEUE_MESSAGE,
                "queue {queue} does not take message {QUEUE_MESSAGE}"
            );
        }
    }

    /// The queue that is written is the low half of `queue`; one that does not exist has the place it
    /// would have.
    pub(super) fn doorbell(self, queue: u32) -> Doorbell {
        let [a, b, ..] = queue.to_le_bytes();
        let index = u16::from_le_bytes([a, b]);
        self.write(common::QUEUE_SELECT, index);
        let exists = self.read::<u16>(common::QUEUE_SIZE) != 0;
        let offset = if exists {
            self.read(common::QUEUE_NOTIFY_OFF)
        } else {
            index % 1024
        };
        let register = self.notify + u64::from(offset) * u64::from(self.notify_multiplier);
        Doorbell::Half(register, index)
    }

    pub(super) fn set_driver_features(self, select: u32, half: u32) {
        self.write(common::DRIVER_FEATURE_SELECT, select);
        self.write(common::DRIVER_FEATURE, half);
    }

    pub(super) fn device_features(self, select: u32) -> u32 {
        self.write(common::DEVICE_FEATURE_SELECT, select);
        self.read(common::DEVICE_FEATURE)
    }

    /// Selects a queue; gives its greatest size.
    pub(super) fn select_queue(self, index: u32) -> u32 {
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        self.write(common::QUEUE_SELECT, index);
        let enabled: u16 = self.read(common::QUEUE_ENABLE);
        crate::check!(enabled == 0, "queue {index} is enabled before it is set up");
        self.read::<u16>(common::QUEUE_SIZE).into()
    }

    pub(super) fn enable_queue(self, size: u16, rings: RingAddresses) {
        self.write(common::QUEUE_SIZE, size);
        self.write(common::QUEUE_DESC, rings.descriptors);
        self.write(common::QUEUE_DRIVER, rings.available);
        self.write(common::QUEUE_DEVICE, rings.used);
        self.write(common::QUEUE_ENABLE, 1_u16);
    }

    /// A message says by itself what it is for; without one the status does, and reading clears it.
    pub(super) fn acknowledge_interrupt(self) -> u32 {
        let reasons: u8 = physical::read(self.isr);
        u32::from(reasons) | USED_BUFFER
    }

    pub(super) fn status(self) -> u32 {
        self.read::<u8>(common::DEVICE_STATUS).into()
    }

    pub(super) fn set_status(self, status: u32) {
        let [status, ..] = status.to_le_bytes();
        self.write(common::DEVICE_STATUS, status);
    }

    pub(super) fn config(self) -> u64 {
        self.config
    }

    fn read<T: physical::Plain>(self, field: u64) -> T {
        physical::read(self.common + field)
    }

    fn write<T: physical::Plain>(self, field: u64, value: T) {
        // SAFETY: a device register. What the device may write in turn are `Rings` and
        // `DeviceMemory`, which are atomics.
        unsafe { physical::write(self.common + field, value) };
    }
}

/// Address of the structure of this type, and offset of its capability. Fails the test if there is none.
fn structure(function: Function, kind: u8) -> (u64, u64) {
    let found = function
        .capabilities(VENDOR_SPECIFIC)
        .find(|at| function.read::<u8>(at + 3) == kind);
    let Some(capability) = found else {
        crate::fail!("device {} has no structure {kind}", function.device);
    };
    let window: u8 = function.read(capability + 4);
    crate::check!(window == 0, "structure {kind} is in window {window}");
    let offset: u32 = function.read(capability + 8);
    (function.window() + u64::from(offset), capability)
}
