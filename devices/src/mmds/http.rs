//! Requests of a guest, taken apart (RFC 9112). Heads are `httparse`'s work: it bounds nothing but reads nothing twice,
//! and what it is given is never longer than [`MAX_REQUEST`].

#![deny(clippy::arithmetic_side_effects)]

use httparse::{EMPTY_HEADER, Status};

/// The longest request with its body, in bytes.
pub const MAX_REQUEST: usize = 2500;
/// Headers of a request; each costs a guest four bytes at least.
const MAX_HEADERS: usize = 100;

/// What a guest asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// As sent, case and all.
    pub method: &'a str,
    /// As sent: a path, or all of `http://host/path`.
    pub target: &'a str,
    /// JSON is accepted.
    pub takes_json: bool,
    /// How long a token is to live: the header's name, and what it says.
    pub ttl: Option<(&'a str, &'a str)>,
    /// The token that is shown.
    pub token: Option<&'a str>,
    /// Somebody passed it on for somebody else.
    pub is_forwarded: bool,
    /// No other request follows on its connection.
    pub is_last: bool,
}

/// What there is so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// The beginning of a request.
    Partial,
    /// A request, and how many bytes it is with its body.
    Whole(Request<'a>, usize),
    /// No request of HTTP/1.x; where the next would begin is not known.
    Malformed(&'static str),
    /// It will be longer than [`MAX_REQUEST`].
    TooLong,
}

/// Looks at the start of `bytes`.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed<'_> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let head_len = match head.parse(bytes) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) if bytes.len() >= MAX_REQUEST => return Parsed::TooLong,
        Ok(Status::Partial) => return Parsed::Partial,
        Err(httparse::Error::Version) => return Parsed::Malformed("Unsupported HTTP version."),
        Err(httparse::Error::TooManyHeaders) => return Parsed::Malformed("Too many headers."),
        Err(_) => return Parsed::Malformed("Invalid request."),
    };
    let (Some(method), Some(target), Some(minor)) = (head.method, head.path, head.version) else {
        return Parsed::Malformed("Invalid request.");
    };
    let body = match body_len(head.headers) {
        Ok(len) => len,
        Err(why) => return Parsed::Malformed(why),
    };
    let len = head_len.saturating_add(body);
    if len > MAX_REQUEST {
        return Parsed::TooLong;
    }
    if len > bytes.len() {
        return Parsed::Partial;
    }
    Parsed::Whole(request(method, target, minor, head.headers), len)
}

fn request<'a>(
    method: &'a str,
    target: &'a str,
    minor: u8,
    headers: &[httparse::Header<'a>],
) -> Request<'a> {
    let mut request = Request {
        method,
        target,
        takes_json: false,
        ttl: None,
        token: None,
        is_forwarded: false,
        is_last: minor == 0,
    };
    for header in headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        // What is no text is no value that means anything here.
        let value = std::str::from_utf8(header.value)
            .unwrap_or("\u{fffd}")
            .trim();
        if is("Accept") {
            request.takes_json |= has_word(value, "application/json");
        } else if is("X-metadata-token-ttl-seconds") || is("X-aws-ec2-metadata-token-ttl-seconds") {
            request.ttl = Some((header.name, value));
        } else if is("X-metadata-token") || is("X-aws-ec2-metadata-token") {
            request.token = Some(value);
        } else if is("X-Forwarded-For") {
            request.is_forwarded = true;
        } else if is("Connection") && has_word(value, "close") {
            request.is_last = true;
        } else if is("Connection") && has_word(value, "keep-alive") {
            request.is_last = false;
        }
    }
    request
}

/// Bytes of the body that `headers` announce.
fn body_len(headers: &[httparse::Header<'_>]) -> Result<usize, &'static str> {
    let mut announced = None;
    for header in headers {
        if header.name.eq_ignore_ascii_case("Transfer-Encoding") {
            return Err("Transfer-Encoding is not supported; send Content-Length.");
        }
        if !header.name.eq_ignore_ascii_case("Content-Length") {
            continue;
        }
        let text = std::str::from_utf8(header.value).unwrap_or_default().trim();
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number || announced.is_some() {
            return Err("Invalid header. Reason: Invalid value. Key:Content-Length.");
        }
        // A number too large for any type is too large.
        announced = Some(text.parse().unwrap_or(usize::MAX));
    }
    Ok(announced.unwrap_or(0))
}

/// Whether the list `value` has `word`, with parameters or without (RFC 9110 §5.6.1, §5.6.6).
fn has_word(value: &str, word: &str) -> bool {
    value
        .split(',')
        .filter_map(|element| element.split(';').next())
        .any(|element| element.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Request<'_> {
        match parse(text.as_bytes()) {
            Parsed::Whole(request, len) if len == text.len() => request,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn a_request_is_partial_until_it_is_whole() {
        let text = "PUT /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
        for len in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..len]), Parsed::Partial, "{len}");
        }
        assert_eq!(whole(text).target, "/a");
        let both = format!("{text}GET /b HTTP/1.1\r\n\r\n");
        assert!(matches!(parse(both.as_bytes()), Parsed::Whole(_, len) if len == text.len()));
    }

    #[test]
    fn headers_are_found_whatever_their_case() {
        let request = whole(concat!(
            "GET /x HTTP/1.1\nACCEPT: text/html, Application/JSON;q=0.5\n",
            "x-AWS-ec2-metadata-token:  t \nx-forwarded-for: 1.2.3.4\n\n"
        ));
        assert!(request.takes_json && request.is_forwarded && !request.is_last);
        assert_eq!(request.token, Some("t"));
        let request = whole("PUT / HTTP/1.1\r\nx-metadata-token-TTL-seconds: 5\r\n\r\n");
        assert_eq!(request.ttl, Some(("x-metadata-token-TTL-seconds", "5")));
        assert!(!request.takes_json && request.token.is_none());
        let request = whole("GET / HTTP/1.1\r\nX-metadata-token: \u{e9}\r\n\r\n");
        assert_eq!(request.token, Some("\u{e9}"));
    }

    #[test]
    fn connections_end_when_http_says_so() {
        for (text, is_last) in [
            ("GET / HTTP/1.1\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nConnection: TE, close\r\n\r\n", true),
            ("GET / HTTP/1.0\r\n\r\n", true),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", false),
        ] {
            assert_eq!(whole(text).is_last, is_last, "{text}");
        }
    }

    #[test]
    fn what_is_no_request_is_malformed() {
        for text in [
            "GET / HTTP/2.0\r\n\r\n",
            "GET\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "\0",
            "GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(
                matches!(parse(text.as_bytes()), Parsed::Malformed(_)),
                "{text}"
            );
        }
    }

    #[test]
    fn length_has_its_limit() {
        let head = "GET / HTTP/1.1\r\nContent-Length: ";
        let body = MAX_REQUEST - head.len() - "2450\r\n\r\n".len();
        let longest = format!("{head}{body}\r\n\r\n{}", "b".repeat(body));
        assert_eq!(longest.len(), MAX_REQUEST);
        whole(&longest);
        let longer = format!("{head}{}\r\n\r\n", body + 1);
        assert_eq!(parse(longer.as_bytes()), Parsed::TooLong);
        let huge = format!("{head}{}\r\n\r\n", "9".repeat(40));
        assert_eq!(parse(huge.as_bytes()), Parsed::TooLong);
        let endless = "GET /".to_owned() + &"a".repeat(MAX_REQUEST - 5);
        assert_eq!(parse(endless.as_bytes()), Parsed::TooLong);
    }
}
