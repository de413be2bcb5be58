//! Devices whose work another process does: the front end of the vhost-user protocol (QEMU
//! `docs/interop/vhost-user.rst`).
//!
//! ```text
//!  driver --kick, ioeventfd--------------------> back end      guest memory and rings are shared, so that
//!  driver <--interrupt-- worker <--call event--- back end      requests pass us by
//! ```
//!
//! The back end is not trusted. Each exchange has an end in time, each answer has a shape, and a back end that keeps to
//! neither is left: the connection is closed, and whoever needs it hears why. What it was given it keeps, and that is
//! all of guest memory: a user chooses it as they choose a disk.

mod back_end;
mod connection;
mod message;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use vm_config::{Explain, FaultCode, FaultKind};

pub(super) use back_end::{BackEnd, CONFIG_LEN, Ring};
pub use connection::{PATIENCE, SHORT_PATIENCE};

/// Why a back end is of no use. The first words are those existing clients look for.
#[derive(Debug, thiserror::Error)]
pub enum VhostUserError {
    /// There is none.
    #[error(
        "Vhost-user error: Failed to connect to UDS Unix stream: {error} {}; start the back end first, and check the path as this process sees it",
        path.display()
    )]
    Connect {
        /// Its socket.
        path: PathBuf,
        /// The host's answer; part of the message, so not its source.
        error: io::Error,
    },
    /// It lacks what we cannot do without.
    #[error("Vhost-user error: the back end does not offer {0}; use one that does")]
    Lacks(&'static str),
    /// It is silent.
    #[error(
        "Vhost-user error: the back end did not answer {0} within {limit} s; look for what it waits for, and start it anew",
        limit = .1.as_secs()
    )]
    Timeout(&'static str, Duration),
    /// It has gone.
    #[error("Vhost-user error: the back end closed the connection at {0}; see its log")]
    Closed(&'static str),
    /// It says something else than was asked.
    #[error("Vhost-user error: the back end's answer to {0} makes no sense; see its log")]
    Answer(&'static str),
    /// It says that it cannot.
    #[error("Vhost-user error: the back end refused {0}; see its log")]
    Refused(&'static str),
    /// The host.
    #[error("Vhost-user error: {0} cannot be sent to the back end: {1}")]
    Io(&'static str, io::Error),
    /// Guest memory that no other process can have.
    #[error(
        "Vhost-user error: guest memory is not shared, or in more than {} parts",
        message::MAX_REGIONS
    )]
    Memory,
    /// An earlier failure ended it.
    #[error(
        "Vhost-user error: the connection to the back end was ended by an earlier failure; start the back end anew, and then let the guest reset the device, or remove the drive with force and add it again, or start the microVM anew"
    )]
    Ended,
}

impl Explain for VhostUserError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::Connect { .. }
            | Self::Lacks(_)
            | Self::Timeout(..)
            | Self::Closed(_)
            | Self::Answer(_)
            | Self::Refused(_)
            | Self::Io(..)
            | Self::Ended => FaultCode::VhostUserFailed,
            Self::Memory => FaultCode::VhostUserPrivateMemory,
        })
    }
}
