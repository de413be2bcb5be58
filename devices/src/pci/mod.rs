//! A PCI bus: configuration space, base addresses, message-signalled interrupts.
//!
//! ```text
//! 0xcf8/0xcfc --> ConfigPorts --+                                  +-- 00.0 host bridge
//!                               +--> PciBus: a function per slot --+-- 01.0 .. 1f.0 devices
//! ECAM ---------> ConfigMemory -+                                  |
//! BAR windows --> BarWindows ---+----------------------------------+
//! ```
//!
//! One segment, one bus, no bridges, one function a device, no INTx. Functions come and go while the guest runs
//! ([`hotplug`] tells it). Each is put on the bus with an assigned base address ([`bar`] says what happens when a guest
//! moves it).
//!
//! Specs: PCI Local Bus 3.0 (configuration space §6, MSI-X §6.8.2), PCI Express Base 4.0 §7.2.2 (ECAM).

pub mod bar;
pub mod bus;
pub mod config;
mod host_bridge;
pub mod hotplug;
pub mod msix;

pub use bar::{Bar, Doorbells};
pub use bus::{BarWindows, ConfigMemory, ConfigPorts, Function, PciBus, SlotError};
pub use config::{ConfigurationSpace, Identity};
pub use host_bridge::HostBridge;
pub use hotplug::{Hotplug, Released};
pub use msix::{MessageLines, Msix, MsixState};
