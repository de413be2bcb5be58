//! Turns a chain into a block request (virtio 1.2 §5.2.6). Knows no file.
//!
//! ```text
//!  readable: type u32, reserved u32, sector u64 | data of OUT
//!  writable: data of IN, GET_ID                 | status u8
//!
//!  data of DISCARD, WRITE_ZEROES: ranges of sector u64, num_sectors u32, flags u32
//! ```

#![deny(clippy::arithmetic_side_effects)]

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_memory::GuestAddress;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::virtio::chain::{Chain, Segments};

/// The unit of addresses and capacity, bytes (virtio 1.2 §5.2.4).
pub const SECTOR: u64 = 512;

/// The most data one request moves: what the event loop gives one disk in one go.
pub const MAX_REQUEST_BYTES: usize = 64 << 20;

/// The most ranges one DISCARD names.
pub const MAX_DISCARD_RANGES: u32 = 64;
/// The longest range of a DISCARD, sectors: 1 GiB. Punching a hole costs little.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// The most ranges one WRITE_ZEROES names.
pub const MAX_ZERO_RANGES: u32 = 1;
/// The longest range of a WRITE_ZEROES, sectors: 16 MiB. Some file systems make us write the zeroes.
pub const MAX_ZERO_SECTORS: u32 = 1 << 15;

/// What a request is checked against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Bytes, whole sectors.
    pub len: u64,
    /// Writes are refused.
    pub is_read_only: bool,
    /// DISCARD was negotiated.
    pub takes_discard: bool,
    /// WRITE_ZEROES was negotiated.
    pub takes_write_zeroes: bool,
}

/// Bytes of the disk that a request names itself, checked to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub at: u64,
    /// Bytes, whole sectors.
    pub len: u64,
}

impl Range {
    /// Some byte is in both.
    pub(super) fn meets(self, other: Self) -> bool {
        let ends_behind = |a: Self, b: Self| a.at.saturating_add(a.len) > b.at;
        self.len > 0 && other.len > 0 && ends_behind(self, other) && ends_behind(other, self)
    }
}

/// What is to be done. What is to be moved is in the chain it was parsed from: what was data in its
/// `readable` or `writable` is all that is left there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which operation.
    pub op: Op,
    /// Where the status byte goes.
    pub status: GuestAddress,
}

/// Operations, with checked byte offsets into the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Fill `writable` from the disk.
    Read {
        /// First byte.
        at: u64,
    },
    /// Store `readable` to the disk.
    Write {
        /// First byte.
        at: u64,
    },
    /// Make earlier writes durable.
    Flush,
    /// Forget what is in the ranges.
    Discard,
    /// Make the ranges read as zero.
    WriteZeroes {
        /// Their space may be given back.
        may_unmap: bool,
    },
    /// Fill `writable` with the serial number.
    GetId,
    /// A type, or a flag of one, that this device does not have.
    Unsupported,
}

/// A request that broke a rule; answered with IOERR where there is a status byte to put it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Which rule.
    pub why: Fault,
    /// Where the status byte goes, when there is one.
    pub status: Option<GuestAddress>,
}

/// Rules of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No room for a status byte, or the chain itself is malformed.
    NoStatusByte,
    /// Fewer than 16 readable bytes.
    ShortHeader,
    /// Data that is not whole sectors.
    Ragged,
    /// Data beyond the end of the disk.
    OutsideDisk,
    /// More than [`MAX_REQUEST_BYTES`], or more than the limits of DISCARD or WRITE_ZEROES.
    TooLong,
    /// A write to a read-only disk (virtio 1.2 §5.2.6.2).
    ReadOnly,
}

/// `struct virtio_blk_req` up to the data, little-endian.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
}

/// `struct virtio_blk_discard_write_zeroes`, little-endian.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawRange {
    sector: u64,
    num_sectors: u32,
    flags: u32,
}

/// Turns a chain into a request. Guest memory is read here, once; nothing later asks it again what was wanted.
/// Those ranges that a request names itself are left in `ranges`, which never grows past
/// [`MAX_DISCARD_RANGES`].
///
/// # Errors
/// [`Malformed`] when the driver broke a MUST. A guest can cause it at will, so the caller counts it and
/// answers it: no panic, no log line.
pub fn parse(chain: &mut Chain, disk: Disk, ranges: &mut Vec<Range>) -> Result<Request, Malformed> {
    let status = chain.writable.split_last_byte();
    let refuse = |why| Malformed { why, status };
    let status = status.ok_or(refuse(Fault::NoStatusByte))?;
    let header: Header = chain
        .readable
        .read_head()
        .ok_or(refuse(Fault::ShortHeader))?;
    let sector = u64::from_le(header.sector);
    let op = match u32::from_le(header.kind) {
        VIRTIO_BLK_T_IN => Op::Read {
            at: disk.start(sector, chain.writable.len()).map_err(refuse)?,
        },
        VIRTIO_BLK_T_OUT if disk.is_read_only => return Err(refuse(Fault::ReadOnly)),
        VIRTIO_BLK_T_OUT => Op::Write {
            at: disk.start(sector, chain.readable.len()).map_err(refuse)?,
        },
        VIRTIO_BLK_T_FLUSH => Op::Flush,
        VIRTIO_BLK_T_DISCARD if disk.takes_discard => {
            let flags = read_ranges(&mut chain.readable, disk, DISCARD, ranges).map_err(refuse)?;
            // Unmapping is what a discard is; the flag is not for it (virtio 1.2 §5.2.6.2).
            if flags == 0 {
                Op::Discard
            } else {
                Op::Unsupported
            }
        }
        VIRTIO_BLK_T_WRITE_ZEROES if disk.takes_write_zeroes => {
            let flags = read_ranges(&mut chain.readable, disk, ZEROES, ranges).map_err(refuse)?;
            match flags {
                0 => Op::WriteZeroes { may_unmap: false },
                VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP => Op::WriteZeroes { may_unmap: true },
                _ => Op::Unsupported,
            }
        }
        VIRTIO_BLK_T_GET_ID => Op::GetId,
        _ => Op::Unsupported,
    };
    Ok(Request { op, status })
}

/// What the configuration space promised of ranges.
#[derive(Clone, Copy)]
struct RangeLimits {
    count: u32,
    sectors: u32,
}

const DISCARD: RangeLimits = RangeLimits {
    count: MAX_DISCARD_RANGES,
    sectors: MAX_DISCARD_SECTORS,
};
const ZEROES: RangeLimits = RangeLimits {
    count: MAX_ZERO_RANGES,
    sectors: MAX_ZERO_SECTORS,
};

/// Reads the ranges of a request into `ranges`. Returns their flags, joined.
fn read_ranges(
    data: &mut Segments,
    disk: Disk,
    limits: RangeLimits,
    ranges: &mut Vec<Range>,
) -> Result<u32, Fault> {
    if disk.is_read_only {
        return Err(Fault::ReadOnly);
    }
    ranges.clear();
    if data.is_empty() || !data.len().is_multiple_of(size_of::<RawRange>()) {
        return Err(Fault::Ragged);
    }
    let mut flags = 0;
    let mut left = limits.count;
    while let Some(raw) = data.read_head::<RawRange>() {
        left = left.checked_sub(1).ok_or(Fault::TooLong)?;
        let count = u32::from_le(raw.num_sectors);
        if count > limits.sectors {
            return Err(Fault::TooLong);
        }
        let len = u64::from(count).saturating_mul(SECTOR);
        ranges.push(Range {
            at: disk.offset(u64::from_le(raw.sector), len)?,
            len,
        });
        flags |= u32::from_le(raw.flags);
    }
    Ok(flags)
}

impl Disk {
    /// The byte at which `len` bytes from `sector` on start, if all of them exist.
    fn start(self, sector: u64, len: usize) -> Result<u64, Fault> {
        if len > MAX_REQUEST_BYTES {
            return Err(Fault::TooLong);
        }
        let len = u64::try_from(len).map_err(|_| Fault::TooLong)?;
        if !len.is_multiple_of(SECTOR) {
            return Err(Fault::Ragged);
        }
        self.offset(sector, len)
    }

    /// The byte at which `sector` starts, if `len` bytes from there on exist.
    fn offset(self, sector: u64, len: u64) -> Result<u64, Fault> {
        let start = sector.checked_mul(SECTOR).ok_or(Fault::OutsideDisk)?;
        let end = start.checked_add(len).ok_or(Fault::OutsideDisk)?;
        if end > self.len {
            return Err(Fault::OutsideDisk);
        }
        Ok(start)
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DISK: Disk = Disk {
        len: 100 * SECTOR,
        is_read_only: false,
        takes_discard: true,
        takes_write_zeroes: true,
    };

    #[test]
    fn last_sector_is_reachable_and_the_next_is_not() {
        assert_eq!(DISK.start(99, 512), Ok(99 * SECTOR));
        assert_eq!(DISK.start(100, 0), Ok(100 * SECTOR));
        assert_eq!(DISK.start(100, 512), Err(Fault::OutsideDisk));
        assert_eq!(DISK.start(99, 1024), Err(Fault::OutsideDisk));
    }

    #[test]
    fn ragged_and_huge_data_are_refused() {
        assert_eq!(DISK.start(0, 511), Err(Fault::Ragged));
        assert_eq!(DISK.start(0, MAX_REQUEST_BYTES + 512), Err(Fault::TooLong));
    }

    proptest! {
        #[test]
        fn a_start_is_always_inside_the_disk(sector: u64, len in 0..=u32::MAX as usize) {
            if let Ok(start) = DISK.start(sector, len) {
                prop_assert!(start + len as u64 <= DISK.len);
                prop_assert_eq!(start, sector * SECTOR);
            }
        }
    }
}
