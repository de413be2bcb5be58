//! A file that remembers what was done to it, and can be cut off as by a power failure.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::super::layout::BITMAP_AT;
use super::*;

/// What the host writes at once, whole or not at all.
const PIECE: usize = 512;

pub(super) struct Recorder {
    file: File,
    /// What was in it when it began.
    first: Vec<u8>,
    done: Mutex<Vec<Done>>,
    /// What is surely on the disk.
    durable: Mutex<Vec<u8>>,
    /// How many syncs succeed before one fails; none does at `usize::MAX`.
    good_syncs: AtomicUsize,
    refuses_bits: AtomicBool,
}

enum Done {
    Write(u64, Vec<u8>),
    Sync,
}

impl Recorder {
    /// A new file with this header, and all of it on the disk.
    pub(super) fn holding(header: &Header) -> Self {
        let file = tempfile::tempfile().unwrap();
        let len = header.layout.file_len();
        file.set_len(len).unwrap();
        let header = header.encode();
        file.write_all_at(&header, 0).unwrap();
        let mut durable = vec![0; usize::try_from(len).unwrap()];
        durable[..header.len()].copy_from_slice(&header);
        Self {
            durable: Mutex::new(durable.clone()),
            first: durable,
            file,
            done: Mutex::default(),
            good_syncs: AtomicUsize::new(usize::MAX),
            refuses_bits: AtomicBool::default(),
        }
    }

    /// Writes and syncs so far.
    pub(super) fn len(&self) -> usize {
        self.done.lock().unwrap().len()
    }

    pub(super) fn fail_next_sync(&self) {
        self.fail_sync_after(0);
    }

    /// One sync fails, after so many that do not.
    pub(super) fn fail_sync_after(&self, good: usize) {
        self.good_syncs.store(good, Ordering::Relaxed);
    }

    pub(super) fn refuse_bits(&self, is_on: bool) {
        self.refuses_bits.store(is_on, Ordering::Relaxed);
    }

    /// Bytes as a reader sees them, and as they are on the disk.
    pub(super) fn bytes_at(&self, at: u64, len: usize) -> (Vec<u8>, Vec<u8>) {
        let mut seen = vec![0; len];
        self.file.read_exact_at(&mut seen, at).unwrap();
        let at = usize::try_from(at).unwrap();
        (seen, self.durable.lock().unwrap()[at..at + len].to_vec())
    }

    /// What the next process finds when this one is killed.
    pub(super) fn copy(&self) -> File {
        self.after(self.len(), |_| true)
    }

    /// What is left when the host dies after `cut` of what was done: all before the last sync, and of the rest any
    /// pieces.
    pub(super) fn crash(&self, cut: usize, mut seed: u64) -> File {
        let done = self.done.lock().unwrap();
        let synced = done[..cut]
            .iter()
            .rposition(|one| matches!(one, Done::Sync));
        drop(done);
        self.after(cut, |index| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            synced.is_some_and(|synced| index < synced) || seed >> 63 == 1
        })
    }

    fn after(&self, cut: usize, mut is_kept: impl FnMut(usize) -> bool) -> File {
        let left = tempfile::tempfile().unwrap();
        left.write_all_at(&self.first, 0).unwrap();
        for (index, one) in self.done.lock().unwrap()[..cut].iter().enumerate() {
            let Done::Write(at, bytes) = one else {
                continue;
            };
            for (piece, at) in bytes.chunks(PIECE).zip((*at..).step_by(PIECE)) {
                if is_kept(index) {
                    left.write_all_at(piece, at).unwrap();
                }
            }
        }
        left
    }
}

impl Medium for Recorder {
    fn read(&self, at: u64, into: &mut Segments, max: usize) -> io::Result<usize> {
        into.read_at(&self.file, at, max)
    }

    fn write(&self, at: u64, from: &mut Segments, max: usize) -> io::Result<usize> {
        let mut bytes = vec![0; max.min(from.len())];
        assert_eq!(from.copy_to(0, &mut bytes), bytes.len());
        self.write_bytes(at, &bytes)?;
        from.advance(bytes.len());
        Ok(bytes.len())
    }

    fn read_bytes(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, at)
    }

    fn write_bytes(&self, at: u64, from: &[u8]) -> io::Result<()> {
        if (BITMAP_AT..BITMAP_AT + 4096).contains(&at) && self.refuses_bits.load(Ordering::Relaxed)
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_all_at(from, at)?;
        self.done
            .lock()
            .unwrap()
            .push(Done::Write(at, from.to_vec()));
        Ok(())
    }

    fn punch(&self, range: Range) -> io::Result<()> {
        self.zero(range)
    }

    fn zero(&self, range: Range) -> io::Result<()> {
        self.write_bytes(range.at, &vec![0; usize::try_from(range.len).unwrap()])
    }

    fn sync(&self) -> io::Result<()> {
        let good = self.good_syncs.load(Ordering::Relaxed);
        let left = good.checked_sub(1).unwrap_or(usize::MAX);
        if good < usize::MAX {
            self.good_syncs.store(left, Ordering::Relaxed);
        }
        if good == 0 {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let mut bytes = self.durable.lock().unwrap();
        self.file.read_exact_at(&mut bytes, 0)?;
        self.done.lock().unwrap().push(Done::Sync);
        Ok(())
    }
}
