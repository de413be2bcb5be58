//! Page tables of any content below any control registers: each walk ends, and what it says fits a line.
#![no_main]

use devices::GuestMemory;
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress};
use vmm::arch::x86_64::paging::{PageTables, PagingRegisters, Walk};

const MEMORY: usize = 64 << 10;
/// Registers, bits of an address, and the address: 8 bytes each.
const HEAD: usize = 6;

fuzz_target!(|input: &[u8]| {
    let Some((head, tables)) = input.split_at_checked(8 * HEAD) else {
        return;
    };
    let mut words = head
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("a chunk has 8 bytes")));
    let mut next = || words.next().expect("there are six");
    let registers = PagingRegisters {
        cr0: next(),
        cr3: next(),
        cr4: next(),
        efer: next(),
    };
    let (bits, linear) = (next(), next());
    let memory =
        GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("the host has memory");
    let tables = &tables[..tables.len().min(MEMORY)];
    memory
        .write_slice(tables, GuestAddress(0))
        .expect("it fits");
    let bits = u32::try_from(bits & 0xff).expect("it is a byte");
    let walk = PageTables::new(&memory, &registers, bits).walk(linear);
    if let Walk::Mapped(mapping) = walk {
        assert!(mapping.address.0 < 1 << 52, "{mapping:?}");
        assert_eq!(mapping.is_memory, mapping.address.0 < MEMORY as u64);
    }
    assert!(walk.to_string().len() < 200);
});
