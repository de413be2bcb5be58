//! The checksum that test kernels print.

/// FNV-1a, 64 bits, as sixteen hexadecimal digits.
#[must_use]
pub fn fnv1a64(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{sum:016x}")
}
