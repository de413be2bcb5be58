//! The host's end of the guest's network: a tap, its address, pings and datagrams through it.
//!
//! Source for the echo message: RFC 792; for its checksum: RFC 1071.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SocketType, ipproto, socket};

use super::figures::Samples;
use crate::screen::Screen;

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The most that fits in one Ethernet frame.
pub const MAX_DATAGRAM: usize = 1472;

const ECHO_PORT: u16 = 7;
const ICMP_ECHO_REQUEST: u8 = 8;
const ICMP_ECHO_REPLY: u8 = 0;
const PING_BYTES: usize = 56;

/// A tap name and two addresses that nobody else has: all come from the process id.
pub struct Network {
    tap: String,
    host: Ipv4Addr,
    guest: Ipv4Addr,
}

impl Network {
    /// Only names them. The monitor makes the tap, and the kernel removes it with the monitor.
    pub fn new() -> Self {
        let pid = std::process::id();
        // 198.18.0.0/15 is set aside for tests between two machines (RFC 2544).
        let net = u32::from(Ipv4Addr::new(198, 18, 0, 0)) | (pid << 2 & 0x1_ffff);
        Self {
            tap: format!("cdemo{pid}"),
            host: Ipv4Addr::from(net | 1),
            guest: Ipv4Addr::from(net | 2),
        }
    }

    /// The tap's name on the host.
    pub fn tap(&self) -> &str {
        &self.tap
    }

    /// The guest's address.
    pub fn guest_ip(&self) -> Ipv4Addr {
        self.guest
    }

    /// The guest's hardware address: its own, by the first byte, and its IP address.
    pub fn guest_mac(&self) -> String {
        let [a, b, c, d] = self.guest.octets();
        format!("06:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }

    /// Whether the host has the tap.
    pub fn exists(&self) -> bool {
        Path::new("/sys/class/net").join(&self.tap).exists()
    }

    /// Gives the host's end its address and turns it on.
    pub fn up(&self, screen: &Screen) -> Result<()> {
        for arguments in [
            format!("addr add {}/30 dev {}", self.host, self.tap),
            format!("link set {} up", self.tap),
        ] {
            screen.command(&format!("ip {arguments}"));
            let output = Command::new("ip")
                .args(arguments.split(' '))
                .output()
                .context("cannot run `ip`; install iproute2")?;
            ensure!(
                output.status.success(),
                "ip {arguments}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    /// A socket that speaks to the guest's echo service.
    pub fn connect(&self) -> Result<UdpSocket> {
        let socket = UdpSocket::bind(SocketAddrV4::new(self.host, 0))
            .with_context(|| format!("cannot use the address {} of {}", self.host, self.tap))?;
        socket.connect(SocketAddrV4::new(self.guest, ECHO_PORT))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    }

    /// Sends datagrams of all sizes, each when the one before has come back unchanged.
    pub fn echo(&self, count: usize) -> Result<Samples> {
        let socket = self.connect()?;
        let mut trips = Samples::default();
        let mut received = [0; MAX_DATAGRAM + 1];
        for number in 0..count {
            let len = 1 + number * (MAX_DATAGRAM - 1) / (count - 1).max(1);
            let sent: Vec<u8> = number.to_le_bytes().into_iter().cycle().take(len).collect();
            let begin = Instant::now();
            socket.send(&sent)?;
            let len = socket
                .recv(&mut received)
                .with_context(|| format!("datagram {number} did not come back"))?;
            trips.add(begin.elapsed());
            ensure!(
                received[..len] == sent,
                "datagram {number} came back changed"
            );
        }
        Ok(trips)
    }

    /// Pings the guest, each time when it has answered the one before.
    pub fn ping(&self, count: u16) -> Result<Samples> {
        let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))
            .context("cannot open a socket for ICMP; that needs CAP_NET_RAW")?;
        // The calls that a ping needs are those of a datagram socket.
        let socket = UdpSocket::from(socket);
        socket.connect(SocketAddrV4::new(self.guest, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut trips = Samples::default();
        let mut received = [0; 1024];
        for number in 0..count {
            let request = echo_message(ICMP_ECHO_REQUEST, number);
            let expected = echo_message(ICMP_ECHO_REPLY, number);
            let begin = Instant::now();
            socket.send(&request)?;
            loop {
                let len = socket
                    .recv(&mut received)
                    .with_context(|| format!("no answer to ping {number}"))?;
                if icmp(&received[..len]) == Some(&expected[..]) {
                    break;
                }
                ensure!(begin.elapsed() < PATIENCE, "no answer to ping {number}");
            }
            trips.add(begin.elapsed());
        }
        Ok(trips)
    }
}

/// Type, code 0, checksum, this process as identifier, the number, and bytes that tell it from others.
fn echo_message(kind: u8, number: u16) -> Vec<u8> {
    let [low, high, ..] = std::process::id().to_le_bytes();
    let mut message = vec![kind, 0, 0, 0, high, low];
    message.extend(number.to_be_bytes());
    message.extend((0..=u8::MAX).take(PING_BYTES));
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

/// The complement of the one's complement sum of 16-bit words.
fn checksum(bytes: &[u8]) -> u16 {
    let sum = bytes.chunks(2).fold(0, |sum: u16, pair| {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let (sum, has_carry) = sum.overflowing_add(word);
        sum + u16::from(has_carry)
    });
    !sum
}

/// What an IPv4 packet carries.
fn icmp(packet: &[u8]) -> Option<&[u8]> {
    packet.get(usize::from(packet.first()? & 0xf) * 4..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_message_sums_to_nothing() {
        for number in [0, 1, 500, u16::MAX] {
            assert_eq!(checksum(&echo_message(ICMP_ECHO_REQUEST, number)), 0);
        }
        // RFC 1071, section 3.
        assert_eq!(checksum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn the_header_is_passed_over() {
        let mut packet = vec![0x46; 24];
        packet.extend(b"icmp");
        assert_eq!(icmp(&packet), Some(&b"icmp"[..]));
        assert_eq!(icmp(&[0x45; 8]), None);
        assert_eq!(icmp(&[]), None);
    }

    #[test]
    fn names_fit_and_addresses_are_a_pair() {
        let network = Network::new();
        assert!(network.tap().len() < 16);
        assert_eq!(u32::from(network.host) + 1, u32::from(network.guest));
    }
}
