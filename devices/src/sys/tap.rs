//! Tap devices: the system calls (Linux `Documentation/networking/tuntap.rst`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// Bytes of a device's name, its final zero included.
pub const NAME_LEN: usize = libc::IFNAMSIZ;

/// How many files a tap can have attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One.
    SingleQueue,
    /// Each one is a queue (`IFF_MULTI_QUEUE`).
    MultiQueue,
}

/// Attaches to the tap `name`, and makes it if it does not exist; one that was made goes when its last file closes.
/// Frames then carry a header (`IFF_VNET_HDR`), and neither direction blocks.
///
/// # Errors
/// The host's: `EBUSY` when another process is attached, `EINVAL` when the tap is of the other kind, `EPERM` without
/// `CAP_NET_ADMIN`.
pub fn attach(name: &[u8; NAME_LEN], kind: Kind) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    let queues = match kind {
        Kind::SingleQueue => 0,
        Kind::MultiQueue => libc::IFF_MULTI_QUEUE,
    };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | queues;
    let mut request = request(name, flags)?;
    // SAFETY: `TUNSETIFF` reads and writes one `ifreq` at the address it is given.
    // `request` is one, initialised, and borrowed mutably during the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(file)
}

/// Tells the tap how long the header before each frame is.
///
/// # Errors
/// The host's.
pub fn set_header_len(tap: &File, len: libc::c_int) -> io::Result<()> {
    // SAFETY: `TUNSETVNETHDRSZ` reads one `int` at the address it is given.
    // `len` is one, and lives during the call.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) })
}

/// Tells the tap which kinds of unfinished frames the reader takes: `TUN_F_*`.
///
/// # Errors
/// `EINVAL` when the host does not know one of them.
pub fn set_offloads(tap: &File, offloads: libc::c_uint) -> io::Result<()> {
    // SAFETY: `TUNSETOFFLOAD` takes its argument by value and touches no memory of ours.
    check(unsafe {
        libc::ioctl(
            tap.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            offloads as libc::c_ulong,
        )
    })
}

/// Gives the queue behind `tap` its share of the frames, or takes it away; what it held is lost then.
///
/// # Errors
/// `EINVAL` when it is so already, or the tap has one queue.
pub fn set_queue(tap: &File, is_used: bool) -> io::Result<()> {
    let flags = if is_used {
        libc::IFF_ATTACH_QUEUE
    } else {
        libc::IFF_DETACH_QUEUE
    };
    let request = request(&[0; NAME_LEN], flags)?;
    // SAFETY: `TUNSETQUEUE` reads one `ifreq` at the address it is given.
    // `request` is one, initialised, and lives during the call.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETQUEUE, &raw const request) })
}

fn request(name: &[u8; NAME_LEN], flags: libc::c_int) -> io::Result<libc::ifreq> {
    Ok(libc::ifreq {
        ifr_name: name.map(u8::cast_signed),
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: libc::c_short::try_from(flags).map_err(io::Error::other)?,
        },
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
