//! Guest memory: mappings private to this process unless a back end shares them, and files beside them, aligned so that the kernel can use
//! huge pages.

// UNSAFETY: mapping memory and handing the mapping to vm-memory.
#![expect(unsafe_code, reason = "guest memory is mapped by hand")]

mod above_ram;
mod file;
mod hotplug;
mod regions;
mod shared;
mod slot;

pub use above_ram::{AboveRam, Nobody, PlaceAboveRam};
pub use file::{FileMapping, padded_len};
pub use hotplug::BlockMapping;
pub(crate) use regions::release;
pub use regions::{MemoryError, Sharing, allocate};
pub use slot::{Access, SlotMemory};
