//! What the ACPI tables name besides virtio: how a guest ends the machine or tells that it panicked, and how the host tells
//! it of events.

pub mod clock;
pub mod events;
pub mod panic;
pub mod power;

pub use clock::ClockState;
pub use events::{Event, Events, EventsState};
pub use panic::{PanicNotice, Panicked};
pub use power::Power;
