//! 32-bit numbers as templates write them: `0x` or `0b` in front, in a string.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
pub(super) fn serialize<S: Serializer>(number: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{number:#x}"))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    let shown: String = text.chars().take(80).collect();
    let (digits, radix) = if let Some(digits) = text.strip_prefix("0x") {
        (digits, 16)
    } else if let Some(digits) = text.strip_prefix("0b") {
        (digits, 2)
    } else {
        return Err(D::Error::custom(format_args!(
            "No supported number system prefix found in value [{shown}]. Make sure to prefix the number with '0x' for hexadecimal numbers or '0b' for binary numbers."
        )));
    };
    // A sign would parse, and is no digit.
    let parsed = u32::from_str_radix(digits, radix).ok();
    parsed
        .filter(|_| !digits.starts_with('+'))
        .ok_or_else(|| {
            D::Error::custom(format_args!(
                "Failed to parse string [{shown}] as a number for CPU template; give at most 32 bits in digits of base {radix}"
            ))
        })
}
