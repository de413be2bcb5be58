//! Good, bad and mutated ELF files, built here.

use std::io::Cursor;

use proptest::prelude::*;

use linux_loader::elf::{EM_X86_64, ET_EXEC, Elf64_Ehdr, Elf64_Phdr, PT_LOAD, PT_NOTE};
use vm_memory::ByteValued;

use super::*;
use crate::arch::x86_64::layout::HIGH_MEMORY_START;

const RAM: u64 = 8 << 20;
pub(crate) const ENTRY: u64 = 0x10_0000;
pub(crate) const PVH_ENTRY: u32 = 0x10_0010;

fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap()
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    bytes.resize(bytes.len().max(at + data.len()), 0);
    bytes[at..at + data.len()].copy_from_slice(data);
}

fn program(kind: u32, offset: u64, at: u64, file: u64, memory: u64) -> Elf64_Phdr {
    Elf64_Phdr {
        p_type: kind,
        p_offset: offset,
        p_paddr: at,
        p_vaddr: at,
        p_filesz: file,
        p_memsz: memory,
        ..Elf64_Phdr::default()
    }
}

/// An ELF file of the given program headers, 4096 bytes long, each byte past 0x400 its own low address byte.
fn elf(programs: &[Elf64_Phdr]) -> Vec<u8> {
    let mut header = Elf64_Ehdr {
        e_type: ET_EXEC,
        e_machine: EM_X86_64,
        e_entry: ENTRY,
        e_phoff: 64,
        e_phentsize: 56,
        e_phnum: u16::try_from(programs.len()).unwrap(),
        ..Elf64_Ehdr::default()
    };
    header.e_ident[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let mut bytes = header.as_slice().to_vec();
    for program in programs {
        bytes.extend_from_slice(program.as_slice());
    }
    let body: Vec<u8> = (0..=u8::MAX).cycle().take(0xc00).collect();
    put(&mut bytes, 0x400, &body);
    bytes
}

/// A kernel of one segment of 0x100 bytes, and 0x1000 in memory.
pub(crate) fn plain() -> Vec<u8> {
    elf(&[program(PT_LOAD, 0x400, ENTRY, 0x100, 0x1000)])
}

/// Offset of the notes, inside the segment.
const NOTES: usize = 0x480;

/// The same with a PVH note after a note of another kind.
pub(crate) fn with_pvh_note() -> Vec<u8> {
    let mut bytes = elf(&[
        program(PT_LOAD, 0x400, ENTRY, 0x100, 0x1000),
        program(PT_NOTE, NOTES as u64, 0, 44, 44),
    ]);
    let note = |name: &[u8], kind: u32, desc: &[u8]| {
        let mut note = Vec::new();
        note.extend_from_slice(&u32::try_from(name.len()).unwrap().to_le_bytes());
        note.extend_from_slice(&u32::try_from(desc.len()).unwrap().to_le_bytes());
        note.extend_from_slice(&kind.to_le_bytes());
        note.extend_from_slice(name);
        note.extend_from_slice(desc);
        note
    };
    let mut notes = note(b"Xen\0", 6, b"linux\0\0\0");
    notes.extend(note(b"Xen\0", 18, &PVH_ENTRY.to_le_bytes()));
    put(&mut bytes, NOTES, &notes);
    bytes
}

fn read(bytes: &[u8]) -> Result<Plan, ElfError> {
    Plan::read(&mut Cursor::new(bytes), RAM)
}

fn one(program_header: Elf64_Phdr) -> Result<Plan, ElfError> {
    read(&elf(&[program_header]))
}

#[test]
fn segments_land_where_the_headers_say() {
    let memory = memory();
    let bytes = plain();
    let plan = read(&bytes).unwrap();
    plan.load(&memory, &mut Cursor::new(&bytes)).unwrap();
    assert_eq!(plan.entry, ElfEntry::Linux64(GuestAddress(ENTRY)));
    assert_eq!((plan.start().0, plan.end().0), (ENTRY, ENTRY + 0x1000));
    let mut loaded = [0xff; 0x104];
    memory.read_slice(&mut loaded, GuestAddress(ENTRY)).unwrap();
    assert_eq!(loaded[..0x100], bytes[0x400..0x500]);
    assert_eq!(loaded[0x100..], [0; 4]);
}

#[test]
fn the_pvh_note_wins_over_the_entry_point() {
    let plan = read(&with_pvh_note()).unwrap();
    assert_eq!(plan.entry, ElfEntry::Pvh(GuestAddress(PVH_ENTRY.into())));
}

#[test]
fn a_pvh_note_without_an_address_is_refused() {
    let mut bytes = with_pvh_note();
    bytes[NOTES + 24 + 4] = 2;
    assert!(matches!(read(&bytes), Err(ElfError::PvhNote(2))));
}

#[test]
fn files_for_other_machines_are_named() {
    let mut class_32 = plain();
    class_32[4] = 1;
    assert!(matches!(read(&class_32), Err(ElfError::Not64Bit)));
    let mut arm = plain();
    arm[18] = 183;
    let refused = read(&arm).unwrap_err();
    assert!(matches!(refused, ElfError::Machine { machine: 183, .. }));
    let mut object = plain();
    object[16] = 1;
    assert!(matches!(read(&object), Err(ElfError::Type(1))));
}

#[test]
fn segments_outside_memory_are_refused() {
    for (start, len) in [
        (0, 0x1000),
        (0x9000, 0x1000),
        (HIGH_MEMORY_START.0 - 1, 0x1000),
        (RAM - 1, 0x1000),
        (0x10_0000, u64::MAX),
        (u64::MAX - 0xfff, 0x1000),
        (0x1_0000_0000, 0x1000),
    ] {
        let refused = one(program(PT_LOAD, 0x400, start, 0x100, len)).unwrap_err();
        assert!(
            matches!(refused, ElfError::SegmentAddress { .. }),
            "{start:#x}"
        );
    }
}

#[test]
fn segments_outside_the_file_are_refused() {
    for (offset, len) in [(0xfff, 2), (u64::MAX, 2), (0x1001, 0), (0x400, 0x1000)] {
        let refused = one(program(PT_LOAD, offset, ENTRY, len, 0x2000)).unwrap_err();
        assert!(
            matches!(refused, ElfError::SegmentPastEnd { .. }),
            "{offset:#x}"
        );
    }
}

#[test]
fn a_segment_larger_in_the_file_than_in_memory_is_refused() {
    let refused = one(program(PT_LOAD, 0x400, ENTRY, 0x100, 0x80)).unwrap_err();
    assert!(matches!(refused, ElfError::SegmentSizes { .. }));
}

#[test]
fn overlapping_segments_are_refused() {
    let refused = read(&elf(&[
        program(PT_LOAD, 0x400, ENTRY + 0x80, 0x100, 0x100),
        program(PT_LOAD, 0x400, ENTRY, 0x100, 0x100),
    ]));
    assert!(matches!(
        refused,
        Err(ElfError::SegmentsOverlap { at: 0x10_0080 })
    ));
}

#[test]
fn an_entry_outside_every_segment_is_refused() {
    let refused = one(program(PT_LOAD, 0x400, ENTRY + 1, 0x100, 0x100)).unwrap_err();
    assert!(matches!(refused, ElfError::Entry { entry: ENTRY }));
}

#[test]
fn the_64_bit_entry_needs_the_kernel_inside_its_map() {
    let mut bytes = elf(&[program(PT_LOAD, 0x400, 0x4000_0000, 0x100, 0x1000)]);
    put(&mut bytes, 24, &0x4000_0000_u64.to_le_bytes());
    let refused = Plan::read(&mut Cursor::new(bytes), 3 << 30).unwrap_err();
    assert!(matches!(refused, ElfError::SegmentAddress { .. }));
}

#[test]
fn a_file_without_segments_is_refused() {
    let refused = one(program(PT_NOTE, 0x400, 0, 0x10, 0x10)).unwrap_err();
    assert!(matches!(refused, ElfError::NoSegment));
    assert!(matches!(
        read(&elf(&[])),
        Err(ElfError::ProgramHeaders { .. })
    ));
}

#[test]
fn a_stream_becomes_the_same_plan_as_a_file() {
    for bytes in [plain(), with_pvh_note()] {
        let from_stream = load_stream(&memory(), &bytes[..], bytes.len() as u64);
        assert_eq!(from_stream.unwrap().unwrap(), read(&bytes).unwrap());
    }
}

#[test]
fn a_stream_that_must_be_read_twice_is_left_alone() {
    let shared = elf(&[
        program(PT_LOAD, 0x400, ENTRY, 0x100, 0x100),
        program(PT_LOAD, 0x480, ENTRY + 0x1000, 0x100, 0x100),
    ]);
    assert!(read(&shared).is_ok());
    let memory = memory();
    let plan = load_stream(&memory, &shared[..], shared.len() as u64);
    assert_eq!(plan.unwrap(), None);
    assert_eq!(memory.read_obj::<u64>(GuestAddress(ENTRY)).unwrap(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever the headers say, the answer is a plan inside memory or an error.
    #[test]
    fn mutated_headers_never_escape_memory(
        changes in prop::collection::vec((0_usize..0x100, any::<u8>()), 1..12),
        len in 0_usize..0x1000,
    ) {
        let mut bytes = with_pvh_note();
        for (at, value) in changes {
            bytes[at] = value;
        }
        bytes.truncate(len.max(0x80));
        if let Ok(plan) = read(&bytes) {
            prop_assert!(plan.start() >= HIGH_MEMORY_START);
            prop_assert!(plan.end().0 <= RAM);
        }
    }

    /// The same for whole 8-byte fields, where the dangerous values are.
    #[test]
    fn mutated_fields_never_escape_memory(
        field in 0_usize..22,
        value in prop_oneof![any::<u64>(), Just(u64::MAX), Just(i64::MAX as u64), 0..0x20_0000_u64],
    ) {
        let mut bytes = with_pvh_note();
        put(&mut bytes, field * 8, &value.to_le_bytes());
        if let Ok(plan) = read(&bytes) {
            let memory = memory();
            plan.load(&memory, &mut Cursor::new(&bytes)).unwrap();
        }
        if let Ok(Some(plan)) = load_stream(&memory(), &bytes[..], bytes.len() as u64) {
            prop_assert!(plan.start() >= HIGH_MEMORY_START && plan.end().0 <= RAM);
        }
    }
}
