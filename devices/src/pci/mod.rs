//! A PCI bus: configuration space, base addresses, message-signalled interrupts.
//!
//! ```text
//! 0xcf8/0xcfc --> ConfigPorts --+                                  +-- 00.0 host bridge
//!                               +--> PciBus: a function per slot --+-- 01.0 .. 1f.0 devices
//! ECAM ---------> ConfigMemory -+                                  |
//! BAR windows --> BarWindows ---+----------------------------------+
//! ```
//!
//! One segment, one bus, no bridges, one function a device, no INTx. Base addresses are assigned before the guest
//! runs and belong to the slot ([`bar`] says what happens when a guest moves one).
//!
//! Specs: PCI Local Bus 3.0 (configuration space §6, MSI-X §6.8.2), PCI Express Base 4.0 §7.2.2 (ECAM).

pub mod bar;
pub mod bus;
pub mod config;
mod host_bridge;
pub mod msix;

pub use bar::Bar;
pub use bus::{BarWindows, ConfigMemory, ConfigPorts, Function, PciBus, SlotError};
pub use config::{ConfigurationSpace, Identity};
pub use host_bridge::HostBridge;
pub use msix::{MessageLines, Msix, MsixState};
