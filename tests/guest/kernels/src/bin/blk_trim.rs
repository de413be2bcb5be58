//! Discards, unmaps and zeroes ranges of the disk, and reads them back as zero.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::println;
use rt::virtio::block::{
    self, Disk, Request, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_WRITE_ZEROES,
};

rt::kernel!(main);

/// First sector, sectors, flags (virtio 1.2 §5.2.6).
type Range = (u64, u32, u32);

const UNMAP: u32 = 1;

fn main(boot: &BootInfo) {
    let wanted = VIRTIO_BLK_F_SEG_MAX
        | VIRTIO_BLK_F_BLK_SIZE
        | VIRTIO_BLK_F_TOPOLOGY
        | VIRTIO_BLK_F_DISCARD
        | VIRTIO_BLK_F_WRITE_ZEROES;
    let mut disk = Disk::open_with(boot, wanted);
    rt::check!(
        disk.features & wanted == wanted,
        "features {:#x} of {wanted:#x}",
        disk.features
    );
    println!("seg_max={}", disk.device.config_u32(12));
    println!("blk_size={}", disk.device.config_u32(20));
    for (name, at) in [
        ("max_discard_sectors", 36),
        ("max_discard_seg", 40),
        ("discard_sector_alignment", 44),
        ("max_write_zeroes_sectors", 48),
        ("max_write_zeroes_seg", 52),
    ] {
        let limit = disk.device.config_u32(at);
        rt::check!(limit > 0, "{name} is 0");
        println!("{name}={limit}");
    }

    let discards = [(2048, 8192, 0), (16384, 8192, 0)];
    send(&mut disk, VIRTIO_BLK_T_DISCARD, &discards);
    let unmapped = [(28672, 2048, UNMAP)];
    send(&mut disk, VIRTIO_BLK_T_WRITE_ZEROES, &unmapped);
    let zeroed = [(0, 128, 0)];
    send(&mut disk, VIRTIO_BLK_T_WRITE_ZEROES, &zeroed);
    for (sector, ..) in discards.iter().chain(&unmapped).chain(&zeroed) {
        disk.run_well(&[Request {
            kind: VIRTIO_BLK_T_IN,
            sector: *sector,
            len: block::SLOT_BYTES,
        }]);
        let is_zero = block::data(0, block::SLOT_BYTES).all(|byte| byte == 0);
        rt::check!(is_zero, "sector {sector} is not zero");
    }
}

fn send(disk: &mut Disk, kind: u32, ranges: &[Range]) {
    for (index, (sector, sectors, flags)) in ranges.iter().enumerate() {
        block::write_data(0, 16 * index, &sector.to_le_bytes());
        block::write_data(0, 16 * index + 8, &sectors.to_le_bytes());
        block::write_data(0, 16 * index + 12, &flags.to_le_bytes());
    }
    let outcome = disk.run_one(kind, 0, 16 * ranges.len());
    rt::check!(
        outcome.status == VIRTIO_BLK_S_OK,
        "request {kind} ended with {outcome:?}"
    );
}
