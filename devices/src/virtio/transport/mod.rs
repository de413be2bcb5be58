//! How a driver finds, sets up and kicks a device. A device never knows which transport it is on.
//!
//! A transport is registers, its own, around a [`Slot`], the same for all.

#[cfg(test)]
mod echo;
mod halves;
mod interrupt;
pub mod mmio;
mod negotiation;
pub mod pci;
mod slot;

pub use interrupt::CausesState;
pub use mmio::{MmioState, MmioTransport};
pub use pci::{PciState, PciTransport};
pub use slot::{Progress, Slot};

/// What the machine knows of a transport once it is placed.
pub trait Transport: Send + Sync {
    /// The device behind it.
    fn slot(&self) -> &Slot;
}

/// A saved state that is not this device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "saved virtio state does not fit the device; restore it with the configuration it was saved with"
)]
pub struct RestoreError;
