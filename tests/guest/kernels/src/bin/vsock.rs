//! Serves streams, until one is asked for on port 99: echo on port 7; on port 8 the guest ends its direction first, on
//! port 9 the host does. With `connect=<port>` it also connects to the host and echoes there.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::interrupts::DeviceVector;
use rt::println;
use rt::taken::Taken;
use rt::virtio::vsock::{
    HOST_CID, Header, Packet, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, STREAM, Vsock, op,
};

rt::kernel!(main);

const ECHO: u32 = 7;
const GUEST_ENDS: u32 = 8;
const HOST_ENDS: u32 = 9;
const QUIT: u32 = 99;
/// From where the guest connects.
const CLIENT: u32 = 5000;

/// What the guest says it can hold for each connection.
const WINDOW: u32 = 64 * 1024;
const CONNECTIONS: usize = 1024;
/// Packets that wait for credit: never more than there are buffers.
const WAITING: usize = 64;

static TABLE: Taken<[Connection; CONNECTIONS]> = Taken::new([Connection::NONE; CONNECTIONS]);
static QUEUE: Taken<[Option<Packet>; WAITING]> = Taken::new([const { None }; WAITING]);

#[derive(Clone, Copy)]
struct Connection {
    host_port: u32,
    guest_port: u32,
    is_used: bool,
    received: u32,
    sent: u32,
    host_window: u32,
    host_forwarded: u32,
    has_host_ended: bool,
    has_ended: bool,
}

impl Connection {
    const NONE: Self = Self {
        host_port: 0,
        guest_port: 0,
        is_used: false,
        received: 0,
        sent: 0,
        host_window: 0,
        host_forwarded: 0,
        has_host_ended: false,
        has_ended: false,
    };
}

struct Server {
    vsock: Vsock,
    connections: &'static mut [Connection; CONNECTIONS],
    waiting: &'static mut [Option<Packet>; WAITING],
    accepted: u32,
    bytes: u64,
}

fn main(boot: &BootInfo) {
    let vsock = Vsock::open(boot, DeviceVector::new(0));
    println!("cid={}", vsock.cid);
    let mut server = Server {
        vsock,
        connections: TABLE.take(),
        waiting: QUEUE.take(),
        accepted: 0,
        bytes: 0,
    };
    println!("ready");
    if let Some(port) = boot.command_line().number("connect") {
        server.connect(u32::try_from(port).unwrap_or(0));
    }
    while server.serve_one() {
        server.serve_waiting();
    }
    server.vsock.drain();
    println!("accepted={}", server.accepted);
    println!("bytes={}", server.bytes);
}

impl Server {
    fn connect(&mut self, port: u32) {
        let index = self.open(port, CLIENT);
        self.say(index, op::REQUEST, 0);
    }

    /// Serves the next packet; false when the host asked to end.
    fn serve_one(&mut self) -> bool {
        let packet = self.vsock.receive();
        let header = packet.header;
        rt::check!(header.kind == STREAM, "{header:?} is no stream");
        let found = self.connections.iter().position(|c| {
            c.is_used && c.host_port == header.src_port && c.guest_port == header.dst_port
        });
        let Some(index) = found else {
            self.vsock.give_back(packet);
            return self.serve_new(&header);
        };
        let connection = &mut self.connections[index];
        connection.host_window = header.buf_alloc;
        connection.host_forwarded = header.fwd_cnt;
        match header.op {
            op::RW => {
                self.bytes += u64::from(header.len);
                return self.serve_data(index, packet);
            }
            op::RESPONSE => println!("connected"),
            op::RST => {
                if connection.guest_port == CLIENT && connection.received == 0 {
                    println!("refused");
                }
                connection.is_used = false;
            }
            op::SHUTDOWN => self.serve_end(index, header.flags),
            op::CREDIT_REQUEST => self.say(index, op::CREDIT_UPDATE, 0),
            op::CREDIT_UPDATE => {}
            other => rt::fail!("operation {other} on a connection"),
        }
        self.vsock.give_back(packet);
        true
    }

    fn serve_new(&mut self, header: &Header) -> bool {
        if header.op == op::RST {
            return true;
        }
        let is_served = matches!(header.dst_port, ECHO | GUEST_ENDS | HOST_ENDS);
        if header.op != op::REQUEST || !is_served {
            self.vsock.send(Header {
                src_cid: self.vsock.cid,
                dst_cid: HOST_CID,
                src_port: header.dst_port,
                dst_port: header.src_port,
                kind: STREAM,
                op: op::RST,
                ..Header::default()
            });
            return header.dst_port != QUIT;
        }
        let index = self.open(header.src_port, header.dst_port);
        let connection = &mut self.connections[index];
        connection.host_window = header.buf_alloc;
        connection.host_forwarded = header.fwd_cnt;
        self.accepted += 1;
        self.say(index, op::RESPONSE, 0);
        if header.dst_port == GUEST_ENDS {
            self.write(index, b"over");
            self.say(index, op::SHUTDOWN, SHUTDOWN_SEND);
        }
        true
    }

    fn serve_data(&mut self, index: usize, packet: Packet) -> bool {
        let connection = &mut self.connections[index];
        if matches!(connection.guest_port, ECHO | CLIENT) {
            let place = self.waiting.iter_mut().find(|place| place.is_none());
            match place {
                Some(place) => *place = Some(packet),
                None => rt::fail!("too many packets wait"),
            }
        } else {
            connection.received = connection.received.wrapping_add(packet.header.len);
            self.vsock.give_back(packet);
            self.say(index, op::CREDIT_UPDATE, 0);
        }
        true
    }

    /// Echoes what there is credit for, oldest first.
    fn serve_waiting(&mut self) {
        for place in 0..WAITING {
            let Some(packet) = &self.waiting[place] else {
                break;
            };
            let header = packet.header;
            let found = self.connections.iter().position(|c| {
                c.is_used && c.host_port == header.src_port && c.guest_port == header.dst_port
            });
            let Some(index) = found else {
                if let Some(packet) = self.waiting[place].take() {
                    self.vsock.give_back(packet);
                }
                continue;
            };
            let connection = &mut self.connections[index];
            let on_the_way = connection.sent.wrapping_sub(connection.host_forwarded);
            if connection.host_window.saturating_sub(on_the_way) < header.len {
                break;
            }
            connection.received = connection.received.wrapping_add(header.len);
            connection.sent = connection.sent.wrapping_add(header.len);
            let mut echo = self.header(index, op::RW);
            echo.len = header.len;
            if let Some(packet) = self.waiting[place].take() {
                self.vsock.send_data_of(echo, packet);
            }
        }
        // The oldest stay in front.
        let mut front = 0;
        for place in 0..WAITING {
            if self.waiting[place].is_some() {
                self.waiting.swap(front, place);
                front += 1;
            }
        }
        if front == 0 {
            self.end_echoes();
        }
    }

    /// The host ended a direction, or both.
    fn serve_end(&mut self, index: usize, flags: u32) {
        let connection = &mut self.connections[index];
        if flags & (SHUTDOWN_SEND | SHUTDOWN_RECEIVE) == SHUTDOWN_SEND | SHUTDOWN_RECEIVE {
            connection.is_used = false;
            return self.say(index, op::RST, 0);
        }
        if flags & SHUTDOWN_SEND == 0 {
            return;
        }
        connection.has_host_ended = true;
        let received = connection.received;
        match connection.guest_port {
            GUEST_ENDS => {
                println!("received_after_end={received}");
                self.say(index, op::SHUTDOWN, SHUTDOWN_SEND | SHUTDOWN_RECEIVE);
            }
            HOST_ENDS => {
                self.write(index, &received.to_le_bytes());
                self.say(index, op::SHUTDOWN, SHUTDOWN_SEND | SHUTDOWN_RECEIVE);
            }
            _ => {}
        }
    }

    /// Ends the echoes whose host ended its direction, once all of it went back.
    fn end_echoes(&mut self) {
        for index in 0..CONNECTIONS {
            let connection = &mut self.connections[index];
            let is_echo = matches!(connection.guest_port, ECHO | CLIENT);
            if connection.is_used && is_echo && connection.has_host_ended && !connection.has_ended {
                connection.has_ended = true;
                self.say(index, op::SHUTDOWN, SHUTDOWN_SEND | SHUTDOWN_RECEIVE);
            }
        }
    }

    fn open(&mut self, host_port: u32, guest_port: u32) -> usize {
        let Some(index) = self.connections.iter().position(|c| !c.is_used) else {
            rt::fail!("too many connections");
        };
        self.connections[index] = Connection {
            host_port,
            guest_port,
            is_used: true,
            ..Connection::NONE
        };
        index
    }

    fn write(&mut self, index: usize, bytes: &[u8]) {
        let mut header = self.header(index, op::RW);
        header.len = u32::try_from(bytes.len()).unwrap_or(0);
        let sent = &mut self.connections[index].sent;
        *sent = sent.wrapping_add(header.len);
        self.vsock.send_bytes(header, bytes);
    }

    fn say(&mut self, index: usize, op: u16, flags: u32) {
        let mut header = self.header(index, op);
        header.flags = flags;
        self.vsock.send(header);
    }

    fn header(&self, index: usize, op: u16) -> Header {
        let connection = &self.connections[index];
        Header {
            src_cid: self.vsock.cid,
            dst_cid: HOST_CID,
            src_port: connection.guest_port,
            dst_port: connection.host_port,
            kind: STREAM,
            op,
            buf_alloc: WINDOW,
            fwd_cnt: connection.received,
            ..Header::default()
        }
    }
}
