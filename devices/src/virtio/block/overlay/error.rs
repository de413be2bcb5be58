//! Why an overlay cannot be had.

use std::io;

/// An overlay that cannot be had. Its path stands in front of the text.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// The host refused the file, or a read or write of it.
    #[error(
        "{0}; check the path, as the jailed process sees it, and that its user may read and write it"
    )]
    Io(io::Error),
    /// A directory, a device, a FIFO.
    #[error("is not a regular file; name a file, or one that does not exist yet")]
    NotAFile,
    /// The base itself.
    #[error("is the file that `path_on_host` names; give the overlay a file of its own")]
    IsBase,
    /// The drive has it.
    #[error(
        "is in use by this drive already; name another, or one that does not exist yet to start from the base again"
    )]
    Own,
    /// Another holds its lock.
    #[error(
        "is in use by this microVM or another; each drive needs an overlay of its own, and only the base can be shared"
    )]
    InUse,
    /// Something else is in the file.
    #[error(
        "is not empty and not an overlay, so it is left as it is; name an overlay, an empty file, or one that does not exist yet"
    )]
    Unknown,
    /// New when the host died.
    #[error(
        "has an overlay's length and zeros for a header, as a host leaves one that died before the first flush; remove it to start from the base again"
    )]
    NeverFlushed,
    /// Made by another version of this program.
    #[error(
        "has version {0} of the format and this build reads version 1; use the build that made it"
    )]
    Version(u32),
    /// Bits fell over, or somebody pushed them.
    #[error("is damaged: {0}; restore it from a copy, or remove it to start from the base again")]
    Damaged(&'static str),
    /// Not the length that its header says.
    #[error(
        "is {len} bytes and its header says {expected}; it was cut or lengthened: restore it from a copy, or remove it to start from the base again"
    )]
    Length {
        /// Bytes.
        len: u64,
        /// Bytes.
        expected: u64,
    },
    /// Another base, or the same one changed.
    #[error("was made over {made_over}, and `path_on_host` is {found}; {remedy}")]
    OtherBase {
        /// The base it belongs to.
        made_over: String,
        /// The base it was given.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// More blocks than the format has, or than there is memory for.
    #[error("cannot be that large: the base is more than 256 TiB, or memory is short")]
    TooLarge,
}
