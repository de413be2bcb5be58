//! The VM clock: a page in which the guest sees that its time jumped, or that its history forked.
//!
//! It says nothing of the time itself: no counter, no status. Source: Linux `include/uapi/linux/vmclock-abi.h`.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use crate::GuestMemory;

/// Bytes of the region that the guest maps.
pub const PAGE_LEN: u16 = 0x1000;

/// `VMCLOCK_MAGIC`: "VCLK".
const MAGIC: u32 = 0x4b4c_4356;
const VERSION: u16 = 1;
/// `VMCLOCK_COUNTER_INVALID`.
const COUNTER_INVALID: u8 = 0xff;
/// `VMCLOCK_STATUS_UNKNOWN`.
const STATUS_UNKNOWN: u8 = 0;
/// `VMCLOCK_FLAG_VM_GEN_COUNTER_PRESENT`.
const FLAG_GENERATION_PRESENT: u64 = 1 << 8;
/// `VMCLOCK_FLAG_NOTIFICATION_PRESENT`.
const FLAG_NOTIFICATION_PRESENT: u64 = 1 << 9;

const SEQUENCE: u64 = 12;
const DISRUPTION: u64 = 16;
const GENERATION: u64 = 104;

/// `struct vmclock_abi`.
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
struct Page {
    magic: U32,
    size: U32,
    version: U16,
    counter_id: u8,
    time_type: u8,
    seq_count: U32,
    disruption_marker: U64,
    flags: U64,
    pad: [u8; 2],
    clock_status: u8,
    leap_second_smearing_hint: u8,
    tai_offset_sec: U16,
    leap_indicator: u8,
    counter_period_shift: u8,
    /// Counter, its period and errors, the time and its errors: all unknown.
    time: [U64; 8],
    vm_generation_counter: U64,
}

const _: () = assert!(size_of::<Page>() == 112);
const _: () = assert!(std::mem::offset_of!(Page, seq_count) as u64 == SEQUENCE);
const _: () = assert!(std::mem::offset_of!(Page, disruption_marker) as u64 == DISRUPTION);
const _: () = assert!(std::mem::offset_of!(Page, vm_generation_counter) as u64 == GENERATION);

/// All that changes in the page. The guest can write to its copy, so this one counts. Format `vm_clock` v1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockState {
    /// Even; odd while the page changes.
    seq_count: u32,
    disruption_marker: u64,
    vm_generation_counter: u64,
}

impl ClockState {
    /// What the page holds before the guest runs.
    #[must_use]
    pub fn page(&self) -> Vec<u8> {
        let page = Page {
            magic: MAGIC.into(),
            size: u32::from(PAGE_LEN).into(),
            version: VERSION.into(),
            counter_id: COUNTER_INVALID,
            clock_status: STATUS_UNKNOWN,
            seq_count: self.seq_count.into(),
            disruption_marker: self.disruption_marker.into(),
            flags: (FLAG_GENERATION_PRESENT | FLAG_NOTIFICATION_PRESENT).into(),
            vm_generation_counter: self.vm_generation_counter.into(),
            ..Page::default()
        };
        let mut bytes = page.as_bytes().to_vec();
        bytes.resize(PAGE_LEN.into(), 0);
        bytes
    }

    /// The guest goes on from a saved state: changes the page at `at` as a reader that looks meanwhile expects it. The
    /// caller raises [`super::Event::Clock`] after.
    ///
    /// # Errors
    /// When the page is not in guest memory.
    pub fn disrupt(
        &mut self,
        memory: &GuestMemory,
        at: GuestAddress,
    ) -> Result<(), GuestMemoryError> {
        let field = |offset| GuestAddress(at.0.saturating_add(offset));
        let during = self.seq_count.wrapping_add(1) | 1;
        let after = during.wrapping_add(1);
        memory.store(during.to_le(), field(SEQUENCE), Ordering::SeqCst)?;
        let disruption = self.disruption_marker.wrapping_add(1);
        memory.store(disruption.to_le(), field(DISRUPTION), Ordering::SeqCst)?;
        let generation = self.vm_generation_counter.wrapping_add(1);
        memory.store(generation.to_le(), field(GENERATION), Ordering::SeqCst)?;
        memory.store(after.to_le(), field(SEQUENCE), Ordering::SeqCst)?;
        *self = Self {
            seq_count: after,
            disruption_marker: disruption,
            vm_generation_counter: generation,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::guest_memory;

    const AT: GuestAddress = GuestAddress(0x3000);

    #[test]
    fn the_page_is_laid_out_as_guests_read_it() {
        let page = ClockState::default().page();
        assert_eq!(page.len(), 4096);
        assert_eq!(&page[..4], b"VCLK");
        // Size, version, no counter, UTC.
        assert_eq!(page[4..12], [0, 0x10, 0, 0, 1, 0, 0xff, 0]);
        assert_eq!(page[24..32], [0, 3, 0, 0, 0, 0, 0, 0]);
        assert!(
            page[12..24]
                .iter()
                .chain(&page[32..])
                .all(|byte| *byte == 0)
        );
    }

    #[test]
    fn a_disruption_changes_the_markers_and_ends_even() {
        let memory = guest_memory(0x4000);
        let mut state = ClockState::default();
        memory.write_slice(&state.page(), AT).unwrap();
        for count in 1..=2 {
            state.disrupt(&memory, AT).unwrap();
            let mut bytes = vec![0; 4096];
            memory.read_slice(&mut bytes, AT).unwrap();
            assert_eq!(bytes, state.page());
            assert_eq!(
                (bytes[12], bytes[16], bytes[104]),
                (2 * count, count, count)
            );
        }
    }

    #[test]
    fn what_the_guest_wrote_over_the_page_counts_for_nothing() {
        let memory = guest_memory(0x4000);
        let mut state = ClockState::default();
        memory.write_slice(&[0xff; 4096], AT).unwrap();
        state.disrupt(&memory, AT).unwrap();
        let sequence: u32 = memory.read_obj(GuestAddress(AT.0 + SEQUENCE)).unwrap();
        assert_eq!(sequence, 2);
        assert!(state.disrupt(&memory, GuestAddress(0x4000)).is_err());
        assert_eq!(state.seq_count, 2);
    }
}
