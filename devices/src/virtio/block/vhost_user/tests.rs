//! A drive and back ends that do as they are told, which may be wrong.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;

use tempfile::TempDir;
use vm_config::DeviceId;

use super::*;
use crate::testing::guest::{NEEDS_RESET, RUNNING};
use crate::testing::suite::device_suite;
use crate::testing::{Bench, FakeGuest, Guest, guest_memory, shared_memory};
use crate::virtio::transport::Transport;
use crate::virtio::vhost_user::PATIENCE;

const GET_FEATURES: u32 = 1;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const GET_VRING_BASE: u32 = 11;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_VRING_ENABLE: u32 = 18;
const GET_CONFIG: u32 = 24;

const REPLY: u32 = 5;
const NEED_REPLY: u32 = 8;
/// Those of virtio that a driver may have, segments that it may not, and the protocol's.
const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 9 | 1 << 5 | 1 << 2 | 1 << 30;
const CAPACITY: u64 = 77;

/// How a back end answers one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Closes,
    IsSilent,
    Refuses,
    AnswersOther,
    AnswersMore,
    /// All bits of the answer.
    AnswersOnes,
    /// VERSION_1 and the protocol's features.
    AnswersOnly1,
}

/// A drive whose back end has a fault, if any, at one request.
struct Script {
    directory: TempDir,
    /// What was asked.
    asked: mpsc::Receiver<u32>,
    /// The back end's end.
    stream: mpsc::Receiver<UnixStream>,
}

fn script(fault: Option<(u32, Fault)>) -> Script {
    script_at(tempfile::tempdir().unwrap(), fault)
}

/// One that takes the place of another.
fn script_at(directory: TempDir, fault: Option<(u32, Fault)>) -> Script {
    let _ = std::fs::remove_file(directory.path().join("s"));
    let listener = UnixListener::bind(directory.path().join("s")).unwrap();
    let (sender, asked) = mpsc::channel();
    let (accepted, stream) = mpsc::channel();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let _ = accepted.send(stream.try_clone().unwrap());
        // Ends with the front end, or as it was told.
        let _ = serve(stream, fault, &sender);
    });
    Script {
        directory,
        asked,
        stream,
    }
}

fn serve(
    mut stream: UnixStream,
    fault: Option<(u32, Fault)>,
    asked: &mpsc::Sender<u32>,
) -> io::Result<()> {
    loop {
        let mut header = [0; 12];
        stream.read_exact(&mut header)?;
        let words: Vec<u32> = header
            .chunks(4)
            .map(|word| u32::from_ne_bytes(word.try_into().unwrap()))
            .collect();
        let mut payload = vec![0; words[2] as usize];
        stream.read_exact(&mut payload)?;
        let _ = asked.send(words[0]);
        let mut answer = match words[0] {
            GET_FEATURES => FEATURES.to_ne_bytes().to_vec(),
            GET_PROTOCOL_FEATURES => (1_u64 << 9 | 1 << 3).to_ne_bytes().to_vec(),
            GET_CONFIG => {
                payload[12..20].copy_from_slice(&CAPACITY.to_le_bytes());
                payload
            }
            GET_VRING_BASE => payload,
            _ if words[1] & NEED_REPLY != 0 => vec![0; 8],
            _ => Vec::new(),
        };
        let mut request = words[0];
        match fault.filter(|(at, _)| *at == request) {
            None => {}
            Some((_, Fault::Closes)) => return stream.shutdown(std::net::Shutdown::Both),
            Some((_, Fault::IsSilent)) => continue,
            Some((_, Fault::Refuses)) => answer = vec![1; 8],
            Some((_, Fault::AnswersOther)) => request += 1,
            Some((_, Fault::AnswersMore)) => answer.push(0),
            Some((_, Fault::AnswersOnly1)) => {
                answer = (1_u64 << 32 | 1 << 30).to_ne_bytes().to_vec();
            }
            Some((_, Fault::AnswersOnes)) => answer.fill(0xff),
        }
        if !answer.is_empty() {
            let len = u32::try_from(answer.len()).unwrap();
            for word in [request, REPLY, len] {
                stream.write_all(&word.to_ne_bytes())?;
            }
            stream.write_all(&answer)?;
        }
    }
}

impl Script {
    fn drive(&self) -> Drive {
        Drive {
            drive_id: DeviceId("disk".to_owned()),
            partuuid: None,
            is_root_device: false,
            cache_type: CacheType::Unsafe,
            is_read_only: None,
            path_on_host: None,
            rate_limiter: None,
            io_engine: None,
            socket: Some(self.directory.path().join("s")),
            serial: None,
            overlay_path: None,
            lower_overlay_paths: Vec::new(),
            num_queues: None,
        }
    }

    fn connect(&self) -> Result<VhostUserBlock, DiskError> {
        VhostUserBlock::connect(&self.drive(), PATIENCE)
    }
}

#[test]
fn features_are_those_that_both_know() {
    let good = script(None);
    let disk = good.connect().unwrap();
    assert_eq!(disk.traits().features, 1 << 32 | 1 << 29 | 1 << 5);
    assert_eq!(disk.config_space()[..8], CAPACITY.to_le_bytes());
    assert_eq!(disk.config_space().len(), 60);
    let other = script(None);
    let write_back = Drive {
        cache_type: CacheType::Writeback,
        ..other.drive()
    };
    let disk = VhostUserBlock::connect(&write_back, PATIENCE).unwrap();
    assert_eq!(disk.traits().features, 1 << 32 | 1 << 29 | 1 << 9 | 1 << 5);
}

#[test]
fn a_back_end_that_fails_at_first_is_refused_with_the_request_it_failed_at() {
    for (request, fault, words) in [
        (
            SET_OWNER,
            Fault::Closes,
            "closed the connection at GET_FEATURES",
        ),
        (
            GET_FEATURES,
            Fault::Closes,
            "closed the connection at GET_FEATURES",
        ),
        (
            GET_FEATURES,
            Fault::AnswersOther,
            "answer to GET_FEATURES makes no sense",
        ),
        (
            GET_FEATURES,
            Fault::AnswersMore,
            "answer to GET_FEATURES makes no sense",
        ),
        (
            GET_FEATURES,
            Fault::Refuses,
            "does not offer VHOST_USER_F_PROTOCOL_FEATURES",
        ),
        (
            GET_PROTOCOL_FEATURES,
            Fault::Refuses,
            "VHOST_USER_PROTOCOL_F_CONFIG",
        ),
        (
            GET_CONFIG,
            Fault::AnswersOnes,
            "answer to GET_CONFIG makes no sense",
        ),
        (
            GET_CONFIG,
            Fault::Refuses,
            "answer to GET_CONFIG makes no sense",
        ),
    ] {
        let text = script(Some((request, fault)))
            .connect()
            .err()
            .unwrap()
            .to_string();
        let start = "Vhost user backend error: Vhost-user error: ";
        assert!(
            text.starts_with(start) && text.contains(words),
            "{fault:?}: {text}"
        );
    }
}

#[test]
fn a_back_end_that_fails_at_the_start_leaves_a_disk_that_needs_a_reset() {
    for (request, fault) in [
        (SET_MEM_TABLE, Fault::Refuses),
        (SET_MEM_TABLE, Fault::Closes),
        (SET_VRING_ENABLE, Fault::AnswersOther),
        (SET_VRING_ENABLE, Fault::AnswersOnes),
    ] {
        let disk = script(Some((request, fault))).connect().unwrap();
        let metrics = disk.metrics();
        let mut guest = FakeGuest::new(Box::new(disk));
        guest.start(0);
        assert_eq!(guest.status(), RUNNING | NEEDS_RESET, "{fault:?}");
        assert_eq!(metrics.activate_fails.get(), 1);
        // It stays so: the connection is over.
        guest.set_status(0);
        guest.start(0);
        assert_eq!(guest.status(), RUNNING | NEEDS_RESET);
    }
}

#[test]
fn a_back_end_that_leaves_or_speaks_unasked_is_noticed() {
    for is_leaving in [true, false] {
        let script = script(None);
        let disk = script.connect().unwrap();
        let mut guest = FakeGuest::running(Box::new(disk), 0);
        guest.workers.turn().unwrap();
        assert_eq!(guest.status(), RUNNING);
        let mut stream = script.stream.recv().unwrap();
        if is_leaving {
            stream.shutdown(std::net::Shutdown::Both).unwrap();
        } else {
            stream.write_all(&[0]).unwrap();
        }
        guest.workers.turn().unwrap();
        assert_eq!(guest.status(), RUNNING | NEEDS_RESET);
        guest.set_status(0);
        assert_eq!(guest.status(), 0);
        guest.start(0);
        assert_eq!(guest.status(), RUNNING | NEEDS_RESET);
    }
}

/// A driver that resets a lost disk finds the back end that took the place of the one that went.
#[test]
fn a_reset_finds_a_back_end_that_came_back() {
    let mut first = script(None);
    let disk = first.connect().unwrap();
    let mut guest = FakeGuest::running(Box::new(disk), 0);
    let lose = |script: &Script| {
        let stream = script.stream.recv().unwrap();
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    };
    lose(&first);
    guest.workers.turn().unwrap();
    assert_eq!(guest.status(), RUNNING | NEEDS_RESET);
    // One that offers less is none; then one that is like the first.
    for (fault, status) in [
        (
            Some((GET_FEATURES, Fault::AnswersOnly1)),
            RUNNING | NEEDS_RESET,
        ),
        (None, RUNNING),
    ] {
        let second = script_at(first.directory, fault);
        guest.set_status(0);
        guest.start(0);
        assert_eq!(guest.status(), status, "{fault:?}");
        first = second;
    }
    guest.workers.turn().unwrap();
    assert_eq!(guest.status(), RUNNING);
}

#[test]
fn a_ring_that_does_not_come_back_ends_the_disk_in_time() {
    for fault in [Fault::IsSilent, Fault::AnswersOnes, Fault::Closes] {
        let disk = script(Some((GET_VRING_BASE, fault))).connect().unwrap();
        let guest = FakeGuest::running(Box::new(disk), 0);
        assert_eq!(guest.status(), RUNNING);
        let begin = std::time::Instant::now();
        guest.transport.slot().pause();
        assert!(begin.elapsed() < std::time::Duration::from_secs(15));
        assert_eq!(guest.status(), RUNNING | NEEDS_RESET, "{fault:?}");
        guest.transport.slot().resume();
        assert!(guest.workers.is_empty());
    }
}

#[test]
fn a_refresh_tells_a_new_configuration_or_why_not() {
    let mut disk = script(None).connect().unwrap();
    assert!(matches!(disk.refresh(), Changed::Configuration(Ok(()))));
    let broken = script(Some((GET_VRING_BASE, Fault::Closes)));
    let mut disk = broken.connect().unwrap();
    assert!(disk.back_end.lock().stop().is_err());
    let Changed::Inside(Err(error)) = disk.refresh() else {
        panic!("the connection is over");
    };
    assert!(error.to_string().contains("ended by an earlier failure"));
}

#[test]
fn memory_that_is_not_shared_is_not_given_away() {
    let good = script(None);
    let disk = good.connect().unwrap();
    let mut guest = FakeGuest::with_memory(Box::new(disk), guest_memory(4 << 20));
    guest.start(0);
    assert_eq!(guest.status(), RUNNING | NEEDS_RESET);
    drop(guest);
    assert!(good.asked.iter().all(|request| request != SET_MEM_TABLE));
}

/// Calls, and the driver's kicks, pass without memory of ours.
#[test]
fn events_do_not_allocate() {
    let script = script(None);
    let mut disk = script.connect().unwrap();
    let mut bench = Bench::in_memory(shared_memory(4 << 20), &mut disk, 0);
    for _ in 0..4 {
        assert_eq!(bench.allocations_of(CALL.0), 0);
        assert_eq!(bench.allocations_of(SOCKET.0), 0);
    }
}

device_suite!({
    let script = script(None);
    Box::new(script.connect().unwrap())
});
