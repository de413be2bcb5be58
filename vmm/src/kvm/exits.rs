//! What a vCPU left the guest for: how often, how long that took, and what the last times were.
//!
//! Each exit is counted once: an access in the vCPU's [`VcpuMetrics`], anything else here. One thread writes and orders
//! nothing; whoever reads while the vCPU runs sees each number whole, and maybe one exit more in one place than in another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use devices::metrics::Counter;
use serde::Serialize;

use crate::metrics::VcpuMetrics;

/// Exits that are remembered.
const REMEMBERED: usize = 16;
/// Kinds of exits.
const KINDS: usize = ExitKind::ALL.len();

// An exit in one word, so that it is seen whole: address, size, kind. A kind is never 0.
const ADDRESS_BITS: u32 = 52;
const SIZE_BITS: u32 = 8;
const ADDRESS_MASK: u64 = (1 << ADDRESS_BITS) - 1;
const SIZE_MASK: u64 = (1 << SIZE_BITS) - 1;

/// Why a vCPU left the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ExitKind {
    /// It read a port.
    PortRead,
    /// It wrote a port.
    PortWrite,
    /// It read an address that is no memory.
    MmioRead,
    /// It wrote an address that is no memory.
    MmioWrite,
    /// An interrupt of the I/O APIC was served.
    EndOfInterrupt,
    /// The host kicked it.
    Interrupted,
    /// It shut down: a triple fault.
    Shutdown,
    /// KVM could not go on.
    InternalError,
    /// The guest asked for the end.
    SystemEvent,
    /// Anything else.
    Other,
}

/// One exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Why.
    pub kind: ExitKind,
    /// The port or the guest-physical address; 0 for what has neither.
    pub address: u64,
    /// Bytes of the access; 0 for what is none.
    pub size: u64,
}

/// The exits of one vCPU.
#[derive(Debug, Default)]
pub struct ExitLog {
    metrics: Arc<VcpuMetrics>,
    /// By kind; those of accesses are in `metrics`.
    others: [Counter; KINDS],
    /// Where the next one goes.
    next: AtomicUsize,
    last: [AtomicU64; REMEMBERED],
}

impl ExitKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::PortRead,
        Self::PortWrite,
        Self::MmioRead,
        Self::MmioWrite,
        Self::EndOfInterrupt,
        Self::Interrupted,
        Self::Shutdown,
        Self::InternalError,
        Self::SystemEvent,
        Self::Other,
    ];
}

impl Exit {
    fn pack(self) -> u64 {
        let kind = self.kind as u64 + 1;
        let size = self.size.min(SIZE_MASK);
        (kind << SIZE_BITS | size) << ADDRESS_BITS | self.address & ADDRESS_MASK
    }

    fn unpack(word: u64) -> Option<Self> {
        let kind = usize::try_from(word >> (ADDRESS_BITS + SIZE_BITS)).ok()?;
        Some(Self {
            kind: *ExitKind::ALL.get(kind.checked_sub(1)?)?,
            address: word & ADDRESS_MASK,
            size: word >> ADDRESS_BITS & SIZE_MASK,
        })
    }
}

impl ExitLog {
    /// What it counts under the names of the metrics file.
    pub fn metrics(&self) -> &Arc<VcpuMetrics> {
        &self.metrics
    }

    /// Remembers and counts an exit. Called by the vCPU's thread alone.
    pub fn record(&self, exit: Exit) {
        self.count(exit.kind);
        let next = self.next.load(Ordering::Relaxed);
        if let Some(place) = self.last.get(next) {
            place.store(exit.pack(), Ordering::Relaxed);
        }
        self.next.store((next + 1) % REMEMBERED, Ordering::Relaxed);
    }

    /// As [`ExitLog::record`], and notes how long `answer` takes to answer an access.
    pub fn record_answer(&self, exit: Exit, answer: impl FnOnce()) {
        self.record(exit);
        let latency = match exit.kind {
            ExitKind::PortRead => &self.metrics.exit_io_in_agg,
            ExitKind::PortWrite => &self.metrics.exit_io_out_agg,
            ExitKind::MmioRead => &self.metrics.exit_mmio_read_agg,
            ExitKind::MmioWrite => &self.metrics.exit_mmio_write_agg,
            _ => return answer(),
        };
        let start = Instant::now();
        answer();
        latency.record(start.elapsed());
    }

    /// Counts an exit that says nothing of the guest. Called by the vCPU's thread alone.
    pub fn count(&self, kind: ExitKind) {
        self.counter(kind).increment();
    }

    fn counter(&self, kind: ExitKind) -> &Counter {
        match kind {
            ExitKind::PortRead => &self.metrics.exit_io_in,
            ExitKind::PortWrite => &self.metrics.exit_io_out,
            ExitKind::MmioRead => &self.metrics.exit_mmio_read,
            ExitKind::MmioWrite => &self.metrics.exit_mmio_write,
            other => &self.others[other as usize],
        }
    }

    /// How many of each kind there were; kinds that there were none of are left out.
    pub fn counts(&self) -> impl Iterator<Item = (ExitKind, u64)> + '_ {
        let counts = ExitKind::ALL.map(|kind| (kind, self.counter(kind).get()));
        counts.into_iter().filter(|(_, count)| *count > 0)
    }

    /// The last ones, oldest first.
    pub fn last(&self) -> impl Iterator<Item = Exit> + '_ {
        let next = self.next.load(Ordering::Relaxed);
        (0..REMEMBERED)
            .filter_map(move |index| self.last.get((next + index) % REMEMBERED))
            .filter_map(|word| Exit::unpack(word.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(kind: ExitKind, address: u64, size: u64) -> Exit {
        Exit {
            kind,
            address,
            size,
        }
    }

    #[test]
    fn the_last_exits_are_told_oldest_first_and_all_are_counted() {
        let log = ExitLog::default();
        assert_eq!((log.last().count(), log.counts().count()), (0, 0));
        for port in 0..20 {
            log.record(exit(ExitKind::PortWrite, port, 1));
        }
        log.record(exit(ExitKind::MmioRead, 0xfee0_0000, 4));
        log.count(ExitKind::Interrupted);
        let last: Vec<_> = log.last().collect();
        assert_eq!(last.len(), REMEMBERED);
        assert_eq!(last[0], exit(ExitKind::PortWrite, 5, 1));
        assert_eq!(last[15], exit(ExitKind::MmioRead, 0xfee0_0000, 4));
        let counts: Vec<_> = log.counts().collect();
        let expected = [
            (ExitKind::PortWrite, 20),
            (ExitKind::MmioRead, 1),
            (ExitKind::Interrupted, 1),
        ];
        assert_eq!(counts, expected);
    }

    #[test]
    fn an_access_is_counted_under_the_names_of_the_metrics_file() {
        let log = ExitLog::default();
        let mut answered = 0;
        for kind in ExitKind::ALL {
            log.record_answer(exit(kind, 0x64, 1), || answered += 1);
        }
        assert_eq!(answered, ExitKind::ALL.len());
        let metrics = log.metrics();
        let accesses = [
            &metrics.exit_io_in,
            &metrics.exit_io_out,
            &metrics.exit_mmio_read,
            &metrics.exit_mmio_write,
        ];
        assert_eq!(accesses.map(Counter::get), [1; 4]);
        let counts: Vec<_> = log.counts().collect();
        assert_eq!(counts, ExitKind::ALL.map(|kind| (kind, 1)));
    }

    #[test]
    fn each_kind_survives_with_the_widest_address_and_size() {
        for kind in ExitKind::ALL {
            let widest = exit(kind, ADDRESS_MASK, SIZE_MASK);
            assert_eq!(Exit::unpack(widest.pack()), Some(widest));
            let log = ExitLog::default();
            log.record(widest);
            assert_eq!(log.counts().collect::<Vec<_>>(), [(kind, 1)]);
        }
        let wider = exit(ExitKind::Other, u64::MAX, 4096);
        assert_eq!(
            Exit::unpack(wider.pack()),
            Some(exit(ExitKind::Other, ADDRESS_MASK, SIZE_MASK))
        );
    }
}
