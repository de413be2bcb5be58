//! Hands out the system area, from its start upwards, to tables that stay for the guest's life.

use devices::GuestMemory;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::layout::{SYSTEM_END, SYSTEM_START};

/// Tables begin on such a boundary; the MP table must (MP 1.4 §4), ACPI tables may.
const ALIGNMENT: u64 = 16;

/// A table that cannot be put into guest memory.
#[derive(Debug, thiserror::Error)]
pub enum SystemAreaError {
    /// The area is full.
    #[error(
        "a table of {len} bytes does not fit into the {left} bytes left for firmware tables; use fewer devices"
    )]
    Full {
        /// Bytes wanted.
        len: usize,
        /// Bytes left.
        left: u64,
    },
    /// Guest memory ends below the area.
    #[error("cannot write a firmware table; give the machine at least 1 MiB of memory")]
    Write(#[source] GuestMemoryError),
}

/// What is left of the system area.
#[derive(Clone, Debug)]
pub struct SystemArea {
    next: u64,
}

impl Default for SystemArea {
    fn default() -> Self {
        Self {
            next: SYSTEM_START.0,
        }
    }
}

impl SystemArea {
    /// Copies `table` to the next free place and says where that is.
    ///
    /// # Errors
    /// [`SystemAreaError`]: no room is left.
    pub fn place(
        &mut self,
        memory: &GuestMemory,
        table: &[u8],
    ) -> Result<GuestAddress, SystemAreaError> {
        let start = self.next.next_multiple_of(ALIGNMENT);
        let left = SYSTEM_END.0.saturating_sub(start);
        let len = table.len() as u64;
        if len > left {
            return Err(SystemAreaError::Full {
                len: table.len(),
                left,
            });
        }
        let start = GuestAddress(start);
        Self::overwrite(memory, start, table)?;
        self.next = start.0 + len;
        Ok(start)
    }

    /// Replaces a table that was placed at `start` by one of the same length.
    pub(super) fn overwrite(
        memory: &GuestMemory,
        start: GuestAddress,
        table: &[u8],
    ) -> Result<(), SystemAreaError> {
        memory
            .write_slice(table, start)
            .map_err(SystemAreaError::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_follow_each_other_aligned_until_the_area_is_full() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let mut area = SystemArea::default();
        assert_eq!(area.place(&memory, &[1; 17]).unwrap().0, 0x9_fc00);
        assert_eq!(area.place(&memory, &[2; 3]).unwrap().0, 0x9_fc20);
        let rest = vec![0; 0x4_0400 - 0x30];
        assert_eq!(area.place(&memory, &rest).unwrap().0, 0x9_fc30);
        assert!(matches!(
            area.place(&memory, &[0]),
            Err(SystemAreaError::Full { len: 1, left: 0 })
        ));
    }
}
