//! `GET /events` as HTTP: streams, their number, and what they leave of the connections. What they tell is tested with a
//! microVM.

use std::thread::sleep;

use super::transport::VERSION;
use super::*;
use crate::server::seats::{MAX_CONNECTIONS, MAX_STREAMS};

const EVENTS: &str = "GET /events HTTP/1.1\r\n\r\n";

fn head_of(stream: &mut Stream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn stream_of(server: &TestServer) -> Stream {
    let mut stream = server.connect();
    stream.write_all(EVENTS.as_bytes()).unwrap();
    let head = head_of(&mut stream);
    assert_eq!(
        head,
        "HTTP/1.1 200 \r\nServer: Firecracker API\r\nConnection: close\r\n\
         Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream
}

#[test]
fn streams_begin_at_once_and_take_no_connection_from_others() {
    let server = TestServer::in_state(Lifecycle::Running);
    let mut streams: Vec<Stream> = (0..MAX_STREAMS).map(|_| stream_of(&server)).collect();
    let (status, _, body) = server.ask(EVENTS);
    assert_eq!(status, 503);
    assert_eq!(body.unwrap()["code"], "too_many_streams");
    let mut others: Vec<Stream> = (0..MAX_CONNECTIONS).map(|_| server.connect()).collect();
    for other in &mut others {
        other.write_all(VERSION.as_bytes()).unwrap();
        assert_eq!(read_answer(other).0, 200);
    }
    assert_eq!(read_answer(&mut server.connect()).0, 503);
    drop(others);
    streams.pop();
    // Both are free once the server has seen them go.
    let is_free = (0..500).any(|_| {
        sleep(Duration::from_millis(2));
        let mut stream = server.connect();
        stream.write_all(EVENTS.as_bytes()).is_ok()
            && head_of(&mut stream).starts_with("HTTP/1.1 200")
    });
    assert!(is_free);
}

#[test]
fn only_one_query_is_known_and_only_here() {
    let server = TestServer::in_state(Lifecycle::Running);
    for (path, code) in [
        ("/events?since=", "unknown_query"),
        ("/events?since=-1", "unknown_query"),
        ("/events?since=99999999999999999999", "unknown_query"),
        ("/events?after=1", "unknown_query"),
        ("/events?", "unknown_query"),
        ("/version?since=1", "unknown_path"),
    ] {
        let (status, _, body) = server.ask(&format!("GET {path} HTTP/1.1\r\n\r\n"));
        assert_eq!(
            (status, body.unwrap()["code"].as_str().unwrap()),
            (400, code),
            "{path}"
        );
    }
    let mut stream = server.connect();
    let max = u64::MAX;
    stream
        .write_all(format!("GET /events?since={max} HTTP/1.1\r\n\r\n").as_bytes())
        .unwrap();
    assert!(head_of(&mut stream).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_client_that_said_more_than_its_request_and_left_keeps_no_stream() {
    let server = TestServer::in_state(Lifecycle::Running);
    for _ in 0..MAX_STREAMS {
        let mut stream = server.connect();
        stream
            .write_all(format!("{EVENTS}\r\nGET").as_bytes())
            .unwrap();
        assert!(head_of(&mut stream).starts_with("HTTP/1.1 200"));
    }
    let is_free = (0..500).any(|_| {
        sleep(Duration::from_millis(2));
        let mut stream = server.connect();
        stream.write_all(EVENTS.as_bytes()).is_ok()
            && head_of(&mut stream).starts_with("HTTP/1.1 200")
    });
    assert!(is_free);
}
