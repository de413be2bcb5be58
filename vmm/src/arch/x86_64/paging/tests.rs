#![allow(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows has failed"
)]

use proptest::prelude::*;

use super::*;

const LONG: PagingRegisters = PagingRegisters {
    cr0: CR0_PG | 1,
    cr3: 0x1000,
    cr4: CR4_PAE,
    efer: EFER_LMA | EFER_NXE,
};
const TABLE: u64 = PRESENT | WRITABLE | USER;
/// Bits of a physical address in these tests.
const BITS: u32 = 40;

/// 64 KiB, with `entries` of 8 bytes.
fn memory(entries: &[(u64, u64)]) -> GuestMemory {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    for (at, value) in entries {
        memory.write_obj(*value, GuestAddress(*at)).unwrap();
    }
    memory
}

fn walk(memory: &GuestMemory, registers: PagingRegisters, linear: u64) -> Walk {
    PageTables::new(memory, &registers, BITS).walk(linear)
}

fn mapped(walk: Walk) -> Mapping {
    match walk {
        Walk::Mapped(mapping) => mapping,
        other => panic!("{other}"),
    }
}

/// Tables for 0xffff_8080_4020_1xxx, index 1 at the lower levels and 257 at the highest; the last entry is `leaf`.
fn four_levels(leaf: u64) -> GuestMemory {
    memory(&[
        (0x1000 + 257 * 8, 0x2000 | TABLE),
        (0x2008, 0x3000 | TABLE),
        (0x3008, 0x4000 | TABLE),
        (0x4008, leaf),
    ])
}

const LINEAR: u64 = 0xffff_8080_4020_1abc;

#[test]
fn four_levels_lead_to_a_page_with_the_rights_that_all_of_them_give() {
    let mapping = mapped(walk(&four_levels(0x5000 | TABLE), LONG, LINEAR));
    assert_eq!((mapping.address.0, mapping.page_len), (0x5abc, 4096));
    assert!(mapping.is_writable && mapping.is_user && mapping.is_executable && mapping.is_memory);
    let leaf = 0x5000 | PRESENT | NO_EXECUTE;
    let mapping = mapped(walk(&four_levels(leaf), LONG, LINEAR));
    assert!(!mapping.is_writable && !mapping.is_user && !mapping.is_executable);
}

#[test]
fn five_levels_start_one_table_higher() {
    let registers = PagingRegisters {
        cr3: 0x6000,
        cr4: CR4_PAE | CR4_LA57,
        ..LONG
    };
    let memory = four_levels(0x5000 | TABLE);
    let linear = 0x0005_8080_4020_1abc;
    memory
        .write_obj(0x1000 | TABLE, GuestAddress(0x6000 + 5 * 8))
        .unwrap();
    assert_eq!(mapped(walk(&memory, registers, linear)).address.0, 0x5abc);
    assert_eq!(walk(&memory, LONG, linear), Walk::NotCanonical);
    assert_eq!(walk(&memory, registers, 1 << 56), Walk::NotCanonical);
}

#[test]
fn large_pages_end_a_walk_early() {
    let memory = memory(&[
        (0x1000, 0x2000 | TABLE),
        (0x2008, 0x3_c000_0000 | TABLE | PAGE_SIZE),
        (0x2000, 0x3000 | TABLE),
        (0x3008, 0x60_0000 | TABLE | PAGE_SIZE | 1 << 12),
    ]);
    let mapping = mapped(walk(&memory, LONG, 0x4abc_def0));
    assert_eq!(
        (mapping.address.0, mapping.page_len),
        (0x3_cabc_def0, 1 << 30)
    );
    assert!(!mapping.is_memory);
    let mapping = mapped(walk(&memory, LONG, 0x2a_bcde));
    assert_eq!((mapping.address.0, mapping.page_len), (0x6a_bcde, 2 << 20));
}

#[test]
fn the_level_that_has_nothing_is_named() {
    let entry = |level, at, value| Entry {
        level,
        at: GuestAddress(at),
        value,
    };
    let gone = four_levels(0x5000);
    assert_eq!(
        walk(&gone, LONG, LINEAR),
        Walk::NotPresent(entry(1, 0x4008, 0x5000))
    );
    assert_eq!(
        walk(&gone, LONG, LINEAR + (1 << 30)),
        Walk::NotPresent(entry(3, 0x2010, 0))
    );
    assert_eq!(walk(&gone, LONG, 0), Walk::NotPresent(entry(4, 0x1000, 0)));
}

#[test]
fn reserved_bits_are_seen_at_each_level() {
    let is_reserved = |entries: &[(u64, u64)], registers, level| {
        let walk = walk(&memory(entries), registers, 0);
        matches!(walk, Walk::Reserved(entry) if entry.level == level)
    };
    let beyond = 1 << BITS;
    assert!(is_reserved(&[(0x1000, 0x2000 | TABLE | beyond)], LONG, 4));
    assert!(is_reserved(
        &[(0x1000, 0x2000 | TABLE | PAGE_SIZE)],
        LONG,
        4
    ));
    let first = (0x1000, 0x2000 | TABLE);
    assert!(is_reserved(
        &[first, (0x2000, TABLE | PAGE_SIZE | 1 << 13)],
        LONG,
        3
    ));
    let without = PagingRegisters {
        efer: EFER_LMA,
        ..LONG
    };
    assert!(is_reserved(
        &[(0x1000, 0x2000 | TABLE | NO_EXECUTE)],
        without,
        4
    ));
}

#[test]
fn a_table_outside_memory_is_named() {
    let memory = memory(&[(0x1000, 0x7_0000 | TABLE)]);
    assert_eq!(
        walk(&memory, LONG, 0x4000_0000),
        Walk::NoTable {
            level: 3,
            at: GuestAddress(0x7_0008)
        }
    );
    let lost = PagingRegisters {
        cr3: u64::MAX,
        ..LONG
    };
    assert!(matches!(
        walk(&memory, lost, 0),
        Walk::NoTable { level: 4, .. }
    ));
}

#[test]
fn without_paging_an_address_is_itself() {
    let off = PagingRegisters::default();
    let mapping = mapped(walk(&memory(&[]), off, 0xf_1234));
    assert_eq!((mapping.address.0, mapping.page_len), (0xf_1234, 0));
    assert!(!mapping.is_memory);
}

#[test]
fn pae_has_four_entries_at_the_top_that_give_no_rights() {
    let registers = PagingRegisters {
        cr3: 0x1020,
        efer: EFER_NXE,
        ..LONG
    };
    let entries = [
        (0x1020 + 3 * 8, 0x3000 | PRESENT),
        (0x3008, 0x4000 | TABLE),
        (0x4008, 0x5000 | TABLE),
    ];
    let mapping = mapped(walk(&memory(&entries), registers, 0xc020_1abc));
    assert_eq!(mapping.address.0, 0x5abc);
    assert!(mapping.is_writable && mapping.is_user);
    let reserved = [(0x1020 + 3 * 8, 0x3000 | TABLE)];
    assert!(matches!(
        walk(&memory(&reserved), registers, 0xc020_1abc),
        Walk::Reserved(Entry { level: 3, .. })
    ));
}

#[test]
fn entries_of_32_bit_paging_have_4_bytes_and_pages_of_4_mib() {
    let registers = PagingRegisters {
        cr4: CR4_PSE,
        efer: 0,
        ..LONG
    };
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    let put = |at, value: u32| memory.write_obj(value, GuestAddress(at)).unwrap();
    put(0x1004, 0x2007);
    put(0x2008, 0x3007);
    put(0x1008, 0x0080_0087 | 1 << 13);
    assert_eq!(
        mapped(walk(&memory, registers, 0x40_2abc)).address.0,
        0x3abc
    );
    let mapping = mapped(walk(&memory, registers, 0x81_2345));
    assert_eq!(
        (mapping.address.0, mapping.page_len),
        (0x1_0081_2345, 4 << 20)
    );
    put(0x1008, 0x0080_0087 | 1 << 21);
    assert!(matches!(
        walk(&memory, registers, 0x81_2345),
        Walk::Reserved(Entry { level: 2, .. })
    ));
}

#[test]
fn a_table_that_names_itself_ends_after_as_many_levels() {
    let memory = memory(&[(0x1000, 0x1000 | TABLE)]);
    assert_eq!(mapped(walk(&memory, LONG, 0x12)).address.0, 0x1012);
}

proptest! {
    #[test]
    fn no_table_makes_a_walk_fail(
        cr0: u64, cr3 in 0_u64..0x2_0000, cr4: u64, efer: u64, bits: u32,
        entries in prop::collection::vec((0_u64..0x2000, any::<u64>()), 0..64),
        linear: u64,
    ) {
        let entries: Vec<_> = entries.iter().map(|(at, value)| (at * 8 % 0xfff8, *value)).collect();
        let memory = memory(&entries);
        let registers = PagingRegisters { cr0, cr3, cr4, efer };
        let walk = PageTables::new(&memory, &registers, bits).walk(linear);
        if let Walk::Mapped(mapping) = walk {
            prop_assert!(mapping.address.0 < 1 << 52);
        }
        prop_assert!(walk.to_string().len() < 200);
    }
}
