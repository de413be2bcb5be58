//! Clients that are slow, silent, too many, or do not read: what they cost, and for how long.

use std::io::ErrorKind;
use std::sync::mpsc;
use std::thread::sleep;
use std::time::Instant;

use super::transport::{SLOW, SlowVmm, VERSION};
use super::*;
use crate::server::seats::MAX_CONNECTIONS;

const TICK: Duration = Duration::from_millis(20);
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(60);

/// Patience with clients, by turns: while they send, while they read, while others wait for their place.
fn patience(receiving: Duration, sending: Duration, waiting: Duration) -> TestServer {
    let settings = Settings {
        patience: Patience {
            receiving,
            sending,
            waiting,
        },
        ..settings()
    };
    TestServer::with_settings(FakeVmm(Lifecycle::NotStarted), settings)
}

fn is_served(stream: &mut Stream) -> bool {
    stream.write_all(VERSION.as_bytes()).is_ok() && read_answer(stream).0 == 200
}

#[test]
fn state_is_read_while_the_microvm_does_something_else() {
    let (replies, reached) = mpsc::channel();
    let server = TestServer::with(SlowVmm(replies));
    let mut slow = server.connect();
    slow.write_all(SLOW.as_bytes()).unwrap();
    let reply = reached.recv().unwrap();
    for path in ["/", "/version", "/machine-config", "/vm/config"] {
        assert_eq!(server.ask(&format!("GET {path} HTTP/1.1\r\n\r\n")).0, 200);
    }
    reply();
    assert_eq!(read_answer(&mut slow).0, 400);
}

#[test]
fn nobody_is_answered_before_a_file_is_applied() {
    let (replies, reached) = mpsc::channel();
    let settings = Settings {
        opening: Opening::AfterEarlierCommands,
        ..settings()
    };
    let server = TestServer::with_settings(SlowVmm(replies), settings);
    let mut early = server.connect();
    early.write_all(VERSION.as_bytes()).unwrap();
    let applied = reached.recv().unwrap();
    early.set_read_timeout(Some(SHORT)).unwrap();
    let nothing = early.read(&mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    applied();
    early.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(read_answer(&mut early).0, 200);
}

#[test]
fn a_request_that_does_not_become_whole_is_told_so() {
    let server = patience(SHORT, LONG, LONG);
    let mut silent = server.connect();
    let halves = [
        "G",
        "GET /version HTTP/1.1\r\nX: y\r\n",
        "PUT /vsock HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc",
        "PUT /vsock HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        "GET /version HTTP/1.1\r\n\r\nGET /ver",
    ];
    let mut streams: Vec<Stream> = halves.iter().map(|_| server.connect()).collect();
    for (stream, half) in streams.iter_mut().zip(halves) {
        stream.write_all(half.as_bytes()).unwrap();
    }
    let mut last = streams.pop().unwrap();
    assert_eq!(read_answer(&mut last).0, 200, "the whole one comes first");
    // What followed it in one piece is a request when more of it comes.
    last.write_all(b"s").unwrap();
    for mut stream in streams.into_iter().chain([last]) {
        let (status, head, body) = read_answer(&mut stream);
        assert_eq!(status, 400);
        assert!(head.contains("Connection: close\r\n"), "{head}");
        let fault = body.unwrap()["fault_message"].as_str().unwrap().to_owned();
        assert!(
            fault.starts_with("The request did not arrive in time"),
            "{fault}"
        );
        assert!(is_closed(&mut stream));
    }
    assert!(
        is_served(&mut silent),
        "a client without a request may wait"
    );
}

#[test]
fn a_request_in_drops_is_no_longer_waited_for_than_another() {
    let server = patience(SHORT, LONG, LONG);
    let mut stream = server.connect();
    let start = Instant::now();
    while stream.write_all(b"x").is_ok() && start.elapsed() < SHORT * 20 {
        sleep(TICK);
        stream.set_nonblocking(true).unwrap();
        let is_told = stream.peek_one();
        stream.set_nonblocking(false).unwrap();
        if is_told {
            break;
        }
    }
    assert!(start.elapsed() >= SHORT && start.elapsed() < SHORT * 10);
    assert_eq!(read_answer(&mut stream).0, 400);
}

/// Whether something can be read.
trait PeekOne {
    fn peek_one(&self) -> bool;
}

impl PeekOne for Stream {
    fn peek_one(&self) -> bool {
        use rustix::net::{RecvFlags, recv};
        let mut byte = [0_u8; 1];
        recv(self, &mut byte[..], RecvFlags::PEEK).is_ok()
    }
}

#[test]
fn a_client_that_never_reads_costs_a_bounded_amount_and_ends() {
    let server = patience(LONG, SHORT, LONG);
    let mut deaf = server.connect();
    deaf.set_nonblocking(true).unwrap();
    let requests = "GET /vm/config HTTP/1.1\r\n\r\n".repeat(1000);
    let (mut sent, mut is_full) = (0, 0);
    while is_full < 3 {
        match deaf.write(requests.as_bytes()) {
            Ok(len) => (sent, is_full) = (sent + len, 0),
            Err(failure) if failure.kind() == ErrorKind::WouldBlock => {
                is_full += 1;
                sleep(TICK);
            }
            Err(_) => break,
        }
        assert!(sent < 4 << 20, "the server keeps reading");
    }
    assert_eq!(server.ask(VERSION).0, 200, "others are served");
    let ended = (0..500).any(|_| {
        sleep(TICK);
        matches!(deaf.write(b"x"), Err(failure) if failure.kind() == ErrorKind::BrokenPipe)
    });
    assert!(ended);
}

#[test]
fn a_client_that_does_not_leave_after_a_refusal_is_left() {
    let server = patience(LONG, SHORT, LONG);
    let mut stream = server.connect();
    stream.write_all(b"nonsense\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut stream).0, 400);
    let start = Instant::now();
    while stream.write_all(b"more nonsense").is_ok() {
        assert!(start.elapsed() < SHORT * 20);
        sleep(TICK);
    }
}

#[test]
fn silent_clients_lose_their_places_to_new_ones_but_not_at_once() {
    let server = patience(LONG, LONG, SHORT);
    let mut silent: Vec<Stream> = (0..MAX_CONNECTIONS).map(|_| server.connect()).collect();
    assert!(
        is_served(&mut silent[MAX_CONNECTIONS - 1]),
        "all were accepted"
    );
    assert_eq!(read_answer(&mut server.connect()).0, 503);
    sleep(SHORT);
    // The first has waited longest now but one, which had a request.
    assert!(is_served(&mut silent[0]));
    let mut late = server.connect();
    assert!(is_served(&mut late));
    assert!(is_closed(&mut silent[1]));
    assert!(is_served(&mut silent[0]) && is_served(&mut silent[2]));
}

#[test]
fn a_request_under_way_keeps_its_place() {
    let (replies, reached) = mpsc::channel();
    let settings = Settings {
        patience: Patience {
            waiting: Duration::ZERO,
            ..Patience::default()
        },
        ..settings()
    };
    let server = TestServer::with_settings(SlowVmm(replies), settings);
    let mut busy: Vec<(Stream, _)> = (0..MAX_CONNECTIONS)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(SLOW.as_bytes()).unwrap();
            (stream, reached.recv().unwrap())
        })
        .collect();
    assert_eq!(read_answer(&mut server.connect()).0, 503);
    let (mut stream, reply) = busy.pop().unwrap();
    reply();
    assert_eq!(read_answer(&mut stream).0, 400);
    assert!(
        is_served(&mut server.connect()),
        "that one has nothing to do"
    );
    assert!(is_closed(&mut stream));
}

#[test]
fn a_client_too_many_reads_so_even_when_it_speaks_first() {
    let server = patience(LONG, LONG, LONG);
    let mut all: Vec<Stream> = (0..MAX_CONNECTIONS).map(|_| server.connect()).collect();
    assert!(is_served(&mut all[MAX_CONNECTIONS - 1]));
    for _ in 0..100 {
        let mut stream = server.connect();
        stream.write_all(VERSION.as_bytes()).unwrap();
        let mut answer = String::new();
        // Whoever is not waited for may see the end as a reset.
        let _ = stream.read_to_string(&mut answer);
        assert_eq!(
            answer,
            "HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: 40\r\n\r\n\
             { \"error\": \"Too many open connections\" }"
        );
    }
}

#[test]
fn heads_of_any_size_are_refused_before_they_are_kept() {
    let server = patience(LONG, LONG, LONG);
    for head in [
        format!("GET /{} HTTP/1.1\r\n", "x".repeat(1 << 20)),
        format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)),
        format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(100_000)),
        "x".repeat(1 << 20),
    ] {
        let mut stream = server.connect();
        // All of it is taken, so that the answer can be read.
        stream.write_all(head.as_bytes()).unwrap();
        assert_eq!(read_answer(&mut stream).0, 400, "{head:.20}");
        assert!(is_closed(&mut stream));
    }
}

#[test]
fn who_forbids_a_plain_answer_is_refused_and_the_connection_goes_on() {
    let server = patience(LONG, LONG, LONG);
    let mut stream = server.connect();
    let request = "GET /version HTTP/1.1\r\nAccept-Encoding: gzip, identity;q=0\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let (status, _, body) = read_answer(&mut stream);
    let body = body.unwrap();
    assert_eq!(status, 400);
    assert!(
        body["error"].as_str().unwrap().contains("Accept-Encoding"),
        "{body}"
    );
    assert!(is_served(&mut stream));
}
