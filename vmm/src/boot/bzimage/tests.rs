//! Good, bad and mutated bzImages, built here around the ELF files of `elf::tests`.

use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::boot::elf::tests::{ENTRY, PVH_ENTRY, plain, with_pvh_note};
use crate::boot::unpack::tests::{gzip, lz4};

const SETUP: usize = 2 * 512;
const PAYLOAD_OFFSET: usize = 0x400;

fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap()
}

fn header(payload_len: usize, code_len: usize) -> setup_header {
    setup_header {
        setup_sects: 1,
        syssize: u32::try_from(code_len / 16).unwrap(),
        boot_flag: BOOT_FLAG,
        jump: 0x6aeb,
        header: HEADER_MAGIC,
        version: 0x20f,
        loadflags: 1,
        xloadflags: 3,
        kernel_alignment: 0x20_0000,
        relocatable_kernel: 1,
        pref_address: 0x40_0000,
        init_size: 0x10_0000,
        initrd_addr_max: 0x7fff_ffff,
        payload_offset: u32::try_from(PAYLOAD_OFFSET).unwrap(),
        payload_length: u32::try_from(payload_len).unwrap(),
        ..setup_header::default()
    }
}

/// An image around `packed`, which unpacks to `announced` bytes; `change` may spoil the header.
fn image(packed: &[u8], announced: usize, change: impl FnOnce(&mut setup_header)) -> Vec<u8> {
    let mut payload = packed.to_vec();
    payload.extend_from_slice(&u32::try_from(announced).unwrap().to_le_bytes());
    let code_len = (PAYLOAD_OFFSET + payload.len()).next_multiple_of(16);
    let mut header = header(payload.len(), code_len);
    change(&mut header);
    let mut bytes = vec![0; SETUP + code_len];
    let at = HEADER_OFFSET;
    bytes[at..at + size_of::<setup_header>()].copy_from_slice(header.as_slice());
    bytes[SETUP + 0x200] = 0x90;
    let at = SETUP + PAYLOAD_OFFSET;
    bytes[at..at + payload.len()].copy_from_slice(&payload);
    bytes
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn load_bytes(bytes: &[u8]) -> Result<LoadedKernel, BzImageError> {
    load(&memory(), &mut file(bytes))
}

fn xz_like(change: impl FnOnce(&mut setup_header)) -> Vec<u8> {
    image(b"\xfd7zXZ\0 and so on", 77, change)
}

#[test]
fn the_vmlinux_inside_is_entered_by_its_note() {
    let vmlinux = with_pvh_note();
    for packed in [lz4(&vmlinux), gzip(&vmlinux)] {
        let memory = memory();
        let bytes = image(&packed, vmlinux.len(), |_| ());
        let kernel = load(&memory, &mut file(&bytes)).unwrap();
        assert_eq!(kernel.mode, BootMode::Pvh);
        assert_eq!(kernel.entry.0, u64::from(PVH_ENTRY));
        let mut first = [0; 16];
        memory.read_slice(&mut first, GuestAddress(ENTRY)).unwrap();
        assert_eq!(first[..], vmlinux[0x400..0x410]);
    }
}

#[test]
fn a_vmlinux_without_a_note_is_entered_at_its_entry_point() {
    let vmlinux = plain();
    let kernel = load_bytes(&image(&lz4(&vmlinux), vmlinux.len(), |_| ())).unwrap();
    assert_eq!(kernel.mode, BootMode::Linux64);
    assert_eq!(kernel.entry.0, ENTRY);
    let header = kernel.setup_header.unwrap();
    assert_eq!({ header.version }, 0x20f);
}

#[test]
fn a_damaged_payload_says_so() {
    let vmlinux = with_pvh_note();
    let longer = image(&gzip(&vmlinux), vmlinux.len() - 1, |_| ());
    let shorter = image(&lz4(&vmlinux), vmlinux.len() + 1, |_| ());
    for bytes in [longer, shorter] {
        let refused = load_bytes(&bytes).unwrap_err();
        assert!(matches!(refused, BzImageError::Length { .. }));
    }
    let mut spoilt = gzip(&vmlinux);
    let crc = spoilt.len() - 8;
    spoilt[crc] ^= 1;
    let refused = load_bytes(&image(&spoilt, vmlinux.len(), |_| ())).unwrap_err();
    assert!(matches!(refused, BzImageError::Damaged { .. }));
}

#[test]
fn other_packings_unpack_themselves() {
    let memory = memory();
    let kernel = load(&memory, &mut file(&xz_like(|_| ()))).unwrap();
    assert_eq!(kernel.mode, BootMode::Linux64);
    assert_eq!(kernel.entry.0, 0x10_0200);
    assert_eq!((kernel.start.0, kernel.end.0), (0x10_0000, 0x50_0000));
    assert_eq!(memory.read_obj::<u8>(kernel.entry).unwrap(), 0x90);
}

#[test]
fn a_packed_image_that_is_not_elf_unpacks_itself() {
    let plain = [b'x'; 64];
    let kernel = load_bytes(&image(&gzip(&plain), plain.len(), |_| ())).unwrap();
    assert_eq!(kernel.entry.0, 0x10_0200);
}

#[test]
fn images_without_a_64_bit_entry_are_refused() {
    let old = xz_like(|header| header.version = 0x20b);
    let small = xz_like(|header| header.xloadflags = 0);
    let low = xz_like(|header| header.loadflags = 0);
    for bytes in [old, small, low] {
        let refused = load_bytes(&bytes).unwrap_err();
        let text = "does not provide a 64-bit entry point";
        assert!(refused.to_string().contains(text));
    }
}

#[test]
fn text_is_called_what_it_is() {
    for text in ["#!/bin/sh\necho no kernel\n", "", "short"] {
        let refused = load_bytes(text.as_bytes()).unwrap_err().to_string();
        assert!(
            refused.contains("neither an ELF vmlinux nor a bzImage"),
            "{refused}"
        );
        assert!(
            refused.contains(&text.chars().take(4).collect::<String>()),
            "{refused}"
        );
    }
}

#[test]
fn a_cut_image_says_so() {
    let vmlinux = plain();
    let whole = image(&lz4(&vmlinux), vmlinux.len(), |_| ());
    let refused = load_bytes(&whole[..whole.len() - 100]).unwrap_err();
    assert!(matches!(refused, BzImageError::Cut { .. }));
    let absurd = xz_like(|header| {
        header.payload_offset = u32::MAX;
        header.payload_length = u32::MAX;
        header.syssize = u32::MAX;
    });
    let refused = load_bytes(&absurd).unwrap_err();
    assert!(matches!(refused, BzImageError::Cut { .. }));
}

#[test]
fn images_too_large_for_memory_are_refused() {
    let far = xz_like(|header| header.pref_address = u64::MAX);
    let large = xz_like(|header| header.init_size = 0x800_0000);
    let aligned = xz_like(|header| header.kernel_alignment = u32::MAX);
    let unpacked = image(&gzip(b"small"), 0x7fff_ffff, |_| ());
    for bytes in [far, large, aligned, unpacked] {
        let refused = load_bytes(&bytes).unwrap_err();
        assert!(matches!(refused, BzImageError::DoesNotFit { .. }));
    }
}

#[test]
fn an_old_image_keeps_the_initrd_low() {
    let kernel = load_bytes(&xz_like(|header| {
        header.xloadflags = 1;
        header.initrd_addr_max = 0x5f_ffff;
    }));
    assert_eq!(kernel.unwrap().initrd_limit.0, 0x60_0000);
}

#[test]
fn a_short_header_ends_where_it_says() {
    let kernel = load_bytes(&xz_like(|header| {
        header.jump = 0x62eb; // up to init_size, without handover_offset and kernel_info_offset
        header.handover_offset = 0xdead_beef;
    }));
    let header = kernel.unwrap().setup_header.unwrap();
    assert_eq!({ header.handover_offset }, 0);
    assert_eq!({ header.init_size }, 0x10_0000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever the header says, the answer is a kernel inside memory or an error.
    #[test]
    fn mutated_images_never_escape_memory(
        packing in 0_usize..3,
        changes in prop::collection::vec((0x1f1_usize..0x270, any::<u8>()), 1..8),
        keep in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let vmlinux = with_pvh_note();
        let packed = [lz4(&vmlinux), gzip(&vmlinux), b"\xfd7zXZ\0".to_vec()];
        let mut bytes = image(&packed[packing], vmlinux.len(), |_| ());
        for (at, value) in changes {
            bytes[at] = value;
        }
        if cut {
            bytes.truncate(keep.index(bytes.len()));
        }
        if let Ok(kernel) = load_bytes(&bytes) {
            prop_assert!(kernel.start >= HIGH_MEMORY_START);
            prop_assert!(kernel.end.0 <= 8 << 20);
        }
    }
}
