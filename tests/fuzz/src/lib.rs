//! What the targets have in common: bytes that an engine made become what a driver does to a device.
//!
//! A target is a file in `targets/`: it says what it feeds, and what must hold besides "no panic, no hang, no unbounded
//! allocation", which `run.sh` holds all of them to. Inputs in `corpus/<target>/` are where an engine starts.

pub mod back_end;
pub mod bytes;
pub mod driver;
pub mod file;
pub mod kinds;
