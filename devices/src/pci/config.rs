//! Configuration space of one function, header type 0 (PCI 3.0 §6.1).
//!
//! Every byte is fixed but for the bits of a mask; a write of any width changes those bits and no others.

use serde::{Deserialize, Serialize};

use super::bar::Bar;

/// Bytes of configuration space that this machine's functions use; what lies behind reads as 0.
pub const LEN: usize = 256;

const VENDOR_ID: u16 = 0x00;
const DEVICE_ID: u16 = 0x02;
/// Command register (PCI 3.0 §6.2.2).
pub const COMMAND: u16 = 0x04;
const STATUS: u16 = 0x06;
const REVISION_ID: u16 = 0x08;
const CLASS_CODE: u16 = 0x09;
const CACHE_LINE_SIZE: u16 = 0x0c;
const SUBSYSTEM_VENDOR_ID: u16 = 0x2c;
const SUBSYSTEM_ID: u16 = 0x2e;
const CAPABILITIES_POINTER: u16 = 0x34;
const INTERRUPT_LINE: u16 = 0x3c;
/// Where capabilities begin: behind the header.
const FIRST_CAPABILITY: u16 = 0x40;

/// Command: answer in memory windows.
pub const COMMAND_MEMORY: u32 = 1 << 1;
/// Command: may read memory and send messages. Kept for the driver to read; a virtio device does either only once
/// its driver has started it.
const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// Command: no INTx. There is none, whatever it says.
const COMMAND_INTERRUPT_DISABLE: u16 = 1 << 10;
/// Status: there is a list of capabilities.
const STATUS_CAPABILITIES: u8 = 1 << 4;

/// Who a function is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Vendor, and subsystem vendor.
    pub vendor: u16,
    /// Device, and subsystem.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class, subclass, programming interface (PCI 3.0 appendix D).
    pub class: [u8; 3],
}

/// The space as a driver reads it, and which of its bits a driver can write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigurationSpace {
    bytes: [u8; LEN],
    writable: [u8; LEN],
    /// Where the last capability's pointer to the next one is.
    last_pointer: u16,
    /// Where the next capability goes.
    next_capability: u16,
}

/// What a driver wrote, byte by byte; fixed bits are 0. Part of each function's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Written(Vec<u8>);

impl ConfigurationSpace {
    /// The header of a function without windows, capabilities or interrupt pin.
    #[must_use]
    pub fn new(identity: &Identity) -> Self {
        let mut space = Self {
            bytes: [0; LEN],
            writable: [0; LEN],
            last_pointer: CAPABILITIES_POINTER,
            next_capability: FIRST_CAPABILITY,
        };
        let [base, sub, interface] = identity.class;
        space.lay_out(VENDOR_ID, &identity.vendor.to_le_bytes());
        space.lay_out(DEVICE_ID, &identity.device.to_le_bytes());
        space.lay_out(REVISION_ID, &[identity.revision]);
        space.lay_out(CLASS_CODE, &[interface, sub, base]);
        space.make_writable(CACHE_LINE_SIZE, &[0xff]);
        space.make_writable(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Adds subsystem identifiers, the same as the function's own.
    #[must_use]
    pub fn with_subsystem(mut self, identity: &Identity) -> Self {
        self.lay_out(SUBSYSTEM_VENDOR_ID, &identity.vendor.to_le_bytes());
        self.lay_out(SUBSYSTEM_ID, &identity.device.to_le_bytes());
        self
    }

    /// Adds the one memory window, at its assigned place.
    pub fn add_bar(&mut self, bar: Bar) {
        let command = (COMMAND_BUS_MASTER | COMMAND_INTERRUPT_DISABLE).to_le_bytes();
        self.make_writable(COMMAND, &command);
        self.writable[usize::from(COMMAND)] |= COMMAND_MEMORY.to_le_bytes()[0];
        bar.lay_out(self);
    }

    /// Appends a capability: its id, and what follows the pointer to the next one. Bits of `writable`, laid over
    /// the whole capability, can be written. Gives its offset.
    ///
    /// # Panics
    /// When it does not fit: what a function has is ours to say.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> u16 {
        let offset = self.next_capability;
        self.lay_out(offset, &[id, 0]);
        self.lay_out(offset + 2, body);
        self.make_writable(offset, writable);
        let [pointer, _] = offset.to_le_bytes();
        self.lay_out(self.last_pointer, &[pointer]);
        self.bytes[usize::from(STATUS)] |= STATUS_CAPABILITIES;
        self.last_pointer = offset + 1;
        let len = u16::try_from(body.len() + 2).expect("a capability fits 256 bytes");
        self.next_capability = (offset + len).next_multiple_of(4);
        offset
    }

    /// Fixed bytes at `offset`.
    pub(super) fn lay_out(&mut self, offset: u16, bytes: &[u8]) {
        let start = usize::from(offset);
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Opens the bits of `mask` at `offset` to the driver.
    pub(super) fn make_writable(&mut self, offset: u16, mask: &[u8]) {
        let start = usize::from(offset);
        self.writable[start..start + mask.len()].copy_from_slice(mask);
    }

    /// The 32 bits at `offset`, which is ours to choose.
    #[must_use]
    pub fn word(&self, offset: u16) -> u32 {
        let mut word = [0; 4];
        self.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    /// What a driver reads, in any width and at any offset.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0);
        let from = self.bytes.iter().skip(usize::from(offset));
        for (to, byte) in data.iter_mut().zip(from) {
            *to = *byte;
        }
    }

    /// What a driver writes, in any width and at any offset.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        let space = self.bytes.iter_mut().zip(&self.writable);
        for ((byte, mask), value) in space.skip(usize::from(offset)).zip(data) {
            *byte = *byte & !mask | value & mask;
        }
    }

    /// What a driver wrote, to be saved.
    #[must_use]
    pub fn written(&self) -> Written {
        let pairs = self.bytes.iter().zip(&self.writable);
        Written(pairs.map(|(byte, mask)| byte & mask).collect())
    }

    /// Adopts what a driver wrote to a function with the same header. Whatever it holds, fixed bits stay.
    pub fn restore(&mut self, written: &Written) {
        self.write(0, &written.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity {
        vendor: 0x1af4,
        device: 0x1042,
        revision: 1,
        class: [0x01, 0x80, 0x00],
    };

    #[test]
    fn the_header_says_who_it_is_in_every_width() {
        let space = ConfigurationSpace::new(&IDENTITY).with_subsystem(&IDENTITY);
        assert_eq!(space.word(0), 0x1042_1af4);
        assert_eq!(space.word(8), 0x0180_0001);
        assert_eq!(space.word(0x2c), 0x1042_1af4);
        let mut bytes = [0xee; 8];
        space.read(3, &mut bytes[..1]);
        space.read(2, &mut bytes[1..3]);
        assert_eq!(bytes[..3], [0x10, 0x42, 0x10]);
        space.read(0xfc, &mut bytes);
        assert_eq!(bytes, [0; 8]);
        space.read(u16::MAX, &mut bytes);
    }

    #[test]
    fn only_open_bits_can_be_written() {
        let mut space = ConfigurationSpace::new(&IDENTITY);
        let before = space.clone();
        for offset in 0..0x1000 {
            space.write(offset, &[0xff; 8]);
        }
        assert_eq!(space.word(0), before.word(0));
        assert_eq!(space.word(COMMAND), 0, "it has no window");
        assert_eq!(space.word(0x3c), 0xff);
        space.write(0x3a, &[9; 4]);
        assert_eq!(space.word(0x3c), 9);
    }

    #[test]
    fn capabilities_are_a_list() {
        let mut space = ConfigurationSpace::new(&IDENTITY);
        assert_eq!(space.word(0x34) & 0xff, 0);
        assert_eq!(space.add_capability(9, &[1, 2, 3], &[]), 0x40);
        assert_eq!(space.add_capability(0x11, &[4, 5], &[0, 0, 0xf0]), 0x48);
        assert_eq!(space.word(0x34), 0x40);
        assert_eq!(space.word(0x40), 0x0201_4809);
        space.write(0x48, &[0xff; 4]);
        assert_eq!(space.word(0x48), 0x05f4_0011);
        assert_eq!(space.word(COMMAND), 0x0010_0000);
    }

    #[test]
    fn a_saved_space_comes_back_and_a_forged_one_changes_no_fixed_bit() {
        let mut space = ConfigurationSpace::new(&IDENTITY);
        space.write(0x3c, &[7]);
        let text = serde_json::to_string(&space.written()).unwrap();
        let mut copy = ConfigurationSpace::new(&IDENTITY);
        copy.restore(&serde_json::from_str(&text).unwrap());
        assert_eq!(copy, space);
        copy.restore(&Written(vec![0xff; 1000]));
        assert_eq!(copy.word(0), space.word(0));
    }
}
