//! Guest memory at linear addresses, as one vCPU finds it.

use devices::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use crate::machine::{Impossible, RunningMachine};

const PAGE: u64 = 4096;

/// Reads as much of `len` bytes at `linear` as is mapped, from its beginning; breakpoints do not show.
pub(super) fn read(
    machine: &RunningMachine,
    vcpu: usize,
    linear: u64,
    len: usize,
) -> Result<Vec<u8>, Impossible> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        let Ok((at, count)) = piece(machine, vcpu, linear, len, done) else {
            break;
        };
        if machine
            .memory()
            .read_slice(&mut bytes[done..done + count], at)
            .is_err()
        {
            break;
        }
        done += count;
    }
    if done == 0 && len != 0 {
        return Err(Impossible);
    }
    bytes.truncate(done);
    for (offset, before) in machine.hidden(linear, done) {
        bytes[offset] = before;
    }
    Ok(bytes)
}

/// Writes all of `bytes` at `linear`, or nothing that is not mapped.
pub(super) fn write(
    machine: &RunningMachine,
    vcpu: usize,
    linear: u64,
    bytes: &[u8],
) -> Result<(), Impossible> {
    let mut pieces = Vec::new();
    let mut done = 0;
    while done < bytes.len() {
        let (at, count) = piece(machine, vcpu, linear, bytes.len(), done)?;
        let memory: &GuestMemory = machine.memory();
        // Looked at first, so that nothing is written when a later piece cannot be.
        let _: u8 = memory.read_obj(at).map_err(|_| Impossible)?;
        pieces.push((at, done..done + count));
        done += count;
    }
    for (at, range) in pieces {
        machine
            .memory()
            .write_slice(&bytes[range], at)
            .map_err(|_| Impossible)?;
    }
    Ok(())
}

/// Where the bytes from `done` on are, up to the end of their page.
fn piece(
    machine: &RunningMachine,
    vcpu: usize,
    linear: u64,
    len: usize,
    done: usize,
) -> Result<(GuestAddress, usize), Impossible> {
    let start = linear.checked_add(done as u64).ok_or(Impossible)?;
    let at = machine.translate(vcpu, start)?;
    let in_page = usize::try_from(PAGE - start % PAGE).map_err(|_| Impossible)?;
    Ok((at, in_page.min(len - done)))
}
