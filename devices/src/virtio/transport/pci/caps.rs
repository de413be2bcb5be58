//! What a driver finds in configuration space: who the device is, and where its structures lie
//! (virtio 1.2 §4.1.2, §4.1.4).
//!
//! ```text
//! BAR0  0x0000 common  0x2000 ISR  0x4000 device  0x6000 notify  0x8000 MSI-X table  0x48000 pending bits
//! ```

use std::ops::Range;

use crate::pci::{Bar, ConfigurationSpace, Identity, Msix};

/// Where each structure lies in the window.
pub(super) const COMMON: Range<u64> = 0..0x38;
pub(super) const ISR: Range<u64> = 0x2000..0x2001;
pub(super) const DEVICE: Range<u64> = 0x4000..0x5000;
pub(super) const NOTIFY: Range<u64> = 0x6000..0x7000;
pub(super) const MSIX_TABLE: Range<u64> = 0x8000..0x4_8000;
pub(super) const MSIX_PENDING: Range<u64> = 0x4_8000..0x4_9000;

/// Bytes from one queue's notify register to the next one's.
pub(super) const NOTIFY_MULTIPLIER: u32 = 4;

/// Vendor of all virtio devices, and the device id of type 0 (§4.1.2).
const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE_ID: u16 = 0x1040;
/// Not transitional (§4.1.2.1).
const REVISION: u8 = 1;

/// Capability of the vendor's own form (PCI 3.0 appendix H).
const VENDOR_SPECIFIC: u8 = 0x09;

/// Structure types (§4.1.4).
const VIRTIO_PCI_CAP_COMMON_CFG: u8 = 1;
const VIRTIO_PCI_CAP_NOTIFY_CFG: u8 = 2;
const VIRTIO_PCI_CAP_ISR_CFG: u8 = 3;
const VIRTIO_PCI_CAP_DEVICE_CFG: u8 = 4;
const VIRTIO_PCI_CAP_PCI_CFG: u8 = 5;

/// Fields of `virtio_pci_cap` (§4.1.4), from the capability's start.
const BAR: u16 = 4;
const OFFSET: u16 = 8;
const LENGTH: u16 = 12;
/// Bytes of it.
const CAP_LEN: u8 = 16;
/// The window onto the window, behind it (§4.1.4.9).
const PCI_CFG_DATA: u16 = 16;

/// Where the capabilities that can be written lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capabilities {
    /// Access to the window by configuration space.
    pub(super) window: u16,
    pub(super) msix: u16,
}

/// The whole space of a device of type `device_type`.
pub(super) fn lay_out(
    device_type: u32,
    bar: Bar,
    msix: &Msix,
) -> (ConfigurationSpace, Capabilities) {
    let identity = identity(device_type);
    let mut space = ConfigurationSpace::new(&identity).with_subsystem(&identity);
    space.add_bar(bar);
    for (kind, place) in [
        (VIRTIO_PCI_CAP_COMMON_CFG, COMMON),
        (VIRTIO_PCI_CAP_ISR_CFG, ISR),
        (VIRTIO_PCI_CAP_DEVICE_CFG, DEVICE),
    ] {
        space.add_capability(VENDOR_SPECIFIC, &body(kind, &place, &[]), &[]);
    }
    let multiplier = NOTIFY_MULTIPLIER.to_le_bytes();
    let notify = body(VIRTIO_PCI_CAP_NOTIFY_CFG, &NOTIFY, &multiplier);
    space.add_capability(VENDOR_SPECIFIC, &notify, &[]);
    let access = body(VIRTIO_PCI_CAP_PCI_CFG, &(0..0), &[0; 4]);
    let mut writable = [0; 16];
    writable[usize::from(BAR)] = 0xff;
    writable[usize::from(OFFSET)..].fill(0xff);
    let window = space.add_capability(VENDOR_SPECIFIC, &access, &writable);
    let table = u32::try_from(MSIX_TABLE.start).expect("inside the window");
    let pending = u32::try_from(MSIX_PENDING.start).expect("inside the window");
    let msix = msix.add_capability(&mut space, table, pending);
    (space, Capabilities { window, msix })
}

fn identity(device_type: u32) -> Identity {
    let class = match device_type {
        // Network controller, Ethernet.
        1 => [0x02, 0x00, 0x00],
        // Mass storage controller, other.
        2 => [0x01, 0x80, 0x00],
        // Unclassified.
        _ => [0xff, 0xff, 0x00],
    };
    let kind = u16::try_from(device_type).unwrap_or_default();
    Identity {
        vendor: VENDOR,
        device: FIRST_DEVICE_ID.saturating_add(kind),
        revision: REVISION,
        class,
    }
}

/// A `virtio_pci_cap` without its first two bytes, for a structure in the first window.
fn body(kind: u8, place: &Range<u64>, more: &[u8]) -> Vec<u8> {
    let word = |value: u64| {
        u32::try_from(value)
            .expect("inside the window")
            .to_le_bytes()
    };
    let more_len = u8::try_from(more.len()).expect("four bytes at most");
    let mut body = vec![CAP_LEN + more_len, kind, 0, 0, 0, 0];
    body.extend(word(place.start));
    body.extend(word(place.end - place.start));
    body.extend(more);
    body
}

impl Capabilities {
    /// The access to the window that configuration space asks for: its offset and length, when a driver reads or
    /// writes `pci_cfg_data` at `register` and has set the capability up as it must (§4.1.4.9.2).
    pub(super) fn window_access(
        self,
        space: &ConfigurationSpace,
        register: u16,
    ) -> Option<(u64, usize)> {
        let offset = space.word(self.window + OFFSET);
        let length = space.word(self.window + LENGTH);
        let [bar, ..] = space.word(self.window + BAR).to_le_bytes();
        let is_valid = register == self.window + PCI_CFG_DATA
            && bar == 0
            && matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(length);
        is_valid.then_some((offset.into(), usize::try_from(length).ok()?))
    }
}
