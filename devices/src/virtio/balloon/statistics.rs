//! What a guest says of its memory, as the worker hears it and a command reads it (virtio 1.2 §5.5.6.3).

#![deny(clippy::arithmetic_side_effects)]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use vm_config::GuestStatistics;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::virtio::chain::Segments;

/// Kinds of figures: `VIRTIO_BALLOON_S_SWAP_IN` to `VIRTIO_BALLOON_S_DIRECT_RECLAIM` of Linux 6.12.
const TAGS: usize = 16;

/// The most records read of one buffer. Drivers send at most one of each kind.
const MAX_RECORDS: usize = 64;

/// `struct virtio_balloon_stat`, little-endian and unaligned.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C, packed)]
struct Record {
    tag: u16,
    value: u64,
}

/// A buffer that is not whole records, or empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The latest figure of each kind. Written by the worker; relaxed, for a figure orders nothing.
#[derive(Debug, Default)]
pub struct Figures {
    values: [AtomicU64; TAGS],
    /// A bit for each kind that ever came.
    present: AtomicU32,
}

impl Figures {
    /// Takes the figures in `from`. Kinds it does not know are for later versions.
    ///
    /// # Errors
    /// [`Malformed`] when the driver broke a rule; what came before is kept.
    pub fn record(&self, from: &mut Segments) -> Result<(), Malformed> {
        if from.is_empty() {
            return Err(Malformed);
        }
        for _ in 0..MAX_RECORDS {
            let Some(record) = from.read_head::<Record>() else {
                break;
            };
            let tag = u16::from_le(record.tag);
            if let Some(value) = self.values.get(usize::from(tag)) {
                value.store(u64::from_le(record.value), Ordering::Relaxed);
                let bit = 1_u32.checked_shl(tag.into()).unwrap_or_default();
                self.present.fetch_or(bit, Ordering::Relaxed);
            }
        }
        if from.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    /// The figures that came so far.
    #[must_use]
    pub fn latest(&self) -> GuestStatistics {
        let present = self.present.load(Ordering::Relaxed);
        let figure = |tag: usize| {
            let is_present = present.checked_shr(u32::try_from(tag).ok()?)? & 1 == 1;
            let value = self.values.get(tag)?.load(Ordering::Relaxed);
            is_present.then_some(value)
        };
        GuestStatistics {
            swap_in: figure(0),
            swap_out: figure(1),
            major_faults: figure(2),
            minor_faults: figure(3),
            free_memory: figure(4),
            total_memory: figure(5),
            available_memory: figure(6),
            disk_caches: figure(7),
            hugetlb_allocations: figure(8),
            hugetlb_failures: figure(9),
            oom_kill: figure(10),
            alloc_stall: figure(11),
            async_scan: figure(12),
            direct_scan: figure(13),
            async_reclaim: figure(14),
            direct_reclaim: figure(15),
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;
    use crate::testing::guest_memory;

    fn record(figures: &Figures, records: &[(u16, u64)], len: u32) -> Result<(), Malformed> {
        let mut segments = Segments::new(guest_memory(0x1000));
        if len > 0 {
            segments.push(GuestAddress(1), len).unwrap();
        }
        let mut bytes = Vec::new();
        for (tag, value) in records {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        segments.copy_from(0, &bytes);
        figures.record(&mut segments)
    }

    #[test]
    fn the_latest_figure_of_each_kind_is_kept() {
        let figures = Figures::default();
        record(&figures, &[(4, 100), (15, u64::MAX)], 20).unwrap();
        record(&figures, &[(4, 50)], 10).unwrap();
        let latest = GuestStatistics {
            free_memory: Some(50),
            direct_reclaim: Some(u64::MAX),
            ..GuestStatistics::default()
        };
        assert_eq!(figures.latest(), latest);
    }

    #[test]
    fn unknown_kinds_are_ignored() {
        let figures = Figures::default();
        record(&figures, &[(16, 1), (32, 1), (u16::MAX, 1)], 30).unwrap();
        assert_eq!(figures.latest(), GuestStatistics::default());
    }

    #[test]
    fn ragged_empty_and_endless_buffers_are_refused() {
        let figures = Figures::default();
        assert_eq!(record(&figures, &[], 0), Err(Malformed));
        assert_eq!(record(&figures, &[(4, 1)], 11), Err(Malformed));
        assert_eq!(record(&figures, &[], 1000), Err(Malformed));
    }
}
