//! The tests. To add one: a function in a file here, and its line in [`ALL`].

mod bench;

use anyhow::Result;

use crate::Bench;

/// One test.
pub struct Test {
    /// The function's name.
    pub name: &'static str,
    /// Seconds after which it has failed.
    pub timeout_s: u64,
    /// Fails with an error that explains itself.
    pub run: fn(&Bench) -> Result<()>,
}

/// A test takes its name from its function, so the two cannot differ.
macro_rules! tests {
    ($($module:ident::$name:ident $timeout_s:literal,)*) => {
        /// Every test, those that take longest first.
        pub const ALL: &[Test] = &[
            $(Test { name: stringify!($name), timeout_s: $timeout_s, run: $module::$name },)*
        ];
    };
}

tests! {
    bench::the_bench_is_complete 20,
}
