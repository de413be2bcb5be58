//! 64-bit values behind registers of 32 bits: features, and where a queue's rings are (virtio 1.2 §4.1.4.3, §4.2.2).

/// The lower half of `word`.
pub(super) fn low(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Replaces the lower half of `word`.
pub(super) fn set_low(word: &mut u64, value: u32) {
    *word = u64::from(low(*word >> 32)) << 32 | u64::from(value);
}

/// Replaces the upper half of `word`.
pub(super) fn set_high(word: &mut u64, value: u32) {
    *word = u64::from(value) << 32 | u64::from(low(*word));
}
