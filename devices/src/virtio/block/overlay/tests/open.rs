//! What is opened, what is made, and what is refused and left as it is.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use super::super::super::file::tests::is_non_blocking;
use super::super::header::HEADER_PAGE;
use super::*;

fn overlay_path(bed: &Bed) -> PathBuf {
    bed.directory.path().join("overlay")
}

/// Opens what is at the overlay's path and expects to hear why not; it must not change.
fn refused(bed: &Bed) -> String {
    let path = overlay_path(bed);
    let before = fs::read(&path).ok();
    let error = bed.open(&path).unwrap_err().to_string();
    assert!(fs::read(&path).ok() == before, "the file changed: {error}");
    error
}

fn assert_refused(bed: &Bed, words: &str) {
    let error = refused(bed);
    assert!(error.contains(words), "{error}");
}

/// An overlay with one block in it.
fn used(bed: &Bed) -> PathBuf {
    let path = overlay_path(bed);
    let overlay = bed.open(&path).unwrap();
    bed.write(&overlay, Sectors { first: 8, count: 8 }, 7);
    overlay.flush().unwrap();
    path
}

#[test]
fn missing_and_empty_files_become_overlays() {
    let bed = Bed::new();
    for is_there in [false, true] {
        let path = bed.directory.path().join(is_there.to_string());
        if is_there {
            fs::write(&path, "").unwrap();
        }
        let overlay = bed.open(&path).unwrap();
        assert_eq!(bed.read(&overlay, Sectors::ALL), base_disk());
        drop(overlay);
        // Most of it is a hole.
        use std::os::unix::fs::MetadataExt;
        assert!(fs::metadata(&path).unwrap().blocks() * 512 <= 16384);
        bed.open(&path).unwrap();
    }
}

#[test]
fn what_it_does_not_know_stays_as_it_is() {
    let bed = Bed::new();
    for content in [
        &b"x"[..],
        &[0; 512],
        &[0; HEADER_PAGE],
        &[0; 1 << 20],
        b"QFI\xfb and what follows",
    ] {
        fs::write(overlay_path(&bed), content).unwrap();
        assert_refused(&bed, "not an overlay, so it is left as it is");
    }
}

#[test]
fn new_overlay_of_a_host_that_died_is_refused_by_name() {
    let bed = Bed::new();
    let file = File::create(overlay_path(&bed)).unwrap();
    file.set_len(Layout::of(DISK).unwrap().file_len()).unwrap();
    assert_refused(&bed, "died before the first flush; remove it");
}

#[test]
fn damage_is_refused_by_name() {
    let bed = Bed::new();
    let path = used(&bed);
    let good = fs::read(&path).unwrap();
    let damaged = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        fs::write(&path, bytes).unwrap();
    };
    damaged(100, b'!');
    assert_refused(&bed, "checksum");
    damaged(8, 9);
    assert_refused(&bed, "has version 9 of the format");
    // Blocks are 13; the fourteenth does not exist.
    damaged(HEADER_PAGE + 1, 0x20);
    assert_refused(&bed, "blocks beyond its end");
    for len in [HEADER_PAGE, HEADER_PAGE + 1, good.len() - 1] {
        fs::write(&path, &good[..len]).unwrap();
        assert_refused(&bed, "it was cut or lengthened");
    }
    fs::write(&path, [&good[..], &[0]].concat()).unwrap();
    assert_refused(&bed, "it was cut or lengthened");
    fs::write(&path, good).unwrap();
    let overlay = bed.open(&path).unwrap();
    assert_eq!(bed.read(&overlay, Sectors { first: 8, count: 8 }), [7; 8]);
}

#[test]
fn base_that_changed_or_is_another_is_refused_by_name() {
    let bed = Bed::new();
    used(&bed);
    let then = bed.base.as_file().metadata().unwrap().modified().unwrap();
    let touch = |at: SystemTime| bed.base.as_file().set_modified(at).unwrap();
    touch(then + Duration::from_nanos(1));
    let name = bed.base.path().file_name().unwrap().to_str().unwrap();
    let error = refused(&bed);
    for words in ["was made over", name, "touch -d @"] {
        assert!(error.contains(words), "{error}");
    }
    // The remedy is one.
    let command = error.split('`').find(|part| part.starts_with("touch"));
    let status = std::process::Command::new("sh")
        .args(["-c", command.unwrap()])
        .status();
    assert!(status.unwrap().success());
    bed.open(&overlay_path(&bed)).unwrap();

    bed.base.as_file().set_len(DISK + 512).unwrap();
    touch(then);
    assert_refused(&bed, "name the base it was made over, or a new overlay");
}

#[test]
fn neither_file_is_without_waiting() {
    let bed = Bed::new();
    let overlay = bed.open(&overlay_path(&bed)).unwrap();
    for file in [overlay.medium(), overlay.file_below(Holder::Base)] {
        assert!(!is_non_blocking(file));
    }
}

#[test]
fn overlay_serves_one_drive() {
    let bed = Bed::new();
    let first = bed.open(&overlay_path(&bed)).unwrap();
    let error = bed.open(&overlay_path(&bed)).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
    drop(first);
    bed.open(&overlay_path(&bed)).unwrap();
}

#[test]
fn while_a_guest_runs_nobody_waits_for_a_lock() {
    let bed = Bed::new();
    let path = overlay_path(&bed);
    let _first = bed.open(&path).unwrap();
    let base = DiskFile::open(bed.base.path(), true).unwrap();
    let stack = Stack::on(&base, bed.base.path()).unwrap();
    let start = Instant::now();
    let error = Overlay::open(&path, stack, LockWait::None).unwrap_err();
    assert!(start.elapsed() < Duration::from_millis(900), "it waited");
    assert!(error.to_string().contains("in use"), "{error}");
}

#[test]
fn what_is_no_file_of_its_own_is_refused() {
    let bed = Bed::new();
    let error = |path: &Path| bed.open(path).unwrap_err().to_string();
    let itself = error(bed.base.path());
    assert!(itself.contains("`path_on_host` names"), "{itself}");
    let device = error(Path::new("/dev/null"));
    assert!(device.contains("not a regular file"), "{device}");
    let nowhere = error(Path::new("/nowhere/overlay"));
    assert!(nowhere.contains("No such file"), "{nowhere}");
}

#[test]
fn overlay_whose_making_was_cut_off_is_made_anew() {
    let bed = Bed::new();
    let path = overlay_path(&bed);
    drop(bed.open(&path).unwrap());
    let page: [u8; HEADER_PAGE] = fs::read(&path).unwrap()[..HEADER_PAGE].try_into().unwrap();
    let mut header = super::super::header::Header::decode(&page).unwrap();
    header.state = State::BeingMade;
    for len in [HEADER_PAGE as u64, header.layout.file_len()] {
        let file = File::create(&path).unwrap();
        file.write_all_at(&header.encode(), 0).unwrap();
        file.set_len(len).unwrap();
        let overlay = bed.open(&path).unwrap();
        assert_eq!(bed.read(&overlay, Sectors::ALL), base_disk());
    }
}

#[test]
fn disk_of_no_sectors_has_an_overlay_too() {
    let bed = Bed::new();
    bed.base.as_file().set_len(0).unwrap();
    for _ in 0..2 {
        let overlay = bed.open(&overlay_path(&bed)).unwrap();
        assert_eq!(overlay.disk().len, 0);
        overlay.flush().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the first pages say, the file is opened or refused, and what is opened can be read.
    #[test]
    fn hostile_files_do_no_harm(
        at in 0..2 * HEADER_PAGE,
        bytes in vec(any::<u8>(), 1..64),
        len in 0..200_000_u64,
        is_cut: bool,
    ) {
        let bed = Bed::new();
        let path = used(&bed);
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&bytes, at as u64).unwrap();
        if is_cut {
            file.set_len(len).unwrap();
        }
        if let Ok(overlay) = bed.open(&path) {
            let _ = overlay.read(0, &mut bed.segments(DISK));
        }
    }
}
