//! What the guest hears: from a request to the bytes of its answer.

use std::fmt::Write;

use vm_config::{MmdsConfig, MmdsVersion};

use super::Mmds;
use super::http::Request;
use super::store::{Format, NoNode};
use super::token::{MAX_TTL_S, MIN_TTL_S};

/// Where tokens are made.
const TOKEN_PATH: &str = "/latest/api/token";

/// What the user said of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Which requests are answered.
    pub version: MmdsVersion,
    /// Answers are text, whatever a request accepts.
    pub is_imds_only: bool,
}

/// An answer before it is HTTP.
struct Answer {
    status: &'static str,
    content_type: &'static str,
    /// One more header, with the end of its line.
    header: String,
    body: Vec<u8>,
}

impl Rules {
    /// Those of `config`.
    #[must_use]
    pub fn of(config: &MmdsConfig) -> Self {
        Self {
            version: config.version,
            is_imds_only: config.imds_compat,
        }
    }
}

impl Answer {
    fn ok(content_type: &'static str, body: Vec<u8>) -> Self {
        Self {
            status: "200 OK",
            content_type,
            header: String::new(),
            body,
        }
    }

    fn refuse(status: &'static str, why: impl Into<String>) -> Self {
        Self {
            status,
            ..Self::ok("text/plain", why.into().into_bytes())
        }
    }

    fn bad_request(why: impl Into<String>) -> Self {
        Self::refuse("400 Bad Request", why)
    }

    fn not_found(path: &str) -> Self {
        Self::refuse("404 Not Found", format!("Resource not found: {path}."))
    }

    /// Appends it as HTTP.
    fn write(&self, is_last: bool, has_body: bool, out: &mut Vec<u8>) {
        let connection = if is_last { "close" } else { "keep-alive" };
        let Self {
            status,
            content_type,
            header,
            body,
        } = self;
        let head = format!(
            "HTTP/1.1 {status}\r\nServer: Firecracker API\r\nConnection: {connection}\r\n{header}\
             Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        out.extend_from_slice(head.as_bytes());
        if has_body {
            out.extend_from_slice(body);
        }
    }
}

impl Mmds {
    /// Appends the answer to `request` at `now_ms` of the monotonic clock.
    pub fn answer(&self, rules: Rules, request: &Request<'_>, now_ms: u64, out: &mut Vec<u8>) {
        let path = path_of(request.target);
        let answer = match (path, request.method) {
            (None, _) => Answer::bad_request("Invalid URI."),
            (Some(path), "GET") => self.read(rules, request, &path, now_ms),
            (Some(path), "PUT") => self.issue(request, &path, now_ms),
            (Some(_), _) => Answer {
                header: "Allow: GET, PUT\r\n".to_owned(),
                ..Answer::refuse("405 Method Not Allowed", "Not allowed HTTP method.")
            },
        };
        // What answers a HEAD has no body (RFC 9110 §9.3.2).
        answer.write(request.is_last, request.method != "HEAD", out);
    }

    /// Appends the answer to what is no request.
    pub fn answer_malformed(&self, why: &str, out: &mut Vec<u8>) {
        Answer::bad_request(why).write(true, true, out);
    }

    fn read(&self, rules: Rules, request: &Request<'_>, path: &str, now_ms: u64) -> Answer {
        let held = self.lock();
        let refused = match request.token {
            None => {
                self.metrics.rx_no_token.increment();
                Some(
                    "No MMDS token provided. Use `X-metadata-token` or `X-aws-ec2-metadata-token` to show one.",
                )
            }
            Some(token) if !held.tokens.is_valid(token, now_ms) => {
                self.metrics.rx_invalid_token.increment();
                Some("MMDS token not valid.")
            }
            Some(_) => None,
        };
        if let Some(why) = refused
            && rules.version == MmdsVersion::V2
        {
            return Answer::refuse("401 Unauthorized", why);
        }
        let (format, content_type) = if request.takes_json && !rules.is_imds_only {
            (Format::Json, "application/json")
        } else {
            (Format::Imds, "text/plain")
        };
        let mut body = Vec::new();
        match held.store.write_node(path, format, &mut body) {
            Ok(()) => Answer::ok(content_type, body),
            Err(NoNode::NotFound) => Answer::not_found(path),
            Err(NoNode::NotText) => Answer::refuse(
                "501 Not Implemented",
                "Cannot retrieve value. The value has an unsupported type.",
            ),
        }
    }

    fn issue(&self, request: &Request<'_>, path: &str, now_ms: u64) -> Answer {
        // A proxy must not fetch tokens for others.
        if request.is_forwarded {
            return Answer::bad_request(
                "Invalid header. Reason: Unsupported header name. Key: X-Forwarded-For.",
            );
        }
        if path != TOKEN_PATH {
            return Answer::not_found(path);
        }
        let Some((name, value)) = request.ttl else {
            return Answer::bad_request(
                "Token time to live value not found. Use `X-metadata-token-ttl-seconds` or \
                 `X-aws-ec2-metadata-token-ttl-seconds` to say how many seconds the token is to be good.",
            );
        };
        let Ok(ttl_s) = value.parse::<u32>() else {
            return Answer::bad_request(format!(
                "Invalid header. Reason: Invalid value. Key:{name}; Value:{value}"
            ));
        };
        if !(MIN_TTL_S..=MAX_TTL_S).contains(&ttl_s) {
            return Answer::bad_request(format!(
                "Invalid time to live value provided for token: {ttl_s}. Please provide a value between \
                 {MIN_TTL_S} and {MAX_TTL_S}."
            ));
        }
        match self.lock().tokens.issue(ttl_s, now_ms) {
            Ok(token) => {
                let mut header = String::new();
                // Writing to a string cannot fail.
                let _ = write!(header, "{name}: {ttl_s}\r\n");
                Answer {
                    header,
                    ..Answer::ok("text/plain", token.into_bytes())
                }
            }
            Err(_) => Answer::refuse(
                "503 Service Unavailable",
                "The host has no random bytes for a token yet. Try again.",
            ),
        }
    }
}

/// The path of `target`, without empty names: the node's place in the data. `None` when there is none.
fn path_of(target: &str) -> Option<String> {
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map(|slash| &rest[slash..])?,
        None => target.strip_prefix('/').map(|_| target)?,
    };
    let mut clean = String::with_capacity(path.len());
    for name in path.split('/').filter(|name| !name.is_empty()) {
        clean.push('/');
        clean.push_str(name);
    }
    Some(clean)
}

#[cfg(test)]
mod tests;
