//! PCI configuration space, by ports and by memory, and MSI-X.
//!
//! Sources: PCI Local Bus 3.0, chapters 3.2.2.3.2 (ports), 6.1 and 6.2 (header), 6.7 (capabilities), 6.8.2 (MSI-X).

use crate::boot::BootInfo;
use crate::interrupts::DeviceVector;
use crate::{acpi, apic, physical, port};

/// Port of the address; the data are four ports on.
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
const ENABLED: u32 = 1 << 31;

/// Header fields.
pub mod header {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const ID: u64 = 0x00;
    pub const COMMAND: u64 = 0x04;
    pub const STATUS: u64 = 0x06;
    pub const CLASS: u64 = 0x08;
    pub const BASE_ADDRESS_0: u64 = 0x10;
    pub const CAPABILITIES: u64 = 0x34;
}

/// Command: answer in memory windows, read and write memory.
pub const COMMAND_MEMORY_AND_MASTER: u16 = 1 << 1 | 1 << 2;
/// MSI-X capability.
pub const MSIX: u8 = 0x11;
/// Message control, bit 15.
const MSIX_ENABLE: u16 = 1 << 15;
/// Messages to local APICs (Intel SDM 3A, 11.11.1).
const APIC_MESSAGES: u32 = 0xfee0_0000;

/// Device numbers of a bus.
pub const DEVICES: u8 = 32;

/// Function 0 of a device on bus 0, by its configuration space in memory.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    /// Address of its configuration space.
    pub space: u64,
    /// Device number.
    pub device: u8,
}

/// Whether the machine has a PCI bus: whether the address port keeps what is written to it.
pub fn is_present() -> bool {
    port::write_u32(CONFIG_ADDRESS, ENABLED);
    port::read_u32(CONFIG_ADDRESS) == ENABLED
}

/// Reads configuration space of bus 0 by ports.
pub fn read_by_port(device: u8, register: u8) -> u32 {
    let address = ENABLED | u32::from(device) << 11 | u32::from(register & 0xfc);
    port::write_u32(CONFIG_ADDRESS, address);
    port::read_u32(CONFIG_DATA)
}

/// Writes configuration space of bus 0 by ports.
pub fn write_by_port(device: u8, register: u8, value: u32) {
    let address = ENABLED | u32::from(device) << 11 | u32::from(register & 0xfc);
    port::write_u32(CONFIG_ADDRESS, address);
    port::write_u32(CONFIG_DATA, value);
}

/// The functions on the bus, in order. Fails the test if the two ways to one differ.
pub fn functions(boot: &BootInfo) -> impl Iterator<Item = Function> + use<> {
    let base = acpi::configuration_space(boot.rsdp);
    (0..DEVICES).filter_map(move |device| {
        let function = Function {
            space: base + (u64::from(device) << 15),
            device,
        };
        let id = read_by_port(device, 0);
        let by_memory: u32 = function.read(header::ID);
        crate::check!(
            id == by_memory,
            "device {device} is {id:#x} by ports and {by_memory:#x} by memory"
        );
        (id != u32::MAX).then_some(function)
    })
}

impl Function {
    /// Vendor in the lower half, device in the upper.
    pub fn id(self) -> u32 {
        self.read(header::ID)
    }

    /// Reads a field.
    pub fn read<T: physical::Plain>(self, offset: u64) -> T {
        physical::read(self.space + offset)
    }

    /// Writes a field.
    pub fn write<T: physical::Plain>(self, offset: u64, value: T) {
        // SAFETY: a device register.
        unsafe { physical::write(self.space + offset, value) };
    }

    /// Where the first base address register, of 64 bits, says its window is.
    pub fn window(self) -> u64 {
        let low: u32 = self.read(header::BASE_ADDRESS_0);
        let high: u32 = self.read(header::BASE_ADDRESS_0 + 4);
        crate::check!(
            low & 0xf == 4,
            "base address 0 is {low:#x}, not 64 bits of memory"
        );
        u64::from(high) << 32 | u64::from(low & !0xf)
    }

    /// Puts the window, of the first base address register, at `address`; decoding is off meanwhile, as Linux has it.
    pub fn move_window(self, address: u64) {
        let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
        self.write(header::COMMAND, 0_u16);
        self.write(header::BASE_ADDRESS_0, u32::from_le_bytes([a, b, c, d]));
        self.write(header::BASE_ADDRESS_0 + 4, u32::from_le_bytes([e, f, g, h]));
        self.enable();
    }

    /// Lets it answer in its window and send messages.
    pub fn enable(self) {
        self.write(header::COMMAND, COMMAND_MEMORY_AND_MASTER);
    }

    /// Offsets of the capabilities `id`, in the list's order.
    pub fn capabilities(self, id: u8) -> impl Iterator<Item = u64> {
        let mut at: u8 = self.read(header::CAPABILITIES);
        let mut left = 64;
        core::iter::from_fn(move || {
            crate::check!(left > 0, "the list of capabilities has no end");
            left -= 1;
            let here = u64::from(at);
            at = if here == 0 { 0 } else { self.read(here + 1) };
            (here != 0).then_some(here)
        })
        .filter(move |here| self.read::<u8>(*here) == id)
    }

    /// Has message `index` raise `vector` on the calling processor, and turns MSI-X on.
    pub fn route_message(self, index: u16, vector: DeviceVector) {
        let Some(capability) = self.capabilities(MSIX).next() else {
            crate::fail!("device {} has no MSI-X", self.device);
        };
        let table: u32 = self.read(capability + 4);
        crate::check!(table & 7 == 0, "the MSI-X table is not in window 0");
        let entry = self.window() + u64::from(table) + 16 * u64::from(index);
        let words = [
            APIC_MESSAGES | apic::id() << 12,
            0,
            u32::from(vector.number()),
            0,
        ];
        for (offset, word) in (0..).step_by(4).zip(words) {
            // SAFETY: a device register.
            unsafe { physical::write(entry + offset, word) };
        }
        let control: u16 = self.read(capability + 2);
        self.write(capability + 2, control | MSIX_ENABLE);
    }
}
