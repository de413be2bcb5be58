//! Hands out the system area to what stays for the guest's life: tables from its start upwards, pages from its end
//! downwards.

use devices::GuestMemory;
use vm_config::{Explain, FaultCode, FaultKind};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::layout::{SYSTEM_END, SYSTEM_START};

/// Tables begin on such a boundary; the MP table must (MP 1.4 §4), ACPI tables may.
const ALIGNMENT: u64 = 16;

/// Bytes of a page.
const PAGE: usize = 4096;

/// A table that cannot be put into guest memory.
#[derive(Debug, thiserror::Error)]
pub enum SystemAreaError {
    /// The area is full.
    #[error(
        "a table of {len} bytes does not fit into the {left} bytes left for firmware tables; use fewer devices"
    )]
    Full {
        /// Bytes wanted.
        len: u64,
        /// Bytes left.
        left: u64,
    },
    /// Guest memory ends below the area.
    #[error("cannot write a firmware table; give the machine at least 1 MiB of memory")]
    Write(#[source] GuestMemoryError),
}

impl Explain for SystemAreaError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::Full { .. } => FaultCode::TooManyDevices,
            Self::Write(_) => FaultCode::GuestMemoryTooSmall,
        })
    }
}

/// What is left of the system area.
#[derive(Clone, Debug)]
pub struct SystemArea {
    next: u64,
    end: u64,
}

impl Default for SystemArea {
    fn default() -> Self {
        Self {
            next: SYSTEM_START.0,
            end: SYSTEM_END.0,
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
        self.check_room(table.len() as u64, start)?;
        self.next = start + table.len() as u64;
        let start = GuestAddress(start);
        Self::overwrite(memory, start, table)?;
        Ok(start)
    }

    /// Copies `content` to the start of pages that hold nothing else, and says where that is.
    ///
    /// # Errors
    /// [`SystemAreaError`]: no room is left.
    pub fn place_page(
        &mut self,
        memory: &GuestMemory,
        content: &[u8],
    ) -> Result<GuestAddress, SystemAreaError> {
        let len = content.len().next_multiple_of(PAGE) as u64;
        self.check_room(len, self.next)?;
        self.end -= len;
        let start = GuestAddress(self.end);
        Self::overwrite(memory, start, content)?;
        Ok(start)
    }

    /// Whether `len` bytes fit between `start` and the lowest page.
    fn check_room(&self, len: u64, start: u64) -> Result<(), SystemAreaError> {
        let left = self.end.saturating_sub(start);
        if len > left {
            return Err(SystemAreaError::Full { len, left });
        }
        Ok(())
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

    #[test]
    fn a_page_is_shared_with_no_table() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let mut area = SystemArea::default();
        area.place(&memory, &[1; 17]).unwrap();
        assert_eq!(area.place_page(&memory, &[2; 16]).unwrap().0, 0xd_f000);
        assert_eq!(area.place_page(&memory, &[2; 4096]).unwrap().0, 0xd_e000);
        assert_eq!(area.place(&memory, &[3]).unwrap().0, 0x9_fc20);
    }

    #[test]
    fn tables_and_pages_never_meet() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let mut area = SystemArea::default();
        // From 0x9fc00 on, all but 0x1008 bytes: a page fits, and 8 bytes are left.
        area.place(&memory, &vec![1; 0x4_0400 - 0x1008]).unwrap();
        assert_eq!(area.place_page(&memory, &[2]).unwrap().0, 0xd_f000);
        for refused in [area.place_page(&memory, &[2]), area.place(&memory, &[1; 9])] {
            assert!(matches!(refused, Err(SystemAreaError::Full { .. })));
        }
    }
}
