//! Breaks the rules of vsock, one at a time: each packet is dropped or answered by a reset, and the device goes on.
//! `connect=<port>` names a host process to use for connections that are broken.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::clock;
use rt::interrupts::DeviceVector;
use rt::println;
use rt::virtio::Part;
use rt::virtio::vsock::{HOST_CID, Header, STREAM, Vsock, op};

rt::kernel!(main);

/// Zeros to send.
static DATA: [u8; 64 * 1024] = [0; 64 * 1024];
const GUEST_PORT: u32 = 77;
const NOBODY: u32 = 4242;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Reset,
    Nothing,
}

struct Hostile {
    vsock: Vsock,
    service: u32,
    next_port: u32,
    cases: u32,
}

fn main(boot: &BootInfo) {
    let service = boot.command_line().number("connect").unwrap_or(0);
    let mut hostile = Hostile {
        vsock: Vsock::open(boot, DeviceVector::new(0)),
        service: u32::try_from(service).unwrap_or(0),
        next_port: GUEST_PORT,
        cases: 0,
    };
    hostile.without_connection();
    hostile.nonsense();
    hostile.on_connections();
    hostile.credit();
    println!("cases={}", hostile.cases);
    println!("ready");
    // The host looks whether all is well, and asks for a port that ends this.
    loop {
        let packet = hostile.vsock.receive();
        let header = packet.header;
        hostile.vsock.give_back(packet);
        if header.op == op::REQUEST {
            let mut reset = hostile.header(op::RST);
            reset.src_port = header.dst_port;
            reset.dst_port = header.src_port;
            hostile.vsock.send(reset);
            hostile.vsock.drain();
            return;
        }
    }
}

impl Hostile {
    fn without_connection(&mut self) {
        for operation in [
            op::RW,
            op::RESPONSE,
            op::SHUTDOWN,
            op::CREDIT_UPDATE,
            0,
            8,
            u16::MAX,
        ] {
            let header = Header {
                dst_port: NOBODY,
                ..self.header(operation)
            };
            self.try_one(header, &[], Answer::Reset);
        }
        let nobody = Header {
            dst_port: NOBODY,
            ..self.header(op::REQUEST)
        };
        self.try_one(nobody, &[], Answer::Reset);
        self.try_one(
            Header {
                op: op::RST,
                ..nobody
            },
            &[],
            Answer::Nothing,
        );
        self.try_one(Header { kind: 2, ..nobody }, &[], Answer::Reset);
        for (src_cid, dst_cid) in [
            (self.vsock.cid, 3),
            (self.vsock.cid, u64::MAX),
            (HOST_CID, HOST_CID),
            (u64::MAX, HOST_CID),
        ] {
            let header = Header {
                src_cid,
                dst_cid,
                ..nobody
            };
            self.try_one(header, &[], Answer::Nothing);
        }
    }

    /// Chains that hold no packet.
    fn nonsense(&mut self) {
        for len in [1, 43] {
            let part = Part::readable(DATA.as_ptr() as u64, len);
            self.vsock.send_nonsense(part);
            self.cases += 1;
        }
        self.expect(Answer::Nothing, "a short header");
    }

    fn on_connections(&mut self) {
        for (operation, len) in [
            (op::RW, 5),
            (op::RW, u32::MAX),
            (op::REQUEST, 0),
            (op::RESPONSE, 0),
            (0, 0),
            (u16::MAX, 0),
        ] {
            let connection = self.connect();
            let header = Header {
                op: operation,
                len,
                ..connection
            };
            self.try_one(header, &DATA[..4], Answer::Reset);
        }
    }

    fn credit(&mut self) {
        let lie = Header {
            op: op::CREDIT_UPDATE,
            buf_alloc: u32::MAX,
            fwd_cnt: u32::MAX,
            ..self.connect()
        };
        self.try_one(lie, &[], Answer::Nothing);
        // More than the device said it can hold, to a host process that does not read.
        let connection = self.connect();
        for _ in 0..32 {
            let header = Header {
                op: op::RW,
                len: 64 * 1024,
                ..connection
            };
            self.vsock.send_bytes(header, &DATA);
        }
        self.cases += 1;
        self.expect(Answer::Reset, "more than the window");
    }

    fn connect(&mut self) -> Header {
        self.next_port += 1;
        let request = self.header(op::REQUEST);
        self.vsock.send(request);
        let packet = self.vsock.receive();
        let answer = packet.header.op;
        self.vsock.give_back(packet);
        rt::check!(answer == op::RESPONSE, "operation {answer} for an answer");
        request
    }

    fn try_one(&mut self, header: Header, data: &[u8], answer: Answer) {
        self.cases += 1;
        if data.is_empty() {
            self.vsock.send(header);
            self.vsock.drain();
        } else {
            self.vsock.send_bytes(header, data);
        }
        let what = format_args!("{header:?}");
        match answer {
            Answer::Reset => self.expect_reset(what),
            Answer::Nothing => self.expect(answer, "a packet to drop"),
        }
    }

    fn expect_reset(&mut self, what: core::fmt::Arguments<'_>) {
        let mut is_reset = false;
        clock::spin_until(clock::LONG, || {
            if let Some(packet) = self.vsock.try_receive() {
                is_reset = packet.header.op == op::RST;
                self.vsock.give_back(packet);
            }
            is_reset
        });
        rt::check!(is_reset, "no reset for {what}");
    }

    fn expect(&mut self, answer: Answer, what: &str) {
        if answer == Answer::Reset {
            return self.expect_reset(format_args!("{what}"));
        }
        let mut operation = 0;
        clock::spin_until(clock::SHORT, || {
            if let Some(packet) = self.vsock.try_receive() {
                operation = packet.header.op;
                self.vsock.give_back(packet);
            }
            operation != 0
        });
        rt::check!(operation == 0, "operation {operation} for {what}");
    }

    fn header(&self, op: u16) -> Header {
        Header {
            src_cid: self.vsock.cid,
            dst_cid: HOST_CID,
            src_port: self.next_port,
            dst_port: self.service,
            kind: STREAM,
            op,
            buf_alloc: 64 * 1024,
            ..Header::default()
        }
    }
}
