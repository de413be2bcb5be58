//! Kernel files of which somebody wants to know names: refused, or as many answers as questions, short and printable.
#![no_main]

use fuzz::file;
use libfuzzer_sys::fuzz_target;
use vmm::diagnosis::symbols::{Query, find};

fuzz_target!(|input: &[u8]| {
    let addresses = [0, 0x10_0000, 0x100_0000, 0xffff_ffff_8100_0010, u64::MAX];
    let queries = addresses.map(|linear| Query {
        linear,
        physical: Some(linear & 0xff_ffff),
    });
    if let Ok(symbols) = find(file::holding(input), &queries) {
        assert_eq!(symbols.len(), queries.len());
        for symbol in symbols.into_iter().flatten() {
            assert!(symbol.name.len() <= 4 * 128, "{symbol:?}");
            assert!(
                symbol
                    .name
                    .bytes()
                    .all(|byte| (b' '..=b'~').contains(&byte))
            );
        }
    }
});
