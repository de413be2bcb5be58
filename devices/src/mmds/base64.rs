//! Base64 (RFC 4648 §4) of what needs no padding: whole groups of three bytes.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Encodes `bytes`, a multiple of three.
pub(super) fn encode(bytes: &[u8]) -> String {
    debug_assert!(bytes.len().is_multiple_of(3), "a token has whole groups");
    let (groups, _) = bytes.as_chunks::<3>();
    let digits = groups.iter().flat_map(|&[a, b, c]| {
        let bits = u32::from_be_bytes([0, a, b, c]);
        [bits >> 18, bits >> 12, bits >> 6, bits].map(|six| ALPHABET[(six & 63) as usize])
    });
    digits.map(char::from).collect()
}

/// Decodes exactly `LEN` bytes, a multiple of three.
pub(super) fn decode<const LEN: usize>(text: &str) -> Option<[u8; LEN]> {
    let (groups, rest) = text.as_bytes().as_chunks::<4>();
    let mut bytes = [0; LEN];
    let (places, _) = bytes.as_chunks_mut::<3>();
    if groups.len() != places.len() || !rest.is_empty() {
        return None;
    }
    for (group, place) in groups.iter().zip(places) {
        let mut bits = 0;
        for digit in group {
            bits = bits << 6 | value(*digit)?;
        }
        let [_, a, b, c] = bits.to_be_bytes();
        *place = [a, b, c];
    }
    Some(bytes)
}

fn value(digit: u8) -> Option<u32> {
    let (first, from) = match digit {
        b'A'..=b'Z' => (b'A', 0),
        b'a'..=b'z' => (b'a', 26),
        b'0'..=b'9' => (b'0', 52),
        b'+' => (b'+', 62),
        b'/' => (b'/', 63),
        _ => return None,
    };
    Some(u32::from(digit - first) + from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_the_rfc_comes_out_and_goes_back() {
        assert_eq!(encode(b"foobar"), "Zm9vYmFy");
        assert_eq!(decode::<6>("Zm9vYmFy"), Some(*b"foobar"));
        let all: Vec<u8> = (0..=254).collect();
        assert_eq!(decode::<255>(&encode(&all)).unwrap(), all[..]);
    }

    #[test]
    fn what_is_not_exactly_that_is_refused() {
        for odd in [
            "",
            "Zm9v",
            "Zm9vYmF",
            "Zm9vYmF=",
            "Zm9vYmFyZm9v",
            "Zm9vY FyZ",
            "Zm9v-mFy",
        ] {
            assert_eq!(decode::<6>(odd), None, "{odd}");
        }
    }
}
