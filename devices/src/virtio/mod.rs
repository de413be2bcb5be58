//! Virtio 1.2 devices, on any transport.

pub mod chain;
pub mod device;
pub mod queue;
pub mod transport;

pub use device::{
    ActivateError, Activation, Interrupt, QueueError, Source, Token, Traits, VirtioDevice, Worker,
    WorkerId, WorkerLoop,
};
pub use transport::MmioTransport;
