//! An overlay against a plain copy of the disk, with the host dying at any moment.

mod chain;
mod device;
mod open;
mod recorder;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::{NamedTempFile, TempDir};
use vm_memory::{Bytes, GuestAddress};

use self::chain::Chain;
use self::recorder::Recorder;
use super::super::file::DiskFile;
use super::header::State;
use super::open::read_header;
use super::*;
use crate::GuestMemory;
use crate::testing::guest_memory;

const SECTOR: u64 = 512;
/// Twelve blocks and a part of one.
const SECTORS: u64 = 12 * 8 + 3;
const DISK: u64 = SECTORS * SECTOR;

/// A base and a place for overlays.
struct Bed {
    directory: TempDir,
    base: NamedTempFile,
    memory: Arc<GuestMemory>,
}

impl Bed {
    fn new() -> Self {
        let base = NamedTempFile::new().unwrap();
        for sector in 0..SECTORS {
            let bytes = [base_byte(sector); 512];
            base.as_file()
                .write_all_at(&bytes, sector * SECTOR)
                .unwrap();
        }
        Self {
            directory: tempfile::tempdir().unwrap(),
            base,
            memory: guest_memory(1 << 20),
        }
    }

    fn open(&self, path: &Path) -> Result<Overlay, OverlayError> {
        self.open_on(&[], path)
    }

    /// Opens a chain, the oldest first.
    fn open_on(&self, lower: &[PathBuf], path: &Path) -> Result<Overlay, OverlayError> {
        let base = DiskFile::open(self.base.path(), true).unwrap();
        let mut stack = Stack::on(&base, self.base.path())?;
        for path in lower {
            stack.push(path, LockWait::Second)?;
        }
        Overlay::open(path, stack, LockWait::Second)
    }

    /// An overlay straight on the base, in a file that remembers what was done to it.
    fn recorded(&self) -> (Arc<Recorder>, Overlay<Arc<Recorder>>) {
        let base = DiskFile::open(self.base.path(), true).unwrap();
        let stack = Stack::on(&base, self.base.path()).unwrap();
        let mut header = Header::new(stack.over()).unwrap();
        header.state = State::Open;
        let recorder = Arc::new(Recorder::holding(&header));
        let overlay = Overlay::with(Arc::clone(&recorder), header, stack.into_below()).unwrap();
        (recorder, overlay)
    }

    /// What is in a file that was left behind.
    fn left(&self, file: File) -> Overlay {
        let base = DiskFile::open(self.base.path(), true).unwrap();
        let stack = Stack::on(&base, self.base.path()).unwrap();
        let header = read_header(&file, file.metadata().unwrap().len()).unwrap();
        header.fits(stack.over()).unwrap();
        Overlay::with(Arc::new(file), header, stack.into_below()).unwrap()
    }

    fn segments(&self, len: u64) -> Segments {
        let mut segments = Segments::new(Arc::clone(&self.memory));
        // Two pieces, so that runs and pieces end in different places.
        let first = len / 3;
        for (at, len) in [(0, first), (0x8_0000, len - first)] {
            let pushed = segments.push(GuestAddress(at), u32::try_from(len).unwrap());
            pushed.unwrap();
        }
        segments
    }

    fn write<M: Medium>(&self, overlay: &Overlay<M>, sectors: Sectors, byte: u8) {
        let mut segments = self.segments(sectors.range().len);
        segments.copy_from(0, &vec![byte; segments.len()]);
        overlay.write(sectors.range().at, &mut segments).unwrap();
        assert!(segments.is_empty());
    }

    /// The byte that each sector is filled with.
    fn read<M: Medium>(&self, overlay: &Overlay<M>, sectors: Sectors) -> Vec<u8> {
        let mut segments = self.segments(sectors.range().len);
        let len = segments.len();
        self.memory
            .write_slice(&vec![0xdd; 1 << 20], GuestAddress(0))
            .unwrap();
        overlay.read(sectors.range().at, &mut segments).unwrap();
        let mut bytes = vec![0; len];
        assert_eq!(self.segments(len as u64).copy_to(0, &mut bytes), len);
        bytes.chunks(512).map(filled_with).collect()
    }
}

fn base_byte(sector: u64) -> u8 {
    0x80 | sector.to_le_bytes()[0]
}

/// The one byte that a sector is filled with.
fn filled_with(sector: &[u8]) -> u8 {
    assert!(
        sector.iter().all(|byte| *byte == sector[0]),
        "a torn sector"
    );
    sector[0]
}

#[derive(Clone, Copy, Debug)]
struct Sectors {
    first: u64,
    count: u64,
}

impl Sectors {
    const ALL: Self = Self {
        first: 0,
        count: SECTORS,
    };

    fn range(self) -> Range {
        Range {
            at: self.first * SECTOR,
            len: self.count * SECTOR,
        }
    }

    fn indices(self) -> std::ops::Range<usize> {
        let first = usize::try_from(self.first).unwrap();
        first..first + usize::try_from(self.count).unwrap()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(Sectors, u8),
    Zero(Sectors, bool),
    Read(Sectors),
    Flush,
    /// A flush as the engine `Async` does it, with writes before the first sync, between the two, and after the bits.
    Interleaved([(Sectors, u8); 3]),
    Reopen,
    WriteThrough(bool),
    /// A fresh overlay on the sealed one.
    Seal,
}

fn sectors() -> impl Strategy<Value = Sectors> {
    (0..SECTORS, 0..30_u64).prop_map(|(first, count)| Sectors {
        first,
        count: count.min(SECTORS - first),
    })
}

fn step() -> impl Strategy<Value = Step> {
    let write = || (sectors(), 1..0x80_u8);
    prop_oneof![
        6 => write().prop_map(|(sectors, byte)| Step::Write(sectors, byte)),
        2 => (sectors(), any::<bool>()).prop_map(|(sectors, keeps)| Step::Zero(sectors, keeps)),
        3 => sectors().prop_map(Step::Read),
        2 => Just(Step::Flush),
        1 => [write(), write(), write()].prop_map(Step::Interleaved),
        1 => Just(Step::Reopen),
        1 => any::<bool>().prop_map(Step::WriteThrough),
        1 => Just(Step::Seal),
    ]
}

/// Does a step that changes something, on the overlay and on `disk`, a byte a sector.
fn change<M: Medium>(bed: &Bed, overlay: &Overlay<M>, step: &Step, disk: &mut [u8]) {
    let mut write = |sectors: Sectors, byte| {
        bed.write(overlay, sectors, byte);
        disk[sectors.indices()].fill(byte);
    };
    match *step {
        Step::Write(sectors, byte) => write(sectors, byte),
        Step::Zero(sectors, keeps_space) => {
            overlay.zero(sectors.range(), keeps_space).unwrap();
            disk[sectors.indices()].fill(0);
        }
        Step::Flush => overlay.flush().unwrap(),
        Step::Interleaved([before, between, after]) => {
            let is_staged = overlay.stage();
            write(before.0, before.1);
            overlay.synced(overlay.medium().sync()).unwrap();
            write(between.0, between.1);
            if is_staged {
                overlay.write_staged().unwrap();
                write(after.0, after.1);
                overlay.synced(overlay.medium().sync()).unwrap();
                overlay.committed();
            }
        }
        Step::WriteThrough(is_on) => overlay.set_write_through(is_on).unwrap(),
        Step::Read(_) | Step::Reopen | Step::Seal => {}
    }
}

fn base_disk() -> Vec<u8> {
    (0..SECTORS).map(base_byte).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn overlay_is_a_disk_and_the_base_stays(steps in vec(step(), 1..40)) {
        let bed = Bed::new();
        let mut chain = Chain::new(&bed);
        let before = std::fs::read(bed.base.path()).unwrap();
        let mut overlay = chain.open();
        let mut disk = base_disk();
        for step in &steps {
            match step {
                Step::Read(sectors) => {
                    prop_assert_eq!(bed.read(&overlay, *sectors), &disk[sectors.indices()]);
                }
                Step::Reopen => {
                    drop(overlay);
                    overlay = chain.open();
                }
                Step::Seal => overlay = chain.seal(overlay),
                other => change(&bed, &overlay, other, &mut disk),
            }
        }
        prop_assert_eq!(bed.read(&overlay, Sectors::ALL), disk);
        prop_assert_eq!(std::fs::read(bed.base.path()).unwrap(), before);
    }

    /// What is seen after the host died: for each sector what the last flush that ended left there, or something
    /// written since, whole.
    #[test]
    fn crash_loses_nothing_that_was_flushed_and_shows_nothing_else(
        steps in vec(step(), 1..30),
        cut in any::<prop::sample::Index>(),
        seed: u64,
    ) {
        let bed = Bed::new();
        let (recorder, overlay) = bed.recorded();
        // After each step: how much was recorded, the disk then, and whether all of it is durable.
        let mut disk = base_disk();
        let mut past = vec![(0, disk.clone(), true)];
        for step in &steps {
            if !matches!(step, Step::WriteThrough(_)) {
                change(&bed, &overlay, step, &mut disk);
                let is_flush = matches!(step, Step::Flush);
                past.push((recorder.len(), disk.clone(), is_flush));
            }
        }
        let cut = cut.index(recorder.len() + 1);
        let flushed = past.iter().rposition(|(len, _, is_flush)| *is_flush && *len <= cut);
        let flushed = flushed.unwrap();
        let started = past.iter().rposition(|(len, ..)| *len <= cut).unwrap() + 1;
        let possible = &past[flushed..past.len().min(started + 1)];

        let left = recorder.crash(cut, seed);
        let overlay = bed.left(left);
        for (sector, byte) in bed.read(&overlay, Sectors::ALL).into_iter().enumerate() {
            let mut may_be: Vec<u8> = possible.iter().map(|(_, disk, _)| disk[sector]).collect();
            // What a step wrote and wrote over is in no disk of the list.
            for step in &steps {
                if let Step::Interleaved(writes) = step {
                    let here = |w: &&(Sectors, u8)| w.0.indices().contains(&sector);
                    may_be.extend(writes.iter().filter(here).map(|w| w.1));
                }
            }
            prop_assert!(may_be.contains(&byte), "sector {} is {:#x}", sector, byte);
        }
    }

    /// The monitor is killed, the host goes on: nothing is lost with a driver that does not flush.
    #[test]
    fn nothing_is_lost_with_the_monitor_when_bits_are_written_through(steps in vec(step(), 1..30)) {
        let bed = Bed::new();
        let (recorder, overlay) = bed.recorded();
        overlay.set_write_through(true).unwrap();
        let mut disk = base_disk();
        for step in &steps {
            if !matches!(step, Step::WriteThrough(_)) {
                change(&bed, &overlay, step, &mut disk);
            }
        }
        let copy = bed.left(recorder.copy());
        prop_assert_eq!(bed.read(&copy, Sectors::ALL), disk);
    }
}

#[test]
fn failed_sync_is_never_forgotten() {
    let bed = Bed::new();
    let (recorder, overlay) = bed.recorded();
    bed.write(&overlay, Sectors { first: 0, count: 8 }, 7);
    recorder.fail_next_sync();
    overlay.flush().unwrap_err();
    overlay.flush().unwrap_err();
    let (_, bits) = recorder.bytes_at(layout::BITMAP_AT, 8);
    assert_eq!(bits, [0; 8], "no bit of data that may be lost");
}

#[test]
fn bits_that_found_no_room_are_written_later() {
    let bed = Bed::new();
    let (recorder, overlay) = bed.recorded();
    overlay.set_write_through(true).unwrap();
    let block = Sectors { first: 8, count: 8 };
    recorder.refuse_bits(true);
    let mut segments = bed.segments(4096);
    overlay.write(block.range().at, &mut segments).unwrap_err();
    recorder.refuse_bits(false);
    bed.write(&overlay, block, 7);
    let (bits, _) = recorder.bytes_at(layout::BITMAP_AT, 8);
    assert_eq!(bits[0], 2);
}

#[test]
fn whole_blocks_are_written_without_a_look_at_the_base() {
    let bed = Bed::new();
    let overlay = bed.open(&bed.directory.path().join("overlay")).unwrap();
    // The last block ends with the disk.
    for (first, count) in [(0, 16), (88, 11), (96, 3)] {
        bed.write(&overlay, Sectors { first, count }, 1);
    }
    assert_eq!(overlay.take_copied(), 0);
    for (first, count, copied) in [(17, 1, 1), (18, 3, 0), (30, 20, 2), (64, 23, 1)] {
        bed.write(&overlay, Sectors { first, count }, 1);
        assert_eq!(overlay.take_copied(), copied, "{first}");
    }
}
