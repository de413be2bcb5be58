//! A client against servers that answer from a script.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use serde_json::json;

use super::*;

/// A path of its own for each test.
fn socket() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("api-client-{}-{number}.sock", std::process::id()))
}

/// Answers each connection with the next script, and returns what the clients sent.
fn serve(path: &Path, scripts: Vec<&'static str>) -> JoinHandle<String> {
    let listener = UnixListener::bind(path).unwrap();
    let path = path.to_owned();
    thread::spawn(move || {
        let mut received = String::new();
        for script in scripts {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(script.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            stream.read_to_string(&mut received).unwrap();
        }
        std::fs::remove_file(path).unwrap();
        received
    })
}

fn ask(script: &'static str) -> Result<Response, ClientError> {
    let path = socket();
    let server = serve(&path, vec![script]);
    let response = Client::connect(&path).unwrap().get("/", None);
    server.join().unwrap();
    response
}

#[test]
fn answers_follow_one_another_on_a_connection() {
    let path = socket();
    let script = "HTTP/1.1 204 \r\nServer: x\r\n\r\n\
        HTTP/1.1 400 Bad Request\r\ncontent-length: 22\r\n\r\n{\"fault_message\":\"no\"}";
    let server = serve(&path, vec![script]);
    let mut client = Client::connect(&path).unwrap();
    let done = client.put("/a", Some(&json!({"b": 1}))).unwrap();
    assert_eq!(
        (done.status, done.body.clone(), done.header("server")),
        (204, None, Some("x"))
    );
    let refused = client.delete("/c", None).unwrap();
    assert_eq!((refused.status, refused.fault()), (400, Some("no")));
    drop(client);
    let received = server.join().unwrap();
    assert!(received.starts_with("PUT /a HTTP/1.1\r\n"));
    assert!(received.contains("Content-Length: 7\r\n\r\n{\"b\":1}DELETE /c HTTP/1.1\r\n"));
}

#[test]
fn interim_answers_are_passed_over() {
    assert_eq!(
        ask("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 \r\n\r\n")
            .unwrap()
            .status,
        204
    );
}

#[test]
fn a_closed_connection_is_made_anew() {
    let path = socket();
    let last = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
    let server = serve(&path, vec![last, last]);
    let mut client = Client::connect(&path).unwrap();
    for _ in 0..2 {
        assert_eq!(client.get("/", None).unwrap().status, 204);
    }
    server.join().unwrap();
}

#[test]
fn what_is_not_an_answer_is_refused() {
    for script in [
        "HELLO\r\n\r\n",
        "HTTP/1.1 two\r\n\r\n",
        "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        assert!(
            matches!(ask(script), Err(ClientError::Malformed(_))),
            "{script:?}"
        );
    }
}

#[test]
fn an_answer_that_breaks_off_is_an_error() {
    for script in [
        "",
        "HTTP/1.1 20",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{",
    ] {
        assert!(
            matches!(ask(script), Err(ClientError::Broken(_))),
            "{script:?}"
        );
    }
}

#[test]
fn nobody_listening_is_told_within_the_limit() {
    let result = Client::connect_within("/nonexistent.sock", Duration::from_millis(5));
    assert!(matches!(result, Err(ClientError::Connect { .. })));
}

/// All that a client reads of the events in `script`.
fn events(script: &'static str) -> Vec<Result<Value, ClientError>> {
    let path = socket();
    let server = serve(&path, vec!["", script]);
    let client = Client::connect(&path).unwrap();
    // The first connection is the client's own.
    let own = client.stream.as_ref().unwrap().get_ref();
    own.shutdown(std::net::Shutdown::Write).unwrap();
    let events = client.events(7).unwrap().collect();
    let received = server.join().unwrap();
    assert!(received.starts_with("GET /events?since=7 HTTP/1.1\r\n"));
    events
}

macro_rules! chunked {
    ($body:literal) => {
        concat!("HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n", $body)
    };
}

#[test]
fn events_are_lines_wherever_chunks_begin() {
    let all = events(chunked!(
        "c\r\n{\"a\":1}\n{\"b\"\r\n3;x=y\r\n:2}\r\n1\r\n\n\r\n0\r\n\r\n"
    ));
    let all: Vec<Value> = all.into_iter().map(Result::unwrap).collect();
    assert_eq!(all, [json!({"a": 1}), json!({"b": 2})]);
}

#[test]
fn events_that_break_off_or_are_none_are_a_failure_and_then_the_end() {
    for script in [
        chunked!(""),
        chunked!("5\r\n{\"a\""),
        chunked!("3\r\n{\"a\r\n0\r\n\r\n"),
        chunked!("zebra\r\n"),
        chunked!("-1\r\n"),
        chunked!("2\r\nx\n\r\n"),
    ] {
        let all = events(script);
        assert_eq!(all.len(), 1, "{script:?}: {all:?}");
        assert!(all[0].is_err(), "{script:?}");
    }
}
