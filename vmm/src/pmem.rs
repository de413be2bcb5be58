//! Persistent memory: opens a file and gives it to the guest, at any time of the VM's life.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use devices::virtio::Pmem;
use devices::virtio::pmem::{Backing, LostWrites};
use vm_config::{Explain, FaultCode, FaultKind, PmemConfig};

use crate::kvm::{KvmError, MemorySlot, MemorySlots};
use crate::memory::{Access, FileMapping, padded_len};

/// Persistent memory that cannot be had. The first words are those existing clients look for.
#[derive(Debug, thiserror::Error)]
pub enum PmemError {
    /// The host refused the file.
    #[error("Unable to create the virtio-pmem device: Error accessing backing file")]
    Open(#[source] io::Error),
    /// A directory, FIFO, socket or device.
    #[error(
        "Unable to create the virtio-pmem device: Error accessing backing file: it is no regular file; give an image made with `truncate -s`"
    )]
    NotAFile,
    /// There is nothing in it.
    #[error(
        "Unable to create the virtio-pmem device: Error backing file size is 0; give it a size with `truncate -s`"
    )]
    Empty,
    /// The host does not map it.
    #[error("Unable to create the virtio-pmem device: cannot map the backing file")]
    Map(#[source] io::Error),
    /// It does not fit the guest's address space.
    #[error(
        "Unable to create the virtio-pmem device: {len} bytes do not fit the guest's address space; use a smaller file"
    )]
    NoRoom {
        /// Length of the file.
        len: u64,
    },
    /// KVM does not give it to the guest.
    #[error("Unable to create the virtio-pmem device")]
    Kvm(#[from] KvmError),
}

impl Explain for PmemError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::Kvm(inner) => return FaultKind::Inner(inner),
            Self::Open(_) | Self::NotAFile | Self::Empty => FaultCode::PmemFile,
            Self::Map(_) => FaultCode::HostMemoryShort,
            Self::NoRoom { .. } => FaultCode::PmemDoesNotFit,
        })
    }
}

/// Persistent memory that the guest has: its device, to be attached, and what it has it by.
pub(crate) struct OpenPmem {
    pub(crate) device: Pmem,
    /// The guest has the memory as long as this is held.
    pub(crate) slot: MemorySlot,
}

/// Opens the file, maps it at a free place above RAM, and gives it to the guest, which may be running.
pub(crate) fn open(config: &PmemConfig, slots: &Arc<MemorySlots>) -> Result<OpenPmem, PmemError> {
    let access = if config.read_only {
        Access::Read
    } else {
        Access::Write
    };
    let (file, file_len) = open_file(config, access)?;
    let no_room = || PmemError::NoRoom { len: file_len };
    let len = padded_len(file_len).ok_or_else(no_room)?;
    let lost = Arc::new(LostWrites::default());
    let place = slots.above_ram().take(len, 1, lost.clone());
    let place = place.ok_or_else(no_room)?;
    let start = place.start();
    let mapping = FileMapping::new(&file, file_len, place, access).map_err(PmemError::Map)?;
    let slot = slots.add(mapping.into_slot_memory())?;
    let backing = Backing {
        file,
        file_len,
        start,
        len,
        lost,
    };
    Ok(OpenPmem {
        device: Pmem::new(backing, config.rate_limiter),
        slot,
    })
}

fn open_file(config: &PmemConfig, access: Access) -> Result<(File, u64), PmemError> {
    let path = &config.path_on_host;
    let file = OpenOptions::new()
        .read(true)
        .write(access == Access::Write)
        // A FIFO without a writer would otherwise never open.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(PmemError::Open)?;
    let metadata = file.metadata().map_err(PmemError::Open)?;
    if !metadata.is_file() {
        return Err(PmemError::NotAFile);
    }
    let len = metadata.len();
    if len == 0 {
        return Err(PmemError::Empty);
    }
    if access == Access::Write && padded_len(len) != Some(len) {
        tracing::warn!(
            "pmem {}: the guest has more than the {len} bytes of {path:?}, and loses what it writes there; run `truncate -s %2M` on it",
            config.id.0
        );
    }
    Ok((file, len))
}
