//! How a driver finds, sets up and kicks a device. A device never knows which transport it is on.

mod interrupt;
pub mod mmio;
mod negotiation;
mod slot;

pub use mmio::{MmioState, MmioTransport};
