//! Connections, heads and bodies, whatever the request is for.

use super::*;
use crate::server::seats::MAX_CONNECTIONS;

pub(super) const VERSION: &str = "GET /version HTTP/1.1\r\n\r\n";

fn server() -> TestServer {
    TestServer::in_state(Lifecycle::NotStarted)
}

#[test]
fn an_answer_has_the_headers_clients_expect_in_their_order() {
    let (_, head, body) = server().ask(VERSION);
    let len = body.unwrap().to_string().len();
    assert_eq!(
        head,
        format!(
            "HTTP/1.1 200 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\
             Content-Type: application/json\r\nContent-Length: {len}\r\n\r\n"
        )
    );
}

#[test]
fn an_answer_without_body_says_nothing_of_one() {
    let body = r#"{"kernel_image_path":"k"}"#;
    let request = format!(
        "PUT /boot-source HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (_, head, _) = server().ask(&request);
    assert_eq!(
        head,
        "HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n"
    );
}

#[test]
fn requests_of_all_shapes_are_understood() {
    let server = server();
    for request in [
        "GET /version HTTP/1.0\r\n\r\n",
        "GET /version HTTP/1.1\nHost: x\n\n",
        "GET http://localhost/version HTTP/1.1\r\n\r\n",
        "GET //version/ HTTP/1.1\r\n\r\n",
        "GET /version HTTP/1.1\r\naCCept: text/html\r\ncontent-TYPE: text/xml\r\nX-Y: z\r\n\r\n",
        "GET /version HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        "PUT /machine-config HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\n[1,12\r\n2\r\n8]\r\n0\r\n\r\n",
    ] {
        let (status, ..) = server.ask(request);
        assert!(status == 200 || status == 204, "{request:?}: {status}");
    }
}

#[test]
fn malformed_requests_are_told_why_and_the_connection_ends() {
    let server = server();
    let long = format!("GET /version HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    for (request, reason) in [
        (
            "GET /version HTTP/1.1\r\nno colon\r\n\r\n",
            "Header is incorrectly formatted",
        ),
        ("GET /version HTTP/2.5\r\n\r\n", "Unsupported HTTP version"),
        (
            "PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "Invalid value. Key:Content-Length",
        ),
        (
            "PUT / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            "Invalid value. Key:Content-Length",
        ),
        ("nonsense\r\n\r\n", "Unsupported HTTP method"),
        (&long, "too large"),
    ] {
        let mut stream = server.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let (status, head, body) = read_answer(&mut stream);
        let body = body.unwrap();
        assert_eq!(status, 400, "{request:.50?}");
        assert!(
            head.contains("Server: Firecracker API\r\nConnection: close\r\n"),
            "{head}"
        );
        for key in ["error", "fault_message"] {
            assert!(
                body[key].as_str().unwrap().contains(reason),
                "{request:.50?}: {body}"
            );
        }
        assert!(is_closed(&mut stream));
    }
}

#[test]
fn other_methods_are_refused_and_the_connection_goes_on() {
    let server = server();
    let mut stream = server.connect();
    for method in ["POST", "OPTIONS", "get", "BREW"] {
        stream
            .write_all(format!("{method} /version HTTP/1.1\r\n\r\n").as_bytes())
            .unwrap();
        let (status, _, body) = read_answer(&mut stream);
        assert_eq!(status, 400);
        assert!(
            body.unwrap()["error"]
                .as_str()
                .unwrap()
                .contains("Unsupported HTTP method")
        );
    }
    stream.write_all(VERSION.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream).0, 200);
}

#[test]
fn requests_sent_together_are_answered_in_order() {
    let server = server();
    let mut stream = server.connect();
    let requests = ["/version", "/nowhere", "/", "/machine-config"];
    let all: String = requests
        .iter()
        .map(|path| format!("GET {path} HTTP/1.1\r\n\r\n"))
        .collect();
    stream.write_all(all.as_bytes()).unwrap();
    let keys = [
        "firecracker_version",
        "fault_message",
        "state",
        "vcpu_count",
    ];
    for key in keys {
        assert!(
            read_answer(&mut stream).2.unwrap().get(key).is_some(),
            "{key}"
        );
    }
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it() {
    let server = server();
    let mut stream = server.connect();
    let head = "PUT /machine-config HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 7\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream).0, 100);
    stream.write_all(b"[1,128]").unwrap();
    assert_eq!(read_answer(&mut stream).0, 204);
}

#[test]
fn a_body_at_the_limit_is_read_and_one_byte_more_is_not() {
    let server = server();
    let fill = |len: usize| format!("[1,{:>1$}]", 128, len - 4);
    assert_eq!(
        server.fault("PUT", "/machine-config", &fill(51200)),
        (204, String::new())
    );

    let mut stream = server.connect();
    stream
        .write_all(b"PUT /machine-config HTTP/1.1\r\nContent-Length: 51201\r\n\r\n")
        .unwrap();
    let (status, _, body) = read_answer(&mut stream);
    assert_eq!(
        (status, body.unwrap()["error"].as_str().unwrap()),
        (
            400,
            "Request payload with size 51201 is larger than the limit of 51200 allowed by server."
        )
    );
    // The rest is read and thrown away until the client has seen the end.
    stream.write_all(&[b'x'; 51201]).unwrap();
    assert!(is_closed(&mut stream));
}

#[test]
fn a_chunked_body_meets_the_same_limit() {
    let chunk = format!("c801\r\n{}\r\n0\r\n\r\n", "x".repeat(0xc801));
    let request =
        format!("PUT /machine-config HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}");
    let (status, _, body) = server().ask(&request);
    assert_eq!(status, 400);
    assert!(
        body.unwrap()["error"]
            .as_str()
            .unwrap()
            .contains("larger than the limit of 51200")
    );
}

#[test]
fn a_client_that_asks_to_close_is_obeyed() {
    let server = server();
    let mut stream = server.connect();
    stream
        .write_all(b"GET /version HTTP/1.1\r\nConnection: Close\r\n\r\n")
        .unwrap();
    assert!(read_answer(&mut stream).1.contains("Connection: close\r\n"));
    assert!(is_closed(&mut stream));
}

#[test]
fn http_1_0_keeps_the_connection_unless_asked_to_close() {
    let server = server();
    let mut stream = server.connect();
    let body = "[1,128]";
    let put = format!("PUT /machine-config HTTP/1.0\r\nContent-Length: 7\r\n\r\n{body}");
    for request in [
        "GET /version HTTP/1.0\r\n\r\n",
        &put,
        "GET /nowhere HTTP/1.0\r\n\r\n",
        "GET /version HTTP/1.1\r\n\r\n",
    ] {
        stream.write_all(request.as_bytes()).unwrap();
        let head = read_answer(&mut stream).1;
        assert!(head.contains("Connection: keep-alive\r\n"), "{head}");
    }
    // Two in one write, and the end.
    let last = "GET / HTTP/1.0\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{put}{last}").as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream).0, 204);
    let head = read_answer(&mut stream).1;
    assert!(head.contains("Connection: close\r\n"), "{head}");
    assert!(is_closed(&mut stream));
}

#[test]
fn the_eleventh_connection_is_told_that_there_are_too_many() {
    let server = server();
    let mut open: Vec<Stream> = (0..MAX_CONNECTIONS).map(|_| server.connect()).collect();
    for stream in &mut open {
        stream.write_all(VERSION.as_bytes()).unwrap();
        assert_eq!(read_answer(stream).0, 200);
    }
    let mut eleventh = server.connect();
    let (status, head, body) = read_answer(&mut eleventh);
    assert_eq!(
        (status, body),
        (503, Some(json!({"error": "Too many open connections"})))
    );
    assert!(
        head.contains("Server: Firecracker API\r\nConnection: close\r\nContent-Length: 40\r\n")
    );
    assert!(is_closed(&mut eleventh));

    drop(open);
    // The place is free once the server has seen the others go.
    let found = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        let mut stream = server.connect();
        stream.write_all(VERSION.as_bytes()).is_ok() && read_answer(&mut stream).0 == 200
    });
    assert!(found);
}

#[test]
fn a_client_half_way_through_a_request_holds_up_nobody() {
    let server = server();
    let mut slow: Vec<Stream> = [
        "GET /ver",
        "PUT / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc",
        "",
    ]
    .iter()
    .map(|part| {
        let mut stream = server.connect();
        stream.write_all(part.as_bytes()).unwrap();
        stream
    })
    .collect();
    assert_eq!(server.ask(VERSION).0, 200);
    slow[0].write_all(b"sion HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut slow[0]).0, 200);
}

#[test]
fn garbage_does_no_harm() {
    let server = server();
    let pieces: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\n",
        b"PUT /machine-config HTTP/1.1\r\n",
        b"Content-Length: 7\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"\r\n",
        b"[1,128]",
        b"\0\xff\x7f{",
        b"ffffffffffffffff\r\n",
    ];
    // Every sequence of four pieces, some of which are requests.
    for number in 0..4096_usize {
        let mut stream = server.connect();
        for place in [0, 3, 6, 9] {
            // The server may have had enough.
            let _ = stream.write_all(pieces[(number >> place) & 7]);
        }
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answers = Vec::new();
        stream.read_to_end(&mut answers).unwrap();
        assert!(
            answers.is_empty() || answers.starts_with(b"HTTP/1.1 "),
            "{number:o}"
        );
    }
    assert_eq!(server.ask(VERSION).0, 200);
}

/// A request that such a microVM is asked.
pub(super) const SLOW: &str = "GET /balloon HTTP/1.1\r\n\r\n";

/// A microVM that takes its time: hands what would answer to the test.
pub(super) struct SlowVmm(pub(super) std::sync::mpsc::Sender<Box<dyn FnOnce() + Send>>);

impl Vmm for SlowVmm {
    fn submit<C: Command>(
        &self,
        _: C,
        reply: impl FnOnce(Result<C::Reply, CommandError>) + Send + 'static,
    ) {
        self.0
            .send(Box::new(|| reply(Err(CommandError::BeforeStart))))
            .unwrap();
    }

    fn state(&self) -> Arc<VmState> {
        FakeVmm(Lifecycle::NotStarted).state()
    }

    fn events(&self) -> &EventLog {
        &NO_EVENTS
    }
}

#[test]
fn requests_that_reached_the_microvm_are_answered_before_the_thread_ends() {
    let (replies, reached) = std::sync::mpsc::channel();
    let mut server = TestServer::with(SlowVmm(replies));
    let mut stream = server.connect();
    stream.write_all(SLOW.as_bytes()).unwrap();
    let reply = reached.recv().unwrap();
    let thread = server.thread.take().unwrap();
    let finish = std::thread::spawn(move || thread.finish());
    assert_eq!(server.ask(VERSION).0, 200, "others are served meanwhile");
    reply();
    finish.join().unwrap();
    assert_eq!(read_answer(&mut stream).0, 400);
}

#[test]
fn a_microvm_that_ends_first_answers_that_it_ended() {
    let (replies, reached) = std::sync::mpsc::channel();
    let server = TestServer::with(SlowVmm(replies));
    let mut stream = server.connect();
    stream.write_all(SLOW.as_bytes()).unwrap();
    drop(reached.recv().unwrap());
    let (status, _, body) = read_answer(&mut stream);
    assert_eq!(
        (status, body.unwrap()["fault_message"].as_str().unwrap()),
        (400, "The microVM ended before it answered.")
    );
}
