//! Overlays over overlays: what is read through a chain, how one is sealed, and what is refused.

use std::fs;
use std::time::Duration;

use super::super::blocks::Blocks;
use super::super::header::HEADER_LEN;
use super::super::layers::Layer;
use super::*;

/// A chain of files: the base, sealed overlays, and one that is written.
pub(super) struct Chain<'a> {
    pub(super) bed: &'a Bed,
    pub(super) lower: Vec<PathBuf>,
    pub(super) top: PathBuf,
}

impl<'a> Chain<'a> {
    pub(super) fn new(bed: &'a Bed) -> Self {
        Self {
            bed,
            lower: Vec::new(),
            top: bed.directory.path().join("0"),
        }
    }

    pub(super) fn open(&self) -> Overlay {
        self.bed.open_on(&self.lower, &self.top).unwrap()
    }

    fn refused(&self) -> String {
        let error = self.bed.open_on(&self.lower, &self.top).unwrap_err();
        error.to_string()
    }

    fn next(&self) -> PathBuf {
        let name = (self.lower.len() + 1).to_string();
        self.bed.directory.path().join(name)
    }

    fn prepare(&self) -> Result<Restack, OverlayError> {
        let restack = Restack::prepare(&self.top, self.lower.len(), &self.next());
        restack.map_err(|(_, why)| why)
    }

    /// The top is sealed, and the next on it.
    fn grow(&mut self) {
        let next = self.next();
        self.lower.push(std::mem::replace(&mut self.top, next));
    }

    /// The overlay that follows. Where chains end, the same one.
    pub(super) fn seal(&mut self, overlay: Overlay) -> Overlay {
        if self.lower.len() == MAX_LAYERS {
            let error = self.prepare().unwrap_err().to_string();
            assert!(error.contains("more than 32 sealed overlays"), "{error}");
            return overlay;
        }
        let mut restack = self.prepare().unwrap();
        restack.seal(&overlay).unwrap();
        self.grow();
        restack.finish(&overlay)
    }
}

/// A chain of so many overlays, each with its number in its own block and in block 11.
fn numbered(bed: &Bed, depth: u8) -> (Chain<'_>, Overlay, Vec<u8>) {
    let mut chain = Chain::new(bed);
    let (mut overlay, mut disk) = (chain.open(), base_disk());
    for number in 1..=depth {
        for block in [u64::from(number - 1) % 10, 11] {
            let sectors = Sectors {
                first: block * 8,
                count: 8,
            };
            bed.write(&overlay, sectors, number);
            disk[sectors.indices()].fill(number);
        }
        if number < depth {
            overlay = chain.seal(overlay);
        }
    }
    (chain, overlay, disk)
}

fn assert_says(error: &str, words: &str) {
    assert!(error.contains(words), "{words:?} is not in: {error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn blocks_are_found_where_the_newest_has_them(
        sets in vec(vec((0..200_u64, 0..200_u64), 0..3), 1..6),
        first in 0..200_u64,
        end in 0..=200_u64,
    ) {
        let layout = Layout::of(200 * 4096).unwrap();
        let mut all = Vec::new();
        let mut model = vec![Holder::Base; 200];
        for (index, runs) in (0..sets.len()).rev().zip(sets.iter().rev()) {
            let bitmap = Bitmap::empty(layout).unwrap();
            for (from, to) in runs {
                bitmap.set(*from, *to);
                let holder = index.checked_sub(1).map_or(Holder::Top, Holder::Layer);
                for block in *from..*to {
                    model[usize::try_from(block).unwrap()] = holder;
                }
            }
            all.push(Arc::clone(bitmap.present()));
        }
        let top: Arc<Blocks> = all.pop().unwrap();
        let file = Arc::new(tempfile::tempfile().unwrap());
        let layer = |blocks| Layer { file: Arc::clone(&file), blocks };
        let below = Below {
            layers: all.into_iter().rev().map(layer).collect(),
            base: Arc::clone(&file),
        };
        let from = model[usize::try_from(first).unwrap()];
        let same = (first..end).take_while(|b| model[usize::try_from(*b).unwrap()] == from);
        let found = Found { from, end: first.min(end) + same.count() as u64 };
        prop_assert_eq!(below.find(&top, first, end), found);
    }

    /// The host dies at any moment of a seal. Either the overlay is as before, with all that was flushed, or it is sealed
    /// and has everything.
    #[test]
    fn seal_that_is_cut_off_leaves_one_chain(
        steps in vec(step(), 1..20),
        cut in any::<prop::sample::Index>(),
        seed: u64,
    ) {
        let bed = Bed::new();
        let (recorder, overlay) = bed.recorded();
        let mut disk = base_disk();
        let (mut flushed, mut changed) = (disk.clone(), vec![false; disk.len()]);
        for step in steps.iter().filter(|step| !matches!(step, Step::WriteThrough(_))) {
            change(&bed, &overlay, step, &mut disk);
            if matches!(step, Step::Flush) {
                flushed.clone_from(&disk);
                changed.fill(false);
            }
            match step {
                Step::Write(sectors, _) | Step::Zero(sectors, _) => changed[sectors.indices()].fill(true),
                Step::Interleaved(writes) => {
                    writes.iter().for_each(|(sectors, _)| changed[sectors.indices()].fill(true));
                }
                _ => {}
            }
        }
        let before = recorder.len();
        overlay.seal().unwrap();
        let cut = before + cut.index(recorder.len() - before + 1);
        let left = recorder.crash(cut, seed);
        let header = read_header(&left, left.metadata().unwrap().len()).unwrap();
        let found = bed.read(&bed.left(left), Sectors::ALL);
        match header.state {
            State::Sealed => prop_assert_eq!(found, disk),
            State::Open => {
                for (sector, byte) in found.into_iter().enumerate() {
                    prop_assert!(changed[sector] || byte == flushed[sector], "sector {}", sector);
                }
            }
            State::BeingMade => prop_assert!(false, "it is made anew"),
        }
        // With the seal all of it is there.
        prop_assert!(cut < recorder.len() || header.state == State::Sealed);
    }

    /// Any bytes in the header of any layer: opened or refused, and what is opened can be read.
    #[test]
    fn hostile_layers_do_no_harm(
        which in 0..3_usize,
        at in 0..HEADER_LEN + 8,
        bytes in vec(any::<u8>(), 1..40),
        len in proptest::option::of(0..200_000_u64),
    ) {
        let bed = Bed::new();
        let (chain, overlay, _) = numbered(&bed, 3);
        drop(overlay);
        let path = chain.lower.get(which).unwrap_or(&chain.top);
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&bytes, at as u64).unwrap();
        if let Some(len) = len {
            file.set_len(len).unwrap();
        }
        if let Ok(overlay) = bed.open_on(&chain.lower, &chain.top) {
            let _ = overlay.read(0, &mut bed.segments(DISK));
        }
    }
}

#[test]
fn newest_of_the_longest_chain_is_read_and_opened_again() {
    let bed = Bed::new();
    let depth = u8::try_from(MAX_LAYERS + 1).unwrap();
    let (mut chain, overlay, disk) = numbered(&bed, depth);
    assert_eq!(bed.read(&overlay, Sectors::ALL), disk);
    let overlay = chain.seal(overlay);
    drop(overlay);
    assert_eq!(bed.read(&chain.open(), Sectors::ALL), disk);
    // One more.
    chain.lower.push(chain.top.clone());
    assert_says(&chain.refused(), "more than 32 sealed overlays");
}

#[test]
fn part_of_a_block_is_copied_from_the_layer_that_has_it() {
    let bed = Bed::new();
    let (mut chain, overlay, mut disk) = numbered(&bed, 2);
    let overlay = chain.seal(overlay);
    for (first, byte) in [(3, 0x50), (12, 0x51), (90, 0x52), (50, 0x53)] {
        let sectors = Sectors { first, count: 2 };
        bed.write(&overlay, sectors, byte);
        disk[sectors.indices()].fill(byte);
    }
    assert_eq!(overlay.take_copied(), 4);
    assert_eq!(bed.read(&overlay, Sectors::ALL), disk);
}

#[test]
fn discarded_blocks_hide_what_lies_below() {
    let bed = Bed::new();
    let (mut chain, overlay, mut disk) = numbered(&bed, 2);
    overlay
        .zero(
            Sectors {
                first: 0,
                count: 12,
            }
            .range(),
            false,
        )
        .unwrap();
    disk[..12].fill(0);
    let overlay = chain.seal(overlay);
    overlay
        .zero(
            Sectors {
                first: 88,
                count: 8,
            }
            .range(),
            true,
        )
        .unwrap();
    disk[88..96].fill(0);
    assert_eq!(bed.read(&overlay, Sectors::ALL), disk);
    drop(overlay);
    assert_eq!(bed.read(&chain.open(), Sectors::ALL), disk);
}

#[test]
fn sealed_overlay_is_shared_and_never_written() {
    let bed = Bed::new();
    let (mut chain, overlay, disk) = numbered(&bed, 2);
    let parent = chain.seal(overlay);
    let sealed: Vec<_> = chain
        .lower
        .iter()
        .map(|path| fs::read(path).unwrap())
        .collect();
    let children: Vec<_> = (0..4_u8)
        .map(|n| {
            let path = bed.directory.path().join(format!("child{n}"));
            (n, bed.open_on(&chain.lower, &path).unwrap())
        })
        .collect();
    for (n, child) in &children {
        let own = Sectors {
            first: u64::from(*n) * 10,
            count: 10,
        };
        bed.write(child, own, 0x70 + n);
        child.flush().unwrap();
        let mut disk = disk.clone();
        disk[own.indices()].fill(0x70 + n);
        assert_eq!(bed.read(child, Sectors::ALL), disk);
    }
    assert_eq!(bed.read(&parent, Sectors::ALL), disk);
    for (path, before) in chain.lower.iter().zip(sealed) {
        assert!(
            fs::read(path).unwrap() == before,
            "a sealed overlay changed"
        );
    }
}

#[test]
fn layers_that_do_not_belong_are_refused_by_name() {
    let bed = Bed::new();
    let (chain, overlay, _) = numbered(&bed, 3);
    drop(overlay);
    let [first, second] = &chain.lower[..] else {
        panic!("two are sealed");
    };
    let with = |lower: &[&PathBuf], top: &PathBuf| Chain {
        bed: &bed,
        lower: lower.iter().copied().cloned().collect(),
        top: top.clone(),
    };
    let all = "name in `lower_overlay_paths` all overlays it was made over";
    assert_says(&with(&[], &chain.top).refused(), all);
    assert_says(&with(&[first], &chain.top).refused(), all);
    assert_says(&with(&[second], &chain.top).refused(), all);
    assert_says(&with(&[second, first], &chain.top).refused(), all);
    assert_says(&with(&[first, first], &chain.top).refused(), "chain twice");
    assert_says(&with(&[first, second], second).refused(), "chain twice");
    assert_says(
        &with(&[first], second).refused(),
        "is sealed, so nobody writes to it",
    );
    let open = bed.directory.path().join("open");
    drop(bed.open(&open).unwrap());
    assert_says(&with(&[&open], &chain.top).refused(), "is not sealed");
    let base = bed.base.path().to_owned();
    assert_says(
        &with(&[&base], &chain.top).refused(),
        "`path_on_host` names",
    );
    let missing = bed.directory.path().join("missing");
    assert_says(&with(&[&missing], &chain.top).refused(), "No such file");
    assert!(!missing.exists());
    let plain = bed.directory.path().join("plain");
    fs::write(&plain, [1; 8192]).unwrap();
    assert_says(&with(&[&plain], &chain.top).refused(), "not an overlay");
    // Another with the same name, at the same place in another chain.
    let other = Bed::new();
    let copy = bed.directory.path().join("copy");
    fs::copy(first, &copy).unwrap();
    assert_says(&with(&[&copy, second], &chain.top).refused(), "touch -d @");
    assert_says(
        &other
            .open_on(&chain.lower, &chain.top)
            .unwrap_err()
            .to_string(),
        "`path_on_host` is",
    );
    chain.open();
}

#[test]
fn layer_that_changed_is_refused_until_it_is_as_it_was() {
    let bed = Bed::new();
    let (chain, overlay, disk) = numbered(&bed, 3);
    drop(overlay);
    for path in &chain.lower {
        let file = fs::File::options().write(true).open(path).unwrap();
        let then = file.metadata().unwrap().modified().unwrap();
        file.set_modified(then + Duration::from_nanos(1)).unwrap();
        let error = chain.refused();
        assert_says(
            &error,
            "if that is the same file, unchanged, run `touch -d @",
        );
        let command = error.split('`').find(|part| part.starts_with("touch"));
        let status = std::process::Command::new("sh")
            .args(["-c", command.unwrap()])
            .status();
        assert!(status.unwrap().success());
    }
    assert_eq!(bed.read(&chain.open(), Sectors::ALL), disk);
}

/// Ids that say a chain bites its own tail, and layers that divide the disk otherwise.
#[test]
fn forged_chains_are_refused_by_name() {
    let bed = Bed::new();
    let (chain, overlay, _) = numbered(&bed, 3);
    drop(overlay);
    let forge = |path: &Path, change: &dyn Fn(&mut Header)| {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut header = read_header(&file, file.metadata().unwrap().len()).unwrap();
        let then = file.metadata().unwrap().modified().unwrap();
        change(&mut header);
        file.set_len(header.layout.file_len()).unwrap();
        file.write_all_at(&header.encode(), 0).unwrap();
        file.set_modified(then).unwrap();
        header
    };
    let good = chain
        .lower
        .iter()
        .map(|path| forge(path, &|_| {}))
        .collect::<Vec<_>>();
    forge(&chain.lower[1], &|header| header.id = good[0].id);
    assert_says(&chain.refused(), "chain twice");
    forge(&chain.lower[1], &|header| {
        header.layout = Layout::checked(DISK, 8192).unwrap();
    });
    assert_says(
        &chain.refused(),
        "blocks of 8192 bytes and the overlay below it of 4096",
    );
    forge(&chain.lower[1], &|header| header.state = State::BeingMade);
    assert_says(&chain.refused(), "is not sealed");
}

#[test]
fn seal_that_finds_no_room_leaves_the_drive_as_it_was() {
    let bed = Bed::new();
    let (recorder, overlay) = bed.recorded();
    bed.write(&overlay, Sectors { first: 8, count: 8 }, 7);
    let state = || {
        read_header(&recorder.copy(), recorder.copy().metadata().unwrap().len())
            .unwrap()
            .state
    };
    recorder.refuse_bits(true);
    overlay.seal().unwrap_err();
    assert_eq!(state(), State::Open);
    recorder.refuse_bits(false);
    bed.write(
        &overlay,
        Sectors {
            first: 16,
            count: 8,
        },
        8,
    );
    overlay.flush().unwrap();
    overlay.seal().unwrap();
    assert_eq!(state(), State::Sealed);
    let copy = bed.left(recorder.copy());
    assert_eq!(
        bed.read(
            &copy,
            Sectors {
                first: 8,
                count: 16
            }
        ),
        [[7; 8], [8; 8]].concat()
    );
}

#[test]
fn seal_whose_sync_fails_is_none() {
    let bed = Bed::new();
    let (recorder, overlay) = bed.recorded();
    // The first sync of a seal is the data's, and nothing is there: the next is the header's.
    recorder.fail_sync_after(1);
    overlay.seal().unwrap_err();
    let copy = recorder.copy();
    let header = read_header(&copy, copy.metadata().unwrap().len()).unwrap();
    assert_eq!(header.state, State::Open);
    overlay.flush().unwrap_err();
}

#[test]
fn seal_that_was_not_carried_out_can_be_asked_again() {
    let bed = Bed::new();
    let mut chain = Chain::new(&bed);
    let overlay = chain.open();
    bed.write(&overlay, Sectors { first: 8, count: 8 }, 7);
    // Prepared and left, and taken back after it was done.
    drop(chain.prepare().unwrap());
    let mut restack = chain.prepare().unwrap();
    restack.seal(&overlay).unwrap();
    restack.undo(&overlay);
    drop(restack);
    bed.write(
        &overlay,
        Sectors {
            first: 16,
            count: 8,
        },
        8,
    );
    overlay.flush().unwrap();
    let overlay = chain.seal(overlay);
    let mut disk = base_disk();
    disk[8..16].fill(7);
    disk[16..24].fill(8);
    assert_eq!(bed.read(&overlay, Sectors::ALL), disk);
    drop(overlay);
    assert_eq!(bed.read(&chain.open(), Sectors::ALL), disk);
}

/// The host died with the seal on the disk, and the fresh overlay not yet whole.
#[test]
fn fresh_overlay_that_was_still_being_made_is_made_anew() {
    let bed = Bed::new();
    let (mut chain, overlay, disk) = numbered(&bed, 2);
    let mut restack = chain.prepare().unwrap();
    let being_made = fs::read(chain.next()).unwrap();
    restack.seal(&overlay).unwrap();
    drop((overlay, restack));
    chain.grow();
    for content in [being_made, Vec::new()] {
        fs::write(&chain.top, content).unwrap();
        assert_eq!(bed.read(&chain.open(), Sectors::ALL), disk);
    }
    fs::remove_file(&chain.top).unwrap();
    assert_eq!(bed.read(&chain.open(), Sectors::ALL), disk);
}

#[test]
fn what_is_to_follow_a_sealed_overlay_is_fresh() {
    let bed = Bed::new();
    let chain = Chain::new(&bed);
    let overlay = chain.open();
    let refused = |path: &Path| {
        let before = fs::read(path).ok();
        let (_, why) = Restack::prepare(&chain.top, 0, path).unwrap_err();
        assert!(fs::read(path).ok() == before, "{why}");
        why.to_string()
    };
    let used = bed.directory.path().join("used");
    drop(bed.open(&used).unwrap());
    assert_says(&refused(&used), "is not empty, and what follows");
    assert_says(&refused(&chain.top), "in use by this drive");
    fs::write(&used, "precious").unwrap();
    assert_says(&refused(&used), "not an overlay, so it is left");
    assert_says(&refused(Path::new("/dev/null")), "not a regular file");
    assert_says(&refused(Path::new("/nowhere/fresh")), "No such file");
    let held = chain.prepare().unwrap();
    assert_says(&chain.prepare().unwrap_err().to_string(), "in use");
    drop(held);
    // The drive's own file was moved away, and another is in its place.
    let mut restack = chain.prepare().unwrap();
    fs::rename(&chain.top, bed.directory.path().join("moved")).unwrap();
    drop(bed.open(&chain.top).unwrap());
    drop(restack);
    restack = chain.prepare().unwrap();
    assert_says(
        &restack.seal(&overlay).unwrap_err().to_string(),
        "moved or replaced",
    );
}
