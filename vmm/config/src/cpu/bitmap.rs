//! Which bits of a register a template sets, clears and keeps.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Changes to a register of `BITS` bits, at most 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bitmap<const BITS: u32> {
    /// Bits that become 1.
    set: u64,
    /// Bits that become 0. None of them is in `set`.
    clear: u64,
}

/// Text that is no bitmap.
#[derive(Debug, thiserror::Error)]
enum BitmapError {
    #[error(
        "No supported number system prefix found in value [{0}]. Make sure to prefix a bitmap with '0b'."
    )]
    NoPrefix(String),
    #[error("Failed to parse string [{text}] as a bitmap: {found:?} is none of 0, 1, x and _")]
    Character { text: String, found: char },
    #[error("Failed to parse string [{text}] as a bitmap: it has more than {bits} bits")]
    TooLong { text: String, bits: u32 },
}

impl<const BITS: u32> Bitmap<BITS> {
    /// All bits of the register.
    const ALL: u64 = u64::MAX >> (64 - BITS);

    /// Sets the bits of `set`, clears those of `clear`, keeps all others. What is in both is set.
    #[must_use]
    pub const fn new(set: u64, clear: u64) -> Self {
        Self {
            set: set & Self::ALL,
            clear: clear & Self::ALL & !set,
        }
    }

    /// Makes the whole register `value`.
    #[must_use]
    pub const fn exactly(value: u64) -> Self {
        Self::new(value, !value)
    }

    /// `value` with the changes made.
    #[must_use]
    pub const fn apply(self, value: u64) -> u64 {
        value & !self.clear | self.set
    }

    /// Bits that are not kept.
    #[must_use]
    pub const fn changed(self) -> u64 {
        self.set | self.clear
    }

    /// Bits that become 1.
    #[must_use]
    pub const fn set(self) -> u64 {
        self.set
    }

    fn parse(text: &str) -> Result<Self, BitmapError> {
        let Some(digits) = text.strip_prefix("0b") else {
            return Err(BitmapError::NoPrefix(shortened(text)));
        };
        let (mut set, mut clear, mut len) = (0, 0, 0);
        for digit in digits.chars().filter(|digit| *digit != '_') {
            if len == BITS {
                let text = shortened(text);
                return Err(BitmapError::TooLong { text, bits: BITS });
            }
            let (is_set, is_clear) = match digit {
                '0' => (0, 1),
                '1' => (1, 0),
                'x' => (0, 0),
                found => {
                    let text = shortened(text);
                    return Err(BitmapError::Character { text, found });
                }
            };
            (set, clear, len) = (set << 1 | is_set, clear << 1 | is_clear, len + 1);
        }
        Ok(Self { set, clear })
    }
}

impl Bitmap<32> {
    /// `value` with the changes made.
    #[must_use]
    pub fn apply_u32(self, value: u32) -> u32 {
        u32::try_from(self.apply(value.into())).expect("neither has a bit above 31")
    }
}

/// As much of a text as a message needs.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

impl<const BITS: u32> fmt::Display for Bitmap<BITS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0b")?;
        (0..BITS).rev().try_for_each(|bit| {
            f.write_str(match (self.set >> bit & 1, self.clear >> bit & 1) {
                (1, _) => "1",
                (_, 1) => "0",
                _ => "x",
            })
        })
    }
}

impl<const BITS: u32> Serialize for Bitmap<BITS> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const BITS: u32> Deserialize<'de> for Bitmap<BITS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}
