//! Puts an initial RAM disk at the top of the first RAM region.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};

use devices::GuestMemory;
use vm_config::{Explain, FaultCode, FaultKind};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::kernel::LoadedKernel;
use super::{Initrd, check_regular};

const PAGE: u64 = 4096;

/// Why an initial RAM disk cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// The file cannot be read.
    #[error("cannot read the initrd; check that it is a regular file")]
    Read(#[source] io::Error),
    /// Nothing in it.
    #[error("the initrd is empty; give a cpio archive or leave initrd_path out")]
    Empty,
    /// No room above the kernel.
    #[error(
        "the initrd of {len} bytes does not fit between the kernel, which ends at {kernel_end:#x}, and {limit:#x}; give the machine {} MiB more memory or make the initrd smaller",
        short.div_ceil(1 << 20)
    )]
    DoesNotFit {
        /// Bytes of the file.
        len: u64,
        /// First byte after the kernel.
        kernel_end: u64,
        /// Where the initrd must end.
        limit: u64,
        /// Bytes that lack.
        short: u64,
    },
    /// The file shrank, or memory refused the write.
    #[error("cannot copy the initrd into guest memory")]
    Copy(#[source] GuestMemoryError),
}

impl Explain for InitrdError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::Read(_) | Self::Empty => FaultCode::InitrdFile,
            Self::DoesNotFit { .. } => FaultCode::InitrdDoesNotFit,
            Self::Copy(_) => FaultCode::InitrdFile,
        })
    }
}

/// Loads `file` for `kernel`, as high as that one can reach it.
///
/// # Errors
/// [`InitrdError`]: the file is unreadable, empty or too large.
pub fn load_initrd(
    memory: &GuestMemory,
    file: &mut File,
    kernel: &LoadedKernel,
) -> Result<Initrd, InitrdError> {
    check_regular(file).map_err(InitrdError::Read)?;
    let len = file.seek(SeekFrom::End(0)).map_err(InitrdError::Read)?;
    file.seek(SeekFrom::Start(0)).map_err(InitrdError::Read)?;
    let initrd = Initrd {
        start: place(len, kernel)?,
        len,
    };
    let bytes = usize::try_from(len).unwrap_or(usize::MAX);
    memory
        .read_exact_volatile_from(initrd.start, file, bytes)
        .map_err(InitrdError::Copy)?;
    Ok(initrd)
}

/// The highest page from which `len` bytes end at or below the limit, if that is clear of the kernel.
fn place(len: u64, kernel: &LoadedKernel) -> Result<GuestAddress, InitrdError> {
    if len == 0 {
        return Err(InitrdError::Empty);
    }
    let (kernel_end, limit) = (kernel.end.0, kernel.initrd_limit.0);
    let start = limit.checked_sub(len).map(|start| start / PAGE * PAGE);
    match start {
        Some(start) if start >= kernel_end => Ok(GuestAddress(start)),
        _ => Err(InitrdError::DoesNotFit {
            len,
            kernel_end,
            limit,
            short: len
                .saturating_add(kernel_end)
                .saturating_add(PAGE)
                .saturating_sub(limit),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::arch::x86_64::regs::BootMode;

    fn kernel(end: u64, limit: u64) -> LoadedKernel {
        LoadedKernel {
            entry: GuestAddress(0x10_0000),
            mode: BootMode::Pvh,
            start: GuestAddress(0x10_0000),
            end: GuestAddress(end),
            initrd_limit: GuestAddress(limit),
            setup_header: None,
        }
    }

    #[test]
    fn it_lies_at_the_top_on_a_page_boundary() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 5000]).unwrap();
        let kernel = kernel(0x20_0000, 4 << 20);
        let initrd = load_initrd(&memory, &mut file, &kernel).unwrap();
        let start = (4 << 20) - 0x2000;
        assert_eq!((initrd.start.0, initrd.len), (start, 5000));
        let mut read = [0; 5001];
        memory.read_slice(&mut read, initrd.start).unwrap();
        assert_eq!((read[0], read[4999], read[5000]), (7, 7, 0));
    }

    #[test]
    fn it_never_touches_the_kernel() {
        let kernel = kernel(0x30_0000, 0x40_0000);
        assert_eq!(place(0x10_0000, &kernel).unwrap().0, 0x30_0000);
        let refused = place(0x10_0001, &kernel).unwrap_err();
        assert!(matches!(refused, InitrdError::DoesNotFit { .. }));
        assert!(refused.to_string().contains("1 MiB more memory"));
        assert!(place(u64::MAX, &kernel).is_err());
    }

    #[test]
    fn an_empty_file_is_refused() {
        let refused = place(0, &kernel(0, 0x40_0000)).unwrap_err();
        assert!(matches!(refused, InitrdError::Empty));
    }
}
