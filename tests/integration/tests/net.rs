//! Frames go both ways through a tap.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on has failed; patterns wrap"
)]

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use integration::{Tap, TestVm, boot_echo, vm_test};
use serde_json::json;

#[vm_test(kernel = "net_echo", mmio, pci)]
fn datagrams_of_every_size_come_back(vm: &mut TestVm) {
    let (tap, socket) = boot_echo(vm, &json!({ "guest_mac": "06:00:ac:10:00:02" }));
    assert_eq!(vm.value("mac"), "06:00:ac:10:00:02");
    let mut bytes = 0;
    for len in [1, 2, 17, 64, 511, 512, 1000, 1400, 1472] {
        let sent: Vec<u8> = (0..len).map(|i| (i * 13 + len) as u8).collect();
        let mut received = [0; 2048];
        socket.send(&sent).unwrap();
        let count = socket.recv(&mut received).unwrap();
        assert_eq!(received[..count], sent);
        bytes += len;
    }
    socket.send(b"quit").unwrap();
    vm.expect_pass();
    assert_eq!(vm.value("udp_bytes"), (bytes + "quit".len()).to_string());
    assert!(!tap.exists(), "the tap is left behind");
}

#[vm_test(kernel = "net_echo", mmio, pci)]
fn a_burst_of_datagrams_comes_back(vm: &mut TestVm) {
    let (_tap, socket) = boot_echo(vm, &json!({ "guest_mac": "06:00:ac:10:00:03" }));
    // Datagrams that wait for ARP are overtaken by those that are sent when the answer is there.
    socket.send(b"ping").unwrap();
    assert_eq!(socket.recv(&mut [0; 4]).unwrap(), 4);
    const BURST: u32 = 64;
    for round in 0..20_u32 {
        for index in 0..BURST {
            socket.send(&(round * BURST + index).to_le_bytes()).unwrap();
        }
        for index in 0..BURST {
            let mut received = [0; 4];
            assert_eq!(socket.recv(&mut received).unwrap(), 4);
            assert_eq!(u32::from_le_bytes(received), round * BURST + index);
        }
    }
    socket.send(b"quit").unwrap();
    vm.expect_pass();
}

#[vm_test(kernel = "net_echo", mmio, pci)]
fn frames_wait_while_the_machine_is_paused(vm: &mut TestVm) {
    let (_tap, socket) = boot_echo(vm, &json!({ "guest_mac": "06:00:ac:10:00:04" }));
    for round in 0..10_u32 {
        for state in ["Paused", "Resumed"] {
            let answer = vm.request("PATCH", "/vm", Some(&json!({ "state": state })));
            assert_eq!(answer.status, 204, "{:?}", answer.body);
            if state == "Paused" {
                socket.send(&round.to_le_bytes()).unwrap();
            }
        }
        let mut received = [0; 4];
        assert_eq!(socket.recv(&mut received).unwrap(), 4);
        assert_eq!(u32::from_le_bytes(received), round);
    }
    socket.send(b"quit").unwrap();
    vm.expect_pass();
}

#[vm_test(kernel = "hello")]
fn two_interfaces_may_not_share_an_address(vm: &mut TestVm) {
    let taps = [Tap::new(), Tap::new()];
    let mac = "06:00:00:00:00:01";
    let body = |id: &str, tap: &Tap| json!({ "iface_id": id, "host_dev_name": tap.name(), "guest_mac": mac });
    vm.put("/network-interfaces/one", &body("one", &taps[0]));
    let two = body("two", &taps[1]);
    let why = vm.refused("PUT", "/network-interfaces/two", Some(&two));
    assert_eq!(
        why,
        "Network config error: The MAC address is already in use: 06:00:00:00:00:01"
    );
    // The same interface may be put again: its tap is closed first.
    vm.put("/network-interfaces/one", &body("one", &taps[0]));
}

#[vm_test(kernel = "hello")]
fn a_refused_interface_leaves_the_one_it_would_have_replaced(vm: &mut TestVm) {
    let tap = Tap::new();
    let good = json!({ "iface_id": "one", "host_dev_name": tap.name(), "mtu": 1400 });
    vm.put("/network-interfaces/one", &good);
    for (field, value) in [("mtu", json!(67)), ("host_dev_name", json!("a".repeat(16)))] {
        let mut bad = good.clone();
        bad[field] = value;
        vm.refused("PUT", "/network-interfaces/one", Some(&bad));
        assert!(tap.exists(), "{field}: the tap was let go");
        let config = vm.request("GET", "/vm/config", None).body.unwrap();
        assert_eq!(config["network-interfaces"][0]["mtu"], 1400, "{config}");
    }
    vm.start();
    vm.expect_pass();
}

#[vm_test(kernel = "net_echo")]
fn each_direction_has_its_own_limit(vm: &mut TestVm) {
    let frames = |size: u32| json!({ "ops": { "size": size, "refill_time": 1000 } });
    // ARP takes its share before the first datagram.
    let limits = json!({
        "guest_mac": "06:00:ac:10:00:04",
        "rx_rate_limiter": frames(20),
        "tx_rate_limiter": frames(1000),
    });
    let (_tap, socket) = boot_echo(vm, &limits);
    let paced = |socket: &UdpSocket| {
        let begin = Instant::now();
        for _ in 0..40 {
            socket.send(b"tick").unwrap();
            assert_eq!(socket.recv(&mut [0; 64]).unwrap(), 4);
        }
        begin.elapsed()
    };
    let elapsed = paced(&socket);
    assert!(elapsed >= Duration::from_millis(900), "{elapsed:?}");
    let none = json!({ "ops": { "size": 0, "refill_time": 0 } });
    let patch =
        json!({ "iface_id": "eth0", "rx_rate_limiter": none, "tx_rate_limiter": frames(20) });
    let answer = vm.request("PATCH", "/network-interfaces/eth0", Some(&patch));
    assert_eq!(answer.status, 204, "{:?}", answer.body);
    let elapsed = paced(&socket);
    assert!(elapsed >= Duration::from_millis(900), "{elapsed:?}");
    let lift = json!({ "iface_id": "eth0", "tx_rate_limiter": none });
    vm.request("PATCH", "/network-interfaces/eth0", Some(&lift));
    let config = vm.request("GET", "/vm/config", None).body.unwrap();
    let interface = &config["network-interfaces"][0];
    assert!(interface["rx_rate_limiter"].is_null() && interface["tx_rate_limiter"].is_null());
    let other = json!({ "iface_id": "eth1" });
    let why = vm.refused("PATCH", "/network-interfaces/eth1", Some(&other));
    assert!(
        why.contains(
            "Unable to update the net device: Failed perform action on device: Device not found"
        ),
        "{why}"
    );
    socket.send(b"quit").unwrap();
    vm.expect_pass();
}

#[vm_test(kernel = "net_pairs", mmio, pci)]
fn answers_come_on_the_pair_of_queues_that_asked(vm: &mut TestVm) {
    let tap = Tap::new();
    let mac = "06:00:ac:10:00:05";
    vm.put(
        "/network-interfaces/eth0",
        &json!({
            "iface_id": "eth0", "host_dev_name": tap.name(), "guest_mac": mac, "num_queues": 4,
        }),
    );
    tap.up();
    tap.knows(mac);
    let socket = UdpSocket::bind((tap.host_ip(), 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let port = socket.local_addr().unwrap().port();
    vm.boot("boot_args", format!("ip={} port={port}", tap.guest_ip()));
    vm.start();
    for question in 0..8_u16 {
        let (_, asker) = socket.recv_from(&mut [0; 64]).unwrap();
        assert_eq!(asker.port(), 1000 + question % 4);
        socket.send_to(b"answer", asker).unwrap();
    }
    vm.expect_pass();
}

#[vm_test(kernel = "net_echo", mmio, pci)]
fn a_driver_that_knows_one_pair_has_all_frames_on_it(vm: &mut TestVm) {
    let interface = json!({ "guest_mac": "06:00:ac:10:00:06", "num_queues": 3 });
    let (tap, socket) = boot_echo(vm, &interface);
    let sockets: Vec<_> = (0..16)
        .map(|_| {
            let other = UdpSocket::bind((tap.host_ip(), 0)).unwrap();
            other.connect(socket.peer_addr().unwrap()).unwrap();
            other
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            other
        })
        .collect();
    for (index, other) in sockets.iter().enumerate() {
        other.send(&[index as u8]).unwrap();
        let mut received = [0; 8];
        assert_eq!(other.recv(&mut received).unwrap(), 1);
        assert_eq!(received[0], index as u8);
    }
    socket.send(b"quit").unwrap();
    vm.expect_pass();
    assert!(!tap.exists(), "the tap is left behind");
}

#[vm_test(kernel = "hello")]
fn a_tap_of_one_queue_serves_one_pair_only(vm: &mut TestVm) {
    let tap = Tap::new();
    tap.make(&[]);
    let mut body = json!({ "iface_id": "eth0", "host_dev_name": tap.name(), "num_queues": 2 });
    let why = vm.refused("PUT", "/network-interfaces/eth0", Some(&body));
    assert!(why.contains("leave num_queues out"), "{why}");
    body["num_queues"] = json!(1);
    vm.put("/network-interfaces/eth0", &body);
    for count in [0, 33] {
        body["num_queues"] = json!(count);
        let why = vm.refused("PUT", "/network-interfaces/eth0", Some(&body));
        assert!(why.contains("is out of range [1, 32]"), "{why}");
    }
    vm.start();
    vm.expect_pass();
    tap.remove();
}
