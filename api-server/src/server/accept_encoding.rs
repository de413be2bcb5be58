//! `Accept-Encoding` (RFC 9110 §12.5.3): answers are never encoded, so a client may not forbid that.

use hyper::header::HeaderValue;

use crate::error::ApiError;

/// Refuses a request whose answer would have to be encoded: one that gives `identity`, or all encodings and with
/// them `identity`, the weight 0.
pub(super) fn check<'a>(values: impl Iterator<Item = &'a HeaderValue>) -> Result<(), ApiError> {
    let (mut identity, mut any) = (None, None);
    for value in values {
        // What is not text names no encoding that is known here.
        for item in value.to_str().unwrap_or_default().split(',') {
            let (name, weight) = item.split_once(';').unwrap_or((item, ""));
            let slot = match name.trim().to_ascii_lowercase().as_str() {
                "identity" => &mut identity,
                "*" => &mut any,
                _ => continue,
            };
            *slot = Some(is_zero(weight)).max(*slot);
        }
    }
    match identity.or(any) {
        Some(true) => Err(ApiError::Malformed(
            "Invalid value. Key:Accept-Encoding; leave it out or let it take `identity`, for answers are never encoded."
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

/// Whether `weight` is `q=0`, with or without zeros behind a point.
fn is_zero(weight: &str) -> bool {
    let weight: String = weight.split_whitespace().collect();
    let number = weight.strip_prefix("q=").or(weight.strip_prefix("Q="));
    number.is_some_and(|number| number.parse() == Ok(0.0_f32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_forbids_a_plain_answer_is_refused() {
        for (value, is_refused) in [
            ("", false),
            ("gzip", false),
            ("gzip;q=0", false),
            ("identity", false),
            ("identity;q=0.1", false),
            ("identity;q=0", true),
            ("gzip, Identity ; q=0.000", true),
            ("*;q=0", true),
            ("gzip, *;q=0", true),
            ("identity, *;q=0", false),
            ("identity;q=0, *", true),
            ("identity;q=nonsense", false),
        ] {
            let value = HeaderValue::from_static(value);
            let refused = check([&value].into_iter()).is_err();
            assert_eq!(refused, is_refused, "{value:?}");
        }
    }
}
