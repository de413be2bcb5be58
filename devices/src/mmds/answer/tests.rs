//! Requests and their answers, row by row of the interface.

use serde_json::json;

use super::*;
use crate::mmds::http::{Parsed, parse};

const V1: Rules = Rules {
    version: MmdsVersion::V1,
    is_imds_only: false,
};
const V2: Rules = Rules {
    version: MmdsVersion::V2,
    is_imds_only: false,
};
const TOKEN: &str = "/latest/api/token";

fn service() -> Mmds {
    let mmds = Mmds::default();
    mmds.put(
        json!({"latest": {"name": "vm", "n": 1, "list": [true], "none": null, "more": {"a": "b"}}}),
    )
    .unwrap();
    mmds
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Sends one request with `headers`, each with the end of its line.
fn ask(mmds: &Mmds, rules: Rules, line: &str, headers: &str, now_ms: u64) -> Reply {
    let text = format!("{line} HTTP/1.1\r\n{headers}\r\n");
    let Parsed::Whole(request, _) = parse(text.as_bytes()) else {
        panic!("{text:?} is no request");
    };
    let mut out = Vec::new();
    mmds.answer(rules, &request, now_ms, &mut out);
    let out = String::from_utf8(out).unwrap();
    let (head, body) = out.split_once("\r\n\r\n").unwrap();
    let reply = Reply {
        status: head["HTTP/1.1 ".len()..][..3].parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    };
    if !line.starts_with("HEAD") {
        assert_eq!(
            reply.header("Content-Length").unwrap(),
            body.len().to_string()
        );
    }
    reply
}

fn get(rules: Rules, path: &str, headers: &str) -> (u16, String) {
    let reply = ask(&service(), rules, &format!("GET {path}"), headers, 0);
    (reply.status, reply.body)
}

fn put(path: &str, headers: &str) -> (u16, String) {
    let reply = ask(&service(), V1, &format!("PUT {path}"), headers, 0);
    (reply.status, reply.body)
}

fn answered(status: u16, body: &str) -> (u16, String) {
    (status, body.to_owned())
}

#[test]
fn nodes_come_as_text_or_as_json() {
    const JSON: &str = "Accept: application/json\r\n";
    let all = "list\nmore/\nn\nname\nnone";
    for path in [
        "/latest",
        "/latest/",
        "//latest//",
        "http://169.254.169.254/latest",
    ] {
        assert_eq!(get(V1, path, ""), answered(200, all), "{path}");
    }
    assert_eq!(get(V1, "/", "Accept: */*\r\n"), answered(200, "latest/"));
    assert_eq!(get(V1, "/latest/name", ""), answered(200, "vm"));
    assert_eq!(get(V1, "/latest/name", JSON), answered(200, "\"vm\""));
    assert_eq!(get(V1, "/latest/more", JSON), answered(200, r#"{"a":"b"}"#));
    assert_eq!(get(V1, "/latest/none", JSON), answered(200, "null"));
    let reply = ask(&service(), V1, "GET /latest", JSON, 0);
    assert_eq!(reply.header("Content-Type"), Some("application/json"));
}

#[test]
fn imds_answers_are_text_whatever_is_accepted() {
    let rules = Rules {
        is_imds_only: true,
        ..V1
    };
    let reply = ask(
        &service(),
        rules,
        "GET /latest/more",
        "Accept: application/json\r\n",
        0,
    );
    assert_eq!(
        (reply.body.as_str(), reply.header("Content-Type")),
        ("a", Some("text/plain"))
    );
}

#[test]
fn what_is_not_there_or_no_text_is_refused() {
    assert_eq!(
        get(V1, "/latest/x/", ""),
        answered(404, "Resource not found: /latest/x.")
    );
    let unsupported = "Cannot retrieve value. The value has an unsupported type.";
    for name in ["n", "list", "list/0", "none"] {
        assert_eq!(
            get(V1, &format!("/latest/{name}"), ""),
            answered(501, unsupported)
        );
    }
    for target in ["http://169.254.169.254", "latest", "*"] {
        assert_eq!(
            get(V1, target, ""),
            answered(400, "Invalid URI."),
            "{target}"
        );
    }
}

#[test]
fn other_methods_hear_which_there_are() {
    for method in ["POST", "PATCH", "DELETE", "OPTIONS", "get"] {
        let reply = ask(&service(), V2, &format!("{method} /latest"), "", 0);
        assert_eq!(
            (reply.status, reply.body.as_str()),
            (405, "Not allowed HTTP method.")
        );
        assert_eq!(reply.header("Allow"), Some("GET, PUT"));
    }
    let reply = ask(&service(), V2, "HEAD /latest", "", 0);
    assert_eq!((reply.status, reply.body.as_str()), (405, ""));
}

#[test]
fn tokens_open_version_2_until_they_expire() {
    let mmds = service();
    for name in ["X-metadata-token", "X-aws-ec2-metadata-token"] {
        let ttl = format!("{name}-ttl-seconds");
        let reply = ask(
            &mmds,
            V2,
            &format!("PUT {TOKEN}"),
            &format!("{ttl}: 2\r\n"),
            5000,
        );
        assert_eq!((reply.status, reply.header(&ttl)), (200, Some("2")));
        assert_eq!(reply.header("Content-Type"), Some("text/plain"));
        let show = format!("{}: {}\r\n", name.to_uppercase(), reply.body);
        let read = |now_ms| ask(&mmds, V2, "GET /latest/name", &show, now_ms);
        assert_eq!(read(6999).body, "vm");
        let late = read(7000);
        assert_eq!(
            (late.status, late.body.as_str()),
            (401, "MMDS token not valid.")
        );
    }
    let (status, why) = get(V2, "/latest/x", "");
    assert!(
        status == 401 && why.starts_with("No MMDS token provided. Use "),
        "{why}"
    );
    assert_eq!(
        get(V2, "/latest", "X-metadata-token: nonsense\r\n"),
        answered(401, "MMDS token not valid.")
    );
}

#[test]
fn version_1_only_counts_tokens() {
    let mmds = service();
    let read = |headers| ask(&mmds, V1, "GET /latest/name", headers, 0).status;
    assert_eq!(read(""), 200);
    assert_eq!(read("X-metadata-token: nonsense\r\n"), 200);
    let metrics = mmds.metrics();
    assert_eq!(metrics.rx_no_token.get(), 1);
    assert_eq!(metrics.rx_invalid_token.get(), 1);
}

#[test]
fn odd_requests_for_tokens_hear_why() {
    const TTL: &str = "X-metadata-token-ttl-seconds";
    let refused = |headers: &str| {
        let (status, why) = put(TOKEN, headers);
        assert_eq!(status, 400, "{why}");
        why
    };
    assert!(refused("").starts_with("Token time to live value not found. Use "));
    for ttl in ["0", "21601", "4294967295"] {
        assert_eq!(
            refused(&format!("{TTL}: {ttl}\r\n")),
            format!(
                "Invalid time to live value provided for token: {ttl}. Please provide a value between 1 and 21600."
            )
        );
    }
    for ttl in ["", "-1", "4294967296", "1.5", "x"] {
        assert_eq!(
            refused(&format!("{TTL}: {ttl}\r\n")),
            format!("Invalid header. Reason: Invalid value. Key:{TTL}; Value:{ttl}")
        );
    }
    let forwarded = format!("{TTL}: 1\r\nx-forwarded-for: 1.2.3.4\r\n");
    assert!(refused(&forwarded).contains("Unsupported header name"));
    assert_eq!(put("/latest", "").0, 404);
    for ttl in ["1", "21600"] {
        assert_eq!(put(TOKEN, &format!("{TTL}: {ttl}\r\n")).0, 200);
    }
}
