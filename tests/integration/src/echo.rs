//! The echo kernel behind a tap of its own.

use std::net::UdpSocket;
use std::time::Duration;

use serde_json::{Value, json};

use crate::{Tap, TestVm};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Port of the echo service (RFC 862).
const ECHO: u16 = 7;

/// Boots the kernel `net_echo`, its interface with the fields of `interface`; gives its tap, and a socket that
/// talks to it.
///
/// # Panics
/// When the host or the monitor refuses.
pub fn boot_echo(vm: &mut TestVm, interface: &Value) -> (Tap, UdpSocket) {
    let tap = Tap::new();
    let mut body = json!({ "iface_id": "eth0", "host_dev_name": tap.name() });
    for (key, value) in interface.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    vm.put("/network-interfaces/eth0", &body);
    tap.up();
    vm.boot("boot_args", format!("ip={}", tap.guest_ip()));
    vm.start();
    vm.wait_for("ready");
    let socket = UdpSocket::bind((tap.host_ip(), 0)).expect("the tap has the host's address");
    socket
        .connect((tap.guest_ip(), ECHO))
        .expect("the guest's address is on the tap");
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("the time is not zero");
    (tap, socket)
}
