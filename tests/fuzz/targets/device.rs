//! A driver that does whatever it likes to any device of the suite, on either transport.
#![no_main]

use fuzz::driver::drive;
use fuzz::kinds::Kind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some((kind, rest)) = input.split_first() {
        drive(Kind::of(*kind), rest);
    }
});
