//! Guest memory: private mappings of this process, aligned so that the kernel can use huge pages.

// UNSAFETY: mapping memory and handing the mapping to vm-memory.
#![expect(unsafe_code, reason = "guest memory is mapped by hand")]

mod regions;

pub(crate) use regions::release;
pub use regions::{MemoryError, allocate};
