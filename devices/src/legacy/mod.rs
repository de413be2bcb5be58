//! Devices that are not virtio.

pub mod ioapic;
