//! Requests to plug and unplug memory, and the host's wishes between them: no block is plugged twice.
#![no_main]

use fuzz::driver::drive;
use fuzz::kinds::Kind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| drive(Kind::Mem, input));
