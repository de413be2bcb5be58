//! Why an overlay cannot be had.

use std::io;

use super::header::VERSION;
use super::layers::MAX_LAYERS;

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
        "is in use by this microVM or another; each drive needs an overlay of its own, and only the base and sealed overlays can be shared"
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
        "has version {0} of the format and this build reads version {VERSION}; use the build that made it"
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
    /// Below another overlay, and still written to.
    #[error(
        "is not sealed, so nothing can be stacked on it; name it as `overlay_path`, or seal it with `seal_overlay` while its drive runs"
    )]
    NotSealed,
    /// On top, and nobody may write it.
    #[error(
        "is sealed, so nobody writes to it any more; name it last in `lower_overlay_paths`, and a new file as `overlay_path`"
    )]
    Sealed,
    /// Twice in a chain: the file, or one that says that it is the same.
    #[error("is in this drive's chain twice; name each overlay once, the oldest first")]
    Twice,
    /// Too many below one drive.
    #[error(
        "would have more than {MAX_LAYERS} sealed overlays below it; seal less often, or copy what the guest has to a new image"
    )]
    TooDeep,
    /// Made over a disk of this length, with blocks of another.
    #[error(
        "has blocks of {found} bytes and the overlay below it of {below}; it is none that this build made: restore it from a copy"
    )]
    OtherBlocks {
        /// Bytes.
        found: u32,
        /// Bytes.
        below: u32,
    },
    /// What is to go on top of a sealed overlay, and has something in it.
    #[error(
        "is not empty, and what follows a sealed overlay starts empty; name a file that does not exist yet"
    )]
    NotFresh,
    /// The file that the drive has is no longer where it was named.
    #[error(
        "is not the file that the drive has: it was moved or replaced since; move it back and ask again"
    )]
    Moved,
    /// The host could not seal it.
    #[error(
        "could not be sealed: {0}; the drive goes on with it: make room on the host's file system, or see to its disk, and ask again"
    )]
    SealFailed(io::Error),
    /// Made over something else, or over the same before it changed.
    #[error("was made over {made_over}, and {found}; {remedy}")]
    OtherBase {
        /// What it belongs to.
        made_over: String,
        /// What it was given.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// More blocks than the format has, or than there is memory for.
    #[error("cannot be that large: the base is more than 256 TiB, or memory is short")]
    TooLarge,
}
