//! Reading an answer.

use std::io::{BufRead, Read};

use serde_json::Value;

use crate::ClientError;

/// The most of a status line or header that is read, in bytes.
const MAX_LINE_BYTES: u64 = 8 << 10;
/// The most headers that are read.
const MAX_HEADERS: usize = 64;
/// The largest body that is read, in bytes.
const MAX_BODY_BYTES: u64 = 16 << 20;

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// The status: 200 or 204 when it went well.
    pub status: u16,
    /// The headers in their order, names as sent.
    pub headers: Vec<(String, String)>,
    /// The body, if there is one; what is not JSON is a text.
    pub body: Option<Value>,
}

impl Response {
    /// The value of the header `name`, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Why the request was refused, if it was.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.body.as_ref()?.get("fault_message")?.as_str()
    }

    /// What says that it is another type is text.
    fn decode(&self, body: &[u8]) -> Result<Value, ClientError> {
        match self.header("content-type") {
            Some(other) if !other.starts_with("application/json") => {
                let text = std::str::from_utf8(body);
                let text =
                    text.map_err(|_| ClientError::Malformed("a body that is no text".to_owned()));
                Ok(Value::from(text?))
            }
            _ => Ok(serde_json::from_slice(body)?),
        }
    }

    /// Whether the request was done.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Reads one answer, and whether it is the last of the connection. Interim answers (1xx) are passed over.
pub(crate) fn read(stream: &mut impl BufRead) -> Result<(Response, bool), ClientError> {
    let mut response = read_head(stream)?;
    while (100..200).contains(&response.status) {
        response = read_head(stream)?;
    }
    if let Some(len) = content_length(&response)? {
        let mut body = vec![0; len];
        stream.read_exact(&mut body)?;
        response.body = (!body.is_empty())
            .then(|| response.decode(&body))
            .transpose()?;
    }
    let is_last = response
        .header("connection")
        .is_some_and(|v| v.eq_ignore_ascii_case("close"));
    Ok((response, is_last))
}

pub(crate) fn read_head(stream: &mut impl BufRead) -> Result<Response, ClientError> {
    let line = read_line(stream)?;
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| ClientError::Malformed(format!("status line {line:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream)?;
        if line.is_empty() {
            return Ok(Response {
                status,
                headers,
                body: None,
            });
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| ClientError::Malformed(format!("header {line:?}")))?;
        headers.push((name.to_owned(), value.trim().to_owned()));
        if headers.len() > MAX_HEADERS {
            return Err(ClientError::Malformed("too many headers".to_owned()));
        }
    }
}

pub(crate) fn read_line(stream: &mut impl BufRead) -> Result<String, ClientError> {
    let mut line = Vec::new();
    stream.take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        let missing = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        return Err(ClientError::Broken(missing));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| ClientError::Malformed("a header is not text".to_owned()))
}

fn content_length(response: &Response) -> Result<Option<usize>, ClientError> {
    if response.header("transfer-encoding").is_some() {
        return Err(ClientError::Malformed(
            "a transfer encoding is not expected".to_owned(),
        ));
    }
    let Some(text) = response.header("content-length") else {
        return Ok(None);
    };
    let len: u64 = text
        .parse()
        .map_err(|_| ClientError::Malformed(format!("content length {text:?}")))?;
    match usize::try_from(len) {
        Ok(bytes) if len <= MAX_BODY_BYTES => Ok(Some(bytes)),
        _ => Err(ClientError::Malformed(format!("a body of {len} bytes"))),
    }
}
