//! How a driver finds, sets up and kicks a device. A device never knows which transport it is on.
//!
//! A transport is registers, its own, around a [`Slot`], the same for all.

mod interrupt;
pub mod mmio;
mod negotiation;
mod slot;

use crate::Registers;

pub use interrupt::CausesState;
pub use mmio::{MmioState, MmioTransport};
pub use slot::Slot;

/// What the machine knows of a transport once it is placed.
pub trait Transport: Registers {
    /// The device behind it.
    fn slot(&self) -> &Slot;
}

/// A saved state that is not this device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "saved virtio state does not fit the device; restore it with the configuration it was saved with"
)]
pub struct RestoreError;
