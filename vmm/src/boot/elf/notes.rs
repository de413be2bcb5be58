//! The PVH note: where a kernel wants to be entered.

use linux_loader::elf::{Elf64_Nhdr, Elf64_Phdr, PT_NOTE};
use vm_memory::{ByteValued, GuestAddress};

use super::ElfError;

/// Longest note segment looked through; Linux has under 1 KiB.
const MAX_NOTES_BYTES: u64 = 64 << 10;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: physical address of the 32-bit PVH entry.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// The address in the first PVH note, if there is one. `read` returns the bytes at an offset in the file, up to a
/// length, fewer where there are fewer.
pub(super) fn find_pvh_entry(
    programs: &[Elf64_Phdr],
    mut read: impl FnMut(u64, u64) -> Result<Vec<u8>, ElfError>,
) -> Result<Option<GuestAddress>, ElfError> {
    for program in programs.iter().filter(|p| p.p_type == PT_NOTE) {
        let len = program.p_filesz.min(MAX_NOTES_BYTES);
        let notes = read(program.p_offset, len)?;
        if let Some(entry) = pvh_entry_in(&notes)? {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// Walks notes: header, name, descriptor, the latter two padded to 4 bytes (ABI "Note Section").
fn pvh_entry_in(mut notes: &[u8]) -> Result<Option<GuestAddress>, ElfError> {
    while let Some((header, rest)) = notes.split_at_checked(size_of::<Elf64_Nhdr>()) {
        let mut note = Elf64_Nhdr::default();
        note.as_mut_slice().copy_from_slice(header);
        let Some((name, rest)) = split_padded(rest, note.n_namesz) else {
            break;
        };
        let Some((descriptor, rest)) = split_padded(rest, note.n_descsz) else {
            break;
        };
        if note.n_type == XEN_ELFNOTE_PHYS32_ENTRY && name == b"Xen\0" {
            let Some(address) = descriptor.first_chunk() else {
                return Err(ElfError::PvhNote(note.n_descsz));
            };
            let entry = u32::from_le_bytes(*address);
            return Ok(Some(GuestAddress(entry.into())));
        }
        notes = rest;
    }
    Ok(None)
}

/// The first `len` bytes, and what follows them and their padding.
fn split_padded(bytes: &[u8], len: u32) -> Option<(&[u8], &[u8])> {
    let len = usize::try_from(len).ok()?;
    let (field, _) = bytes.split_at_checked(len)?;
    let padded = len.next_multiple_of(4).min(bytes.len());
    Some((field, &bytes[padded..]))
}
