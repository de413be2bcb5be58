//! A tap device of the host. Knows no descriptor.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use vm_config::{Explain, FaultCode, FaultKind};

use super::frame::HEADER_LEN;
use crate::sys::poll::is_readable;
use crate::sys::segments::Segments;
use crate::sys::tap::{Kind, NAME_LEN, attach, set_header_len, set_offloads, set_queue};

const CSUM: u32 = libc::TUN_F_CSUM;
const TSO: u32 = libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
const UFO: u32 = libc::TUN_F_UFO;
/// The kernel takes both or neither (`tun_set_offload`), from Linux 6.2 on.
const USO: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// The most pairs of queues: as many as a machine can have vCPUs.
pub const MAX_QUEUES: u16 = 32;

/// A network interface that cannot be had. The first words are those existing clients look for.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A name that no network device can have.
    #[error(
        "Could not create the network device: Open tap device failed: Invalid interface name: {0:?}; use 1 to 15 bytes without '/', ':', '%' or spaces"
    )]
    Name(String),
    /// The host refused the tap.
    #[error(
        "Could not create the network device: Open tap device failed: Error while creating ifreq structure: {}. Invalid TUN/TAP Backend provided by {name}. Check our documentation; {}",
        in_words(error),
        remedy(error, name, *kind)
    )]
    Tap {
        /// Which one.
        name: String,
        /// What it was to be.
        kind: Kind,
        /// The host's answer; part of the message, so not its source.
        error: io::Error,
    },
    /// The host has the tap but not what a virtio device needs of it.
    #[error(
        "Could not create the network device: tap {name} does not take a {HEADER_LEN}-byte header ({error}); a kernel from 2.6.27 on does"
    )]
    Header {
        /// Which one.
        name: String,
        /// The host's answer.
        error: io::Error,
    },
    /// An MTU that no driver takes.
    #[error("Could not create the network device: MTU {0} is out of range [68, 65535]")]
    Mtu(u16),
    /// More queues than there can be, or none.
    #[error(
        "Could not create the network device: num_queues {0} is out of range [1, {MAX_QUEUES}]"
    )]
    Queues(u16),
    /// The host attached a queue and does not let go of it.
    #[error(
        "Could not create the network device: tap {name} does not take its queues apart ({error}); ask for one queue"
    )]
    SetQueue {
        /// Which one.
        name: String,
        /// The host's answer.
        error: io::Error,
    },
    /// The host's kernel does not serve it.
    #[error(
        "Could not create the network device: cannot use {node} ({error}); {}",
        vhost_remedy(error)
    )]
    Vhost {
        /// The kernel's node.
        node: String,
        /// The host's answer; part of the message, so not its source.
        error: io::Error,
    },
    /// The host's kernel cannot do what a driver needs.
    #[error(
        "Could not create the network device: the host's vhost-net does not offer {0}; leave `backend` out"
    )]
    VhostLacks(&'static str),
    /// More pairs of queues than the kernel's path has.
    #[error(
        "Could not create the network device: num_queues {0} does not go with `backend` Vhost, which has one pair of queues; leave one of the two out"
    )]
    VhostQueues(u16),
    /// Limits on what nobody here sees.
    #[error(
        "Could not create the network device: rate limiters do not go with `backend` Vhost: its frames pass through the host's kernel, past this process; leave out the limiters or `backend`, or limit the tap on the host (`tc`)"
    )]
    VhostLimits,
}

impl Explain for NetError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::Name(_) => FaultCode::TapName,
            Self::Tap { .. } | Self::Header { .. } | Self::SetQueue { .. } => {
                FaultCode::TapUnusable
            }
            Self::Mtu(_) => FaultCode::MtuInvalid,
            Self::Queues(_) => FaultCode::QueueCountInvalid,
            Self::Vhost { .. } | Self::VhostLacks(_) => FaultCode::VhostNetUnusable,
            Self::VhostQueues(_) | Self::VhostLimits => FaultCode::VhostNetLimits,
        })
    }
}

/// One queue of an attached tap. Both directions say `WouldBlock` rather than block.
#[derive(Debug)]
pub struct Tap {
    file: File,
    offloads: Offloads,
    /// It gets its share of the frames.
    is_used: AtomicBool,
    /// The kernel's way to that; a test's socket has none.
    set_queue: fn(&File, bool) -> io::Result<()>,
}

/// Kinds of unfinished frames that a tap can hand over (`TUN_F_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums that are not filled in.
    pub csum: bool,
    /// TCP over IPv4 that is not cut into packets.
    pub tso4: bool,
    /// TCP over IPv6 that is not cut into packets.
    pub tso6: bool,
    /// UDP that is not cut into fragments.
    pub ufo: bool,
    /// UDP that is not cut into datagrams, over IPv4 and IPv6.
    pub uso: bool,
}

impl Tap {
    /// Attaches to the tap `name`, and makes it if it does not exist: `count` queues, of which the first is used. One
    /// queue is a plain tap, as others make it.
    ///
    /// # Errors
    /// [`NetError`] says what to do.
    pub fn open(name: &str, count: u16) -> Result<Vec<Self>, NetError> {
        let kind = if count == 1 {
            Kind::SingleQueue
        } else {
            Kind::MultiQueue
        };
        let queue = |index| {
            let queue = Self::open_queue(name, kind)?;
            if index > 0 {
                let unused = queue.set_used(false);
                unused.map_err(|error| NetError::SetQueue {
                    name: name.to_owned(),
                    error,
                })?;
            }
            Ok(queue)
        };
        (0..count).map(queue).collect()
    }

    fn open_queue(name: &str, kind: Kind) -> Result<Self, NetError> {
        let padded = padded(name).ok_or_else(|| NetError::Name(name.to_owned()))?;
        let file = attach(&padded, kind).map_err(|error| NetError::Tap {
            name: name.to_owned(),
            kind,
            error,
        })?;
        const LEN: libc::c_int = 12;
        const { assert!(HEADER_LEN == LEN as usize) };
        set_header_len(&file, LEN).map_err(|error| NetError::Header {
            name: name.to_owned(),
            error,
        })?;
        let offloads = Offloads::of(&file);
        Ok(Self {
            file,
            offloads,
            is_used: AtomicBool::new(true),
            set_queue,
        })
    }

    /// Gives this queue its share of the frames, or takes it away (`TUNSETQUEUE`).
    ///
    /// # Errors
    /// The host's.
    pub fn set_used(&self, is_used: bool) -> io::Result<()> {
        if self.is_used.load(Ordering::Relaxed) != is_used {
            (self.set_queue)(&self.file, is_used)?;
            self.is_used.store(is_used, Ordering::Relaxed);
        }
        Ok(())
    }

    /// What it can hand over.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Makes the tap hand over these in all queues, as far as it can, and finish everything else first. This queue is
    /// in use.
    ///
    /// # Errors
    /// The host's.
    pub fn set_offloads(&self, wanted: Offloads) -> io::Result<()> {
        if self.offloads == Offloads::default() {
            return Ok(());
        }
        set_offloads(&self.file, wanted.and(self.offloads).bits())
    }

    /// The descriptor, for somebody else to move frames with.
    #[must_use]
    pub fn lend(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// There is a frame to receive.
    #[must_use]
    pub fn has_frame(&self) -> bool {
        is_readable(self.file.as_fd())
    }

    /// Reads a frame with its header, `into` first and then `spare`. Returns its length, or all there is
    /// room for when it is longer.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; otherwise the host's.
    pub fn receive(&self, into: &mut Segments, spare: &mut [u8]) -> io::Result<usize> {
        into.receive(self.file.as_fd(), spare)
    }

    /// Writes a frame with its header.
    ///
    /// # Errors
    /// `WouldBlock` when it is full; otherwise the host's, which also checks the header.
    pub fn send(&self, frame: &Segments) -> io::Result<usize> {
        frame.send(self.file.as_fd())
    }

    /// Something that stands for a tap, such as one end of a pair of sockets that keep datagrams apart.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn fake(end: impl Into<std::os::fd::OwnedFd>) -> Self {
        // A socket only in name: the call works on any descriptor.
        let end = std::os::unix::net::UnixDatagram::from(end.into());
        end.set_nonblocking(true).expect("a descriptor can");
        Self {
            file: File::from(std::os::fd::OwnedFd::from(end)),
            offloads: Offloads::default(),
            is_used: AtomicBool::new(true),
            set_queue: |_, _| Ok(()),
        }
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Offloads {
    /// What the host takes; a tap that was just attached hands over nothing.
    fn of(file: &File) -> Self {
        let takes = |bits| set_offloads(file, bits).is_ok();
        let csum = takes(CSUM);
        let tso = csum && takes(CSUM | TSO);
        let ufo = tso && takes(CSUM | TSO | UFO);
        let uso = tso && takes(CSUM | TSO | USO);
        takes(0);
        Self {
            csum,
            tso4: tso,
            tso6: tso,
            ufo,
            uso,
        }
    }

    /// Frames may be longer than the network takes.
    pub(super) fn hands_over_long_frames(self) -> bool {
        self.tso4 || self.tso6 || self.ufo || self.uso
    }

    fn and(self, other: Self) -> Self {
        Self {
            csum: self.csum && other.csum,
            tso4: self.tso4 && other.tso4,
            tso6: self.tso6 && other.tso6,
            ufo: self.ufo && other.ufo,
            uso: self.uso && other.uso,
        }
    }

    fn bits(self) -> u32 {
        let all = [
            (self.csum, CSUM),
            (self.tso4, libc::TUN_F_TSO4),
            (self.tso6, libc::TUN_F_TSO6),
            (self.ufo, UFO),
            (self.uso, USO),
        ];
        let set = all.into_iter().filter(|(is_set, _)| *is_set);
        set.fold(0, |bits, (_, bit)| bits | bit)
    }
}

/// `name` as system calls take it. `None` when no interface can have it (Linux `dev_valid_name`), and when the host
/// would make another name of it (`%`).
fn padded(name: &str) -> Option<[u8; NAME_LEN]> {
    let mut padded = [0; NAME_LEN];
    let is_odd =
        |byte: u8| matches!(byte, b'\0' | b'/' | b':' | b'%' | 0x0b) || byte.is_ascii_whitespace();
    let is_name =
        !matches!(name, "" | "." | "..") && name.len() < NAME_LEN && !name.bytes().any(is_odd);
    padded
        .get_mut(..name.len())
        .filter(|_| is_name)?
        .copy_from_slice(name.as_bytes());
    Some(padded)
}

/// The host's answer in the words clients look for.
fn in_words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EBUSY) => format!("Resource busy (os error {})", libc::EBUSY),
        _ => error.to_string(),
    }
}

/// What a user can do about a tap that does not open.
fn remedy(error: &io::Error, name: &str, kind: Kind) -> String {
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            format!("another process uses {name}: stop it, or give each microVM a tap of its own")
        }
        Some(libc::EPERM | libc::EACCES) => {
            let queues = match kind {
                Kind::SingleQueue => "",
                Kind::MultiQueue => " multi_queue",
            };
            format!(
                "run with CAP_NET_ADMIN, or make it first: `ip tuntap add dev {name} mode tap user <uid>{queues}`"
            )
        }
        Some(libc::EINVAL) if kind == Kind::MultiQueue => format!(
            "{name} exists and has one queue: leave num_queues out, or make the tap anew with `ip tuntap add dev {name} mode tap multi_queue`"
        ),
        Some(libc::EINVAL) => format!(
            "{name} exists and is no single-queue tap: `ip link delete {name}`, or use another name"
        ),
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            "/dev/net/tun is missing: `modprobe tun`, or put the node into the jail".to_owned()
        }
        _ => "check the host's network set-up".to_owned(),
    }
}

/// What a user can do about a back end in the kernel that does not open.
fn vhost_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "give this process the right to read and write the node, or leave `backend` out"
        }
        _ => {
            "load the kernel module vhost_net and make the node visible to this process, or leave `backend` out"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::unless_forbidden;

    /// A tap of a name no other test has, or `None` where this process may not make one.
    fn tap(suffix: char) -> Option<(String, Tap)> {
        let name = format!("clt{}{suffix}", std::process::id());
        let opened = match Tap::open(&name, 1) {
            Err(NetError::Tap { error, .. }) => Err(error),
            other => Ok(other.unwrap()),
        };
        let mut queues = unless_forbidden(opened, "CAP_NET_ADMIN")?;
        Some((name, queues.remove(0)))
    }

    #[test]
    fn names_have_limits() {
        for name in [
            "",
            ".",
            "..",
            "sixteen-bytes-ok",
            "seventeen-bytes-no",
            "a\0b",
            "a/b",
            "a:1",
            "a b",
            "tap%d",
        ] {
            let text = Tap::open(name, 1).unwrap_err().to_string();
            let words = "Open tap device failed: Invalid interface name";
            assert!(text.contains(words), "{text}");
        }
        assert!(padded("fifteen-bytes-x").is_some());
    }

    #[test]
    fn tap_in_use_says_so_and_what_to_do() {
        let Some((name, _tap)) = tap('b') else { return };
        let text = Tap::open(&name, 1).unwrap_err().to_string();
        let words = format!(
            "Open tap device failed: Error while creating ifreq structure: Resource busy (os error 16). Invalid TUN/TAP Backend provided by {name}."
        );
        assert!(text.contains(&words), "{text}");
        assert!(text.contains("stop it"), "{text}");
    }

    #[test]
    fn tap_that_was_made_goes_when_it_closes() {
        let Some((name, tap)) = tap('g') else { return };
        let path = std::path::Path::new("/sys/class/net").join(&name);
        assert!(path.exists());
        drop(tap);
        assert!(!path.exists());
    }

    #[test]
    fn offloads_that_were_probed_can_be_set() {
        let Some((_name, tap)) = tap('o') else { return };
        assert!(tap.offloads().csum && tap.offloads().tso4);
        tap.set_offloads(tap.offloads()).unwrap();
        tap.set_offloads(Offloads::default()).unwrap();
    }

    #[test]
    fn each_kind_of_tap_refuses_the_other_and_says_what_to_do() {
        let Some((name, plain)) = tap('k') else {
            return;
        };
        let text = Tap::open(&name, 2).unwrap_err().to_string();
        assert!(text.contains("leave num_queues out"), "{text}");
        drop(plain);
        let many = Tap::open(&name, 2).unwrap();
        let text = Tap::open(&name, 1).unwrap_err().to_string();
        assert!(text.contains("is no single-queue tap"), "{text}");
        drop(many);
    }

    #[test]
    fn queues_are_taken_into_use_and_out_again() {
        if tap('q').is_none() {
            return;
        }
        let name = format!("clt{}m", std::process::id());
        let queues = Tap::open(&name, 3).unwrap();
        let are_used = |queues: &[Tap]| {
            let path = format!("/sys/class/net/{name}/queues");
            let names = std::fs::read_dir(path).unwrap();
            let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let used = queues
                .iter()
                .filter(|queue| queue.is_used.load(Ordering::Relaxed));
            (
                used.count(),
                names.filter(|name| name.starts_with("rx")).count(),
            )
        };
        assert_eq!(are_used(&queues), (1, 1));
        for is_used in [true, false, false, true, true] {
            for queue in &queues[1..] {
                queue.set_used(is_used).unwrap();
            }
            let expected = if is_used { 3 } else { 1 };
            assert_eq!(are_used(&queues), (expected, expected));
            queues[0].set_offloads(queues[0].offloads()).unwrap();
        }
    }

    #[test]
    fn frames_cross_a_real_tap_with_their_header() {
        let Some((name, tap)) = tap('f') else { return };
        let up = std::process::Command::new("ip")
            .args(["link", "set", &name, "up"])
            .status();
        if up
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            eprintln!("skipped, runs where `ip` is installed");
            return;
        }
        assert!(up.unwrap().success());
        let memory = crate::testing::guest_memory(0x2_0000);
        let mut frame = Segments::new(memory);
        // Cut inside the header, as a driver may.
        for (address, len) in [(0x100, 7), (0x1000, 65)] {
            frame.push(vm_memory::GuestAddress(address), len).unwrap();
        }
        let mut bytes = [0; 72];
        bytes[12..18].fill(0xff);
        bytes[18] = 2;
        frame.copy_from(0, &bytes);
        assert_eq!(tap.send(&frame).unwrap(), 72);
        let counter = format!("/sys/class/net/{name}/statistics/rx_bytes");
        let received = std::fs::read_to_string(counter).unwrap();
        assert_eq!(received.trim(), "60");
        // A header with a checksum beyond the frame is refused, not believed.
        frame.copy_from(0, &[1, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0]);
        let refused = tap.send(&frame).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}
