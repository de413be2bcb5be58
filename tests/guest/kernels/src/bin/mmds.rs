//! Reads metadata: without a token, with one, as text and as JSON, on several connections at a time. Three frames go
//! elsewhere. With `wait` it ends at a byte of input.

#![no_std]
#![no_main]

use core::fmt::Write;

use rt::boot::BootInfo;
use rt::http_client::{Answer, Connection, resolve};
use rt::interrupts::DeviceVector;
use rt::virtio::net::Nic;
use rt::{println, serial};

rt::kernel!(main);

const SERVER: [u8; 4] = [169, 254, 169, 254];
/// Longer than the answer to any request here.
const ROOM: usize = 20_000;
/// Connections beside the first.
const OTHERS: usize = 8;

/// A request, made of text.
struct Request {
    bytes: [u8; 512],
    len: usize,
}

fn main(boot: &BootInfo) {
    let mut nic = Nic::open(boot, DeviceVector::new(0));
    for _ in 0..3 {
        // To nobody, of a kind that nobody speaks (IEEE 802: local experiments).
        let mut frame = [0xff; 60];
        frame[6..12].copy_from_slice(&nic.mac);
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        nic.send(&frame);
    }
    let mac = resolve(&mut nic, SERVER);
    let [a, b, c, d, e, f] = mac;
    println!("server={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    let mut room = [0; ROOM];
    let mut first = Connection::open(&mut nic, SERVER, mac, 1000);

    first.ask(
        &mut nic,
        "GET /name HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
    );
    println!("without_token={}", first.hear(&mut nic, &mut room).status);

    first.ask(
        &mut nic,
        "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60\r\n\r\n",
    );
    let answer = first.hear(&mut nic, &mut room);
    rt::check!(answer.status == 200, "no token");
    let mut token = [0; 70];
    let token_len = answer.body.len();
    token[..token_len].copy_from_slice(answer.body);
    let token = core::str::from_utf8(&token[..token_len]).unwrap_or_default();
    println!("token_bytes={token_len}");

    first.ask(&mut nic, Request::get("/name", token, "*/*").text());
    println!("name={}", text(&first.hear(&mut nic, &mut room)));
    first.ask(
        &mut nic,
        Request::get("/", token, "application/json").text(),
    );
    println!(
        "json_bytes={}",
        text(&first.hear(&mut nic, &mut room)).len()
    );

    // All ask before any of them hears.
    let open = |nic: &mut Nic, index: usize| {
        let port = 1001 + u16::try_from(index).unwrap_or(0);
        Connection::open(nic, SERVER, mac, port)
    };
    let mut others: [Connection; OTHERS] = core::array::from_fn(|index| open(&mut nic, index));
    let request = Request::get("/list/1", token, "*/*");
    for other in &mut others {
        other.ask(&mut nic, request.text());
        // The others' frames are not this one's, and would be dropped.
        let answer = other.hear(&mut nic, &mut room);
        rt::check!(text(&answer) == "second", "another answer");
    }
    for other in others {
        other.close(&mut nic);
    }
    first.close(&mut nic);
    nic.drain();
    println!("connections={}", 1 + OTHERS);
    while boot.command_line().has("wait") && !serial::has_input() {
        core::hint::spin_loop();
    }
}

impl Request {
    fn get(path: &str, token: &str, accept: &str) -> Self {
        let mut request = Self {
            bytes: [0; 512],
            len: 0,
        };
        let written = write!(
            request,
            "GET {path} HTTP/1.1\r\nX-metadata-token: {token}\r\nAccept: {accept}\r\n\r\n"
        );
        rt::check!(written.is_ok(), "the request is too long");
        request
    }

    fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl Write for Request {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let rest = self.bytes.get_mut(self.len..self.len + text.len());
        rest.ok_or(core::fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

/// The body of an answer that must be good.
fn text<'a>(answer: &Answer<'a>) -> &'a str {
    let body = core::str::from_utf8(answer.body).unwrap_or_default();
    rt::check!(answer.status == 200, "status {}: {body}", answer.status);
    body
}
