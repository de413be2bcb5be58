//! Registers of the ACPI tables: how a guest ends the machine, and how the host tells it of events.

pub mod events;
pub mod power;

pub use events::{Event, Events, EventsState};
pub use power::Power;
