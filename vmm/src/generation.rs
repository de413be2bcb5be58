//! The generation id: 16 random bytes that are new whenever the guest's history forks, so that it seeds its
//! random numbers anew (Microsoft, "Virtual Machine Generation ID").
//!
//! The guest finds their address in the DSDT, device `VGEN`.

use std::io;

use devices::GuestMemory;
use rustix::rand::{GetRandomFlags, getrandom};
use vm_config::{Explain, FaultCode, FaultKind};
use vm_memory::GuestAddress;

use crate::arch::x86_64::system_area::{SystemArea, SystemAreaError};

/// Bytes of an id.
const LEN: usize = 16;

/// A generation id that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// The host has no randomness.
    #[error("the host gives no random numbers for the generation id")]
    Random(#[source] io::Error),
    /// Guest memory has no room.
    #[error(transparent)]
    Place(#[from] SystemAreaError),
}

impl Explain for GenerationError {
    fn kind(&self) -> FaultKind<'_> {
        match self {
            Self::Random(_) => FaultKind::Code(FaultCode::HostRandom),
            Self::Place(inner) => FaultKind::Inner(inner),
        }
    }
}

/// Puts a new id into a page of its own, and says where.
pub(crate) fn place(
    memory: &GuestMemory,
    area: &mut SystemArea,
) -> Result<GuestAddress, GenerationError> {
    let id = new_id().map_err(GenerationError::Random)?;
    Ok(area.place_page(memory, &id)?)
}

fn new_id() -> io::Result<[u8; LEN]> {
    let mut id = [0; LEN];
    let mut filled = 0;
    while let Some(rest) = id.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match getrandom(rest, GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ() {
        let ids = [new_id().unwrap(), new_id().unwrap()];
        assert_ne!(ids[0], ids[1]);
        assert_ne!(ids[0], [0; LEN]);
    }
}
