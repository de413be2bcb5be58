#![allow(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows has failed"
)]

use std::io::Cursor;

use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::elf::{PT_LOAD, SHT_SYMTAB};
use super::*;

const LINKED: u64 = 0xffff_ffff_8100_0000;
const LOADED: u64 = 0x100_0000;

/// An ELF file with one segment of 64 KiB and `symbols` of name, offset into it, length and type.
pub(super) fn image(symbols: &[(&str, u64, u64, u8)]) -> Vec<u8> {
    let mut names = vec![0];
    let mut table = vec![Entry::default()];
    for (name, offset, len, kind) in symbols {
        table.push(Entry {
            name: u32::try_from(names.len()).unwrap(),
            info: *kind,
            section: 1,
            value: LINKED + offset,
            len: *len,
            ..Entry::default()
        });
        names.extend_from_slice(name.as_bytes());
        names.push(0);
    }
    let sections_at = (size_of::<Header>() + size_of::<Program>()) as u64;
    let table_at = sections_at + 3 * size_of::<Section>() as u64;
    let table_len = table.as_slice().as_bytes().len() as u64;
    let header = Header {
        magic: MAGIC,
        class: CLASS_64_LITTLE,
        program_offset: size_of::<Header>() as u64,
        section_offset: sections_at,
        program_count: 1,
        section_count: 3,
        ..Header::default()
    };
    let program = Program {
        kind: PT_LOAD,
        linear: LINKED,
        physical: LOADED,
        memory_len: 0x1_0000,
        ..Program::default()
    };
    let symtab = Section {
        kind: SHT_SYMTAB,
        offset: table_at,
        len: table_len,
        link: 2,
        ..Section::default()
    };
    let strtab = Section {
        kind: 3,
        offset: table_at + table_len,
        len: names.len() as u64,
        ..Section::default()
    };
    [
        header.as_bytes(),
        program.as_bytes(),
        Section::default().as_bytes(),
        symtab.as_bytes(),
        strtab.as_bytes(),
        table.as_slice().as_bytes(),
        &names,
    ]
    .concat()
}

fn at(linear: u64) -> Query {
    Query {
        linear,
        physical: None,
    }
}

fn names(image: &[u8], queries: &[Query]) -> Vec<Option<Symbol>> {
    find(Cursor::new(image), queries).unwrap()
}

fn told(symbol: Option<&Option<Symbol>>) -> String {
    let symbol = symbol.unwrap().as_ref();
    symbol.map_or("-".to_owned(), |s| format!("{}+{:#x}", s.name, s.offset))
}

#[test]
fn an_address_has_the_name_that_starts_closest_before_it() {
    let image = image(&[
        ("start", 0, 0x100, STT_FUNC),
        ("data", 0x180, 8, 1),
        ("later", 0x200, 0, STT_NOTYPE),
        ("later_too", 0x200, 0x10, STT_FUNC),
    ]);
    let addresses = [0, 0xff, 0x1ff, 0x200, 0x2000, 0x1_0000];
    let named = names(&image, &addresses.map(|offset| at(LINKED + offset)));
    let told: Vec<_> = (0..addresses.len()).map(|i| told(named.get(i))).collect();
    let expected = [
        "start+0x0",
        "start+0xff",
        "start+0x1ff",
        "later_too+0x0",
        "later_too+0x1e00",
        "-",
    ];
    assert_eq!(told, expected);
    assert_eq!(names(&image, &[at(LINKED - 1)]), [None]);
}

#[test]
fn a_kernel_that_runs_elsewhere_is_named_by_where_it_was_loaded() {
    let image = image(&[("start", 0, 0x100, STT_FUNC)]);
    let moved = Query {
        linear: 0xffff_ffff_a500_0010,
        physical: Some(LOADED + 0x10),
    };
    let named = names(&image, &[moved]);
    assert_eq!(told(named.first()), "start+0x10");
    assert!(named[0].as_ref().unwrap().is_moved);
    let elsewhere = Query {
        physical: Some(LOADED - 1),
        ..moved
    };
    assert_eq!(names(&image, &[elsewhere]), [None]);
}

#[test]
fn names_are_short_and_printable() {
    let long = "x".repeat(500);
    let image = image(&[("\x1b[2J\n", 0, 1, STT_FUNC), (&long, 0x10, 1, STT_FUNC)]);
    let named = names(&image, &[at(LINKED), at(LINKED + 0x10)]);
    assert_eq!(named[0].as_ref().unwrap().name, "\\x1b[2J\\n");
    assert_eq!(named[1].as_ref().unwrap().name.len(), 128);
}

#[test]
fn other_files_say_why_there_are_no_names() {
    let refused = |image: &[u8]| find(Cursor::new(image), &[at(0)]).unwrap_err();
    assert!(matches!(refused(b"MZ"), NoSymbols::NotElf));
    assert!(matches!(refused(&[0; 4096]), NoSymbols::NotElf));
    let mut stripped = image(&[]);
    stripped[60..62].copy_from_slice(&0_u16.to_le_bytes());
    assert!(matches!(refused(&stripped), NoSymbols::Stripped));
    let mut many = image(&[]);
    many[60..62].copy_from_slice(&u16::MAX.to_le_bytes());
    assert!(matches!(refused(&many), NoSymbols::TooMany { .. }));
    let whole = image(&[("start", 0, 0x100, STT_FUNC)]);
    let cut = &whole[..whole.len() - 30];
    assert!(matches!(refused(cut), NoSymbols::Unreadable(_)));
}

proptest! {
    #[test]
    fn damage_is_refused_or_read_as_it_is(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        keep in any::<prop::sample::Index>(),
        linear: u64, physical: Option<u64>,
    ) {
        let mut image = image(&[("start", 0, 0x100, STT_FUNC), ("end", 0x100, 0, STT_NOTYPE)]);
        for (at, value) in changes {
            let len = image.len();
            image[at.index(len)] = value;
        }
        image.truncate(keep.index(image.len()) + 1);
        if let Ok(named) = find(Cursor::new(&image), &[Query { linear, physical }, at(LINKED)]) {
            prop_assert_eq!(named.len(), 2);
        }
    }
}
