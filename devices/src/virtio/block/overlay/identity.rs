//! What an overlay is made over, and whether that is what lies below it.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::OverlayError;
use super::header::{Base, Header};

/// A base, or a sealed overlay, as an overlay over it knows it.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) len: u64,
    pub(super) base: Base,
    pub(super) name: String,
    path: PathBuf,
}

impl Identity {
    /// That of a base of `len` bytes.
    pub(super) fn of_base(len: u64, metadata: &Metadata, path: &Path) -> Self {
        Self {
            len,
            base: if metadata.file_type().is_block_device() {
                Base::Device
            } else {
                Base::File {
                    mtime_s: metadata.mtime(),
                    mtime_ns: nanoseconds(metadata),
                }
            },
            name: name_of(path),
            path: path.to_owned(),
        }
    }

    /// That of an overlay.
    pub(super) fn of_overlay(header: &Header, metadata: &Metadata, path: &Path) -> Self {
        Self {
            len: header.layout.disk_len(),
            base: Base::Overlay {
                id: header.id,
                mtime_s: metadata.mtime(),
                mtime_ns: nanoseconds(metadata),
            },
            name: name_of(path),
            path: path.to_owned(),
        }
    }
}

impl Header {
    /// Whether it is an overlay over this, by what it knows of it.
    pub(super) fn fits(&self, over: &Identity) -> Result<(), OverlayError> {
        let has_len = self.layout.disk_len() == over.len;
        if has_len && self.base == over.base {
            return Ok(());
        }
        let found = describe(&over.name, over.len, over.base);
        let found = match over.base {
            Base::Overlay { .. } => format!("what is named below it is {found}"),
            Base::File { .. } | Base::Device => format!("`path_on_host` is {found}"),
        };
        Err(OverlayError::OtherBase {
            made_over: describe(&self.base_name, self.layout.disk_len(), self.base),
            found,
            remedy: self.remedy(over, has_len),
        })
    }

    /// What to do when it was made over something else.
    fn remedy(&self, over: &Identity, has_len: bool) -> String {
        let path = over.path.display();
        match (self.base, over.base) {
            (Base::File { mtime_s, mtime_ns }, Base::File { .. }) if has_len => format!(
                "if that is the same image, unchanged, run `touch -d @{mtime_s}.{mtime_ns:09} {path}`; otherwise name the right base, or a new overlay"
            ),
            (
                Base::Overlay {
                    id,
                    mtime_s,
                    mtime_ns,
                },
                Base::Overlay { id: other, .. },
            ) if id == other => format!(
                "if that is the same file, unchanged, run `touch -d @{mtime_s}.{mtime_ns:09} {path}`; otherwise restore it from a copy"
            ),
            (Base::Overlay { .. }, _) => {
                "name in `lower_overlay_paths` all overlays it was made over, the oldest first"
                    .to_owned()
            }
            (_, Base::Overlay { .. }) => {
                "name it first in `lower_overlay_paths`, or a new overlay".to_owned()
            }
            _ => "name the base it was made over, or a new overlay".to_owned(),
        }
    }
}

fn describe(name: &str, len: u64, base: Base) -> String {
    match base {
        Base::File { mtime_s, mtime_ns } => {
            format!("{name:?} of {len} bytes, last changed at {mtime_s}.{mtime_ns:09}")
        }
        Base::Device => format!("device {name:?} of {len} bytes"),
        Base::Overlay {
            id,
            mtime_s,
            mtime_ns,
        } => {
            let id = u128::from_be_bytes(id);
            format!("overlay {name:?} with id {id:032x}, last changed at {mtime_s}.{mtime_ns:09}")
        }
    }
}

/// Device and inode: what tells one file from another.
pub(super) fn numbers(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Its metadata, or why not.
pub(super) fn metadata(file: &File) -> Result<Metadata, OverlayError> {
    file.metadata().map_err(OverlayError::Io)
}

fn nanoseconds(metadata: &Metadata) -> u32 {
    u32::try_from(metadata.mtime_nsec()).unwrap_or_default()
}

/// What a path ends in.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
