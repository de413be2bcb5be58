//! Devices that are not virtio.

pub mod boot_timer;
pub mod console;
pub mod i8042;
pub mod ioapic;
pub mod serial;

pub use boot_timer::BootTimer;
pub use console::{ConsoleSink, SerialInput};
pub use i8042::{I8042, I8042State, KeyboardFull, ResetLine};
pub use serial::{Serial, SerialState};
