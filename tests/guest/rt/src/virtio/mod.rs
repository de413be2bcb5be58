//! The driver's side of virtio: initialization, queues, and the drivers on top, over MMIO or PCI,
//! whichever the machine has.
//!
//! Source: virtio 1.2, §3.1 (initialization), §2.7 (split virtqueues).

pub mod balloon;
pub mod block;
pub mod console;
pub mod mem;
pub mod mmio;
pub mod net;
mod pci;
mod queue;
pub mod rng;
pub mod vsock;

pub use queue::{Part, Queue, Rings, Used, descriptor_flags};

use self::mmio::MmioWindow;
use self::pci::PciWindow;
use crate::boot::BootInfo;
use crate::interrupts::DeviceVector;
use crate::{clock, physical, println, serial};

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

/// The registers of one device.
#[derive(Clone, Copy, Debug)]
pub enum Device {
    /// A window that the command line announces.
    Mmio(MmioWindow),
    /// A function on the PCI bus.
    Pci(PciWindow),
}

/// Where the rings of a queue are.
#[derive(Clone, Copy, Debug)]
struct RingAddresses {
    descriptors: u64,
    available: u64,
    used: u64,
}

/// What is written, and where, to notify a queue.
#[derive(Clone, Copy, Debug)]
enum Doorbell {
    Word(u64, u32),
    Half(u64, u16),
}

impl Doorbell {
    fn ring(self) {
        match self {
            // SAFETY: a device register.
            Self::Word(register, queue) => unsafe { physical::write(register, queue) },
            // SAFETY: a device register.
            Self::Half(register, queue) => unsafe { physical::write(register, queue) },
        }
    }
}

impl Device {
    /// The `nth` device with this ID: on the PCI bus if there is one, else among those the command line
    /// announces. Fails the test if there is none, or if an announced window is no virtio device.
    pub fn find(boot: &BootInfo, device_id: u32, nth: usize) -> Self {
        let found = if crate::pci::is_present() {
            PciWindow::all(boot, device_id).nth(nth).map(Self::Pci)
        } else {
            MmioWindow::all(boot, device_id).nth(nth).map(Self::Mmio)
        };
        match found {
            Some(device) => device,
            None => crate::fail!("the machine has no device {nth} with ID {device_id}"),
        }
    }

    /// The device that is this PCI function.
    pub fn at(function: crate::pci::Function) -> Self {
        Self::Pci(PciWindow::new(function))
    }

    /// Finds the device, as the driver of its bus does before one of its kind is there (§3.1.1, steps 1 and 2).
    pub fn acknowledge(self) {
        self.reset();
        self.set_status(status::ACKNOWLEDGE);
    }

    /// Finds the device, as a driver does that has yet to set it up (§3.1.1, steps 1 to 3).
    pub fn claim(self) {
        self.acknowledge();
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
    }

    /// Has the interrupts of every queue raise `vector` on the calling processor. On PCI between
    /// [`set_up_queue`](Self::set_up_queue) and the first interrupt.
    pub fn route_interrupts(self, vector: DeviceVector) {
        match self {
            Self::Mmio(window) => window.route_interrupts(vector),
            Self::Pci(window) => window.route_interrupts(vector),
        }
    }

    /// Tells the device of new chains in a queue, which need not exist.
    pub fn notify(self, queue: u32) {
        self.doorbell(queue).ring();
    }

    fn doorbell(self, queue: u32) -> Doorbell {
        match self {
            Self::Mmio(window) => window.doorbell(queue),
            Self::Pci(window) => window.doorbell(queue),
        }
    }

    /// Reads a byte of the configuration space.
    pub fn config_byte(self, offset: u64) -> u8 {
        physical::read(self.config() + offset)
    }

    /// Reads a 64-bit field of the configuration space, as two halves (§4.1.3.1, §4.2.2.2).
    pub fn config_u64(self, offset: u64) -> u64 {
        u64::from(self.config_u32(offset + 4)) << 32 | u64::from(self.config_u32(offset))
    }

    /// Reads a 32-bit field of the configuration space.
    pub fn config_u32(self, offset: u64) -> u32 {
        physical::read(self.config() + offset)
    }

    /// Writes a 32-bit field of the configuration space.
    pub fn set_config_u32(self, offset: u64, value: u32) {
        // SAFETY: a device register.
        unsafe { physical::write(self.config() + offset, value) };
    }

    /// Resets the device and waits until it has (§2.4.2).
    pub fn reset(self) {
        self.set_status(0);
        let is_reset = clock::spin_until(clock::LONG, || self.status() == 0);
        crate::check!(is_reset, "{self:?} does not reset");
    }

    /// Resets the device and agrees on `wanted` and VERSION_1, as far as offered (§3.1.1, steps 1 to
    /// 6). Returns what was agreed on.
    pub fn negotiate(self, wanted: u64) -> u64 {
        self.claim();
        let offered = self.offered_features();
        crate::check!(
            offered & VIRTIO_F_VERSION_1 != 0,
            "VERSION_1 is not offered: {offered:#x}"
        );
        let accepted = offered & (wanted | VIRTIO_F_VERSION_1);
        for (select, half) in (0..).zip(halves(accepted)) {
            match self {
                Self::Mmio(window) => window.set_driver_features(select, half),
                Self::Pci(window) => window.set_driver_features(select, half),
            }
        }

        let features_ok = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        self.set_status(features_ok);
        let found = self.status();
        crate::check!(
            found == features_ok,
            "features {accepted:#x} refused: status {found:#x}"
        );
        accepted
    }

    /// All feature bits the device offers.
    pub fn offered_features(self) -> u64 {
        let half = |select| match self {
            Self::Mmio(window) => window.device_features(select),
            Self::Pci(window) => window.device_features(select),
        };
        u64::from(half(1)) << 32 | u64::from(half(0))
    }

    /// Gives queue `index` its rings (§4.1.5.1.3, §4.2.3.2). `features` are those agreed on.
    pub fn set_up_queue(self, index: u32, rings: &'static Rings, features: u64) -> Queue {
        let max = match self {
            Self::Mmio(window) => window.select_queue(index),
            Self::Pci(window) => window.select_queue(index),
        };
        crate::check!(max != 0, "there is no queue {index}");
        let size = u16::try_from(max).unwrap_or(u16::MAX).min(Rings::MAX_SIZE);

        let doorbell = self.doorbell(index);
        let queue = Queue::new(
            doorbell,
            index,
            rings,
            size,
            features & VIRTIO_F_EVENT_IDX != 0,
        );
        let addresses = RingAddresses {
            descriptors: rings.descriptors_address(),
            available: rings.available_address(),
            used: rings.used_address(),
        };
        match self {
            Self::Mmio(window) => window.enable_queue(size, addresses),
            Self::Pci(window) => window.enable_queue(size, addresses),
        }
        queue
    }

    /// Lets the device begin (§3.1.1, step 8).
    pub fn start(self) {
        let bits = self.status() | status::DRIVER_OK;
        self.set_status(bits);
        let found = self.status();
        crate::check!(found == bits, "the device did not start: status {found:#x}");
    }

    /// Resets the device and starts it again with `wanted` features, again and again, until a byte comes in.
    pub fn storm_with_resets(self, wanted: u64) {
        println!("storming");
        let mut resets = 0_u64;
        while !serial::has_input() {
            self.negotiate(wanted);
            self.start();
            resets += 1;
        }
        println!("resets={resets}");
    }

    /// Reads and acknowledges the reasons for an interrupt; bit 0 is a used buffer.
    pub fn acknowledge_interrupt(self) -> u32 {
        match self {
            Self::Mmio(window) => window.acknowledge_interrupt(),
            Self::Pci(window) => window.acknowledge_interrupt(),
        }
    }

    /// Whether the device has given up until it is reset.
    pub fn needs_reset(self) -> bool {
        self.status() & status::DEVICE_NEEDS_RESET != 0
    }

    /// The device status.
    pub fn status(self) -> u32 {
        match self {
            Self::Mmio(window) => window.status(),
            Self::Pci(window) => window.status(),
        }
    }

    fn set_status(self, status: u32) {
        match self {
            Self::Mmio(window) => window.set_status(status),
            Self::Pci(window) => window.set_status(status),
        }
    }

    /// Address of the configuration space.
    fn config(self) -> u64 {
        match self {
            Self::Mmio(window) => window.config(),
            Self::Pci(window) => window.config(),
        }
    }
}

/// Low and high half.
fn halves(value: u64) -> [u32; 2] {
    let [b0, b1, b2, b3, b4, b5, b6, b7] = value.to_le_bytes();
    [
        u32::from_le_bytes([b0, b1, b2, b3]),
        u32::from_le_bytes([b4, b5, b6, b7]),
    ]
}
