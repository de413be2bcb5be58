//! The configuration space of a disk (virtio 1.2 §5.2.4).

use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::QUEUE_SIZE;
use super::backend::Backend;
use super::request::{
    MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, MAX_ZERO_RANGES, MAX_ZERO_SECTORS, SECTOR,
};

/// `struct virtio_blk_config` up to the fields of secure erase, little-endian. The fields of a feature that is not
/// offered are 0.
#[derive(Clone, Copy, Debug, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct ConfigSpace {
    capacity: [u8; 8],
    size_max: [u8; 4],
    seg_max: [u8; 4],
    geometry: [u8; 4],
    blk_size: [u8; 4],
    /// log2 of the sectors in a physical block.
    physical_block_exp: u8,
    alignment_offset: u8,
    /// Sectors.
    min_io_size: [u8; 2],
    opt_io_size: [u8; 4],
    writeback: u8,
    unused0: u8,
    num_queues: [u8; 2],
    max_discard_sectors: [u8; 4],
    max_discard_seg: [u8; 4],
    discard_sector_alignment: [u8; 4],
    max_write_zeroes_sectors: [u8; 4],
    max_write_zeroes_seg: [u8; 4],
    write_zeroes_may_unmap: u8,
    unused1: [u8; 3],
}

const _: () = assert!(size_of::<ConfigSpace>() == 60);

impl ConfigSpace {
    /// What `backend` is, with so many `queues`.
    pub(super) fn of(backend: &Backend, queues: u16) -> Self {
        let block_sectors = backend.block_len() / 512;
        let [block_exp, ..] = block_sectors.trailing_zeros().to_le_bytes();
        let [low, high, ..] = block_sectors.to_le_bytes();
        let mut config = Self {
            // Header and status byte need a descriptor each.
            seg_max: u32::from(QUEUE_SIZE - 2).to_le_bytes(),
            blk_size: 512_u32.to_le_bytes(),
            physical_block_exp: block_exp,
            min_io_size: [low, high],
            num_queues: if queues > 1 { queues } else { 0 }.to_le_bytes(),
            ..Self::new_zeroed()
        };
        config.set_capacity(backend);
        if backend.can_punch() {
            config.max_discard_sectors = MAX_DISCARD_SECTORS.to_le_bytes();
            config.max_discard_seg = MAX_DISCARD_RANGES.to_le_bytes();
            config.discard_sector_alignment = block_sectors.to_le_bytes();
            config.max_write_zeroes_sectors = MAX_ZERO_SECTORS.to_le_bytes();
            config.max_write_zeroes_seg = MAX_ZERO_RANGES.to_le_bytes();
            config.write_zeroes_may_unmap = 1;
        }
        config
    }

    /// The one field that a running driver sees change.
    pub(super) fn set_capacity(&mut self, backend: &Backend) {
        self.capacity = (backend.disk().len / SECTOR).to_le_bytes();
    }
}
