//! Page numbers, hints, reports and statistics of a driver, and the host's commands between them.
#![no_main]

use fuzz::driver::drive;
use fuzz::kinds::Kind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| drive(Kind::Balloon, input));
