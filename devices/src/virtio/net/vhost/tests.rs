use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use vm_config::NetworkBackend;

use super::super::Net;
use super::*;
use crate::testing::guest::{NEEDS_RESET, RUNNING};
use crate::testing::{Buffer, FakeGuest, Guest};
use crate::virtio::transport::Transport;

const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const PATIENCE: Duration = Duration::from_secs(5);

fn stated(more: &str) -> NetworkInterface {
    let text = format!(r#"{{"iface_id": "eth0", "host_dev_name": "t", "backend": "Vhost"{more}}}"#);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_tap_is_served_here_unless_asked_otherwise() {
    let plain = r#"{"iface_id": "eth0", "host_dev_name": "t"}"#;
    let plain: NetworkInterface = serde_json::from_str(plain).unwrap();
    assert_eq!(plain.backend, NetworkBackend::Tap);
    assert!(!serde_json::to_string(&plain).unwrap().contains("backend"));
    let vhost = serde_json::to_string(&stated("")).unwrap();
    assert!(vhost.contains(r#""backend":"Vhost""#), "{vhost}");
}

#[test]
fn limits_and_pairs_of_queues_are_refused_with_the_reason() {
    assert!(Net::check(&stated("")).is_ok());
    assert!(Net::check(&stated(r#", "num_queues": 1"#)).is_ok());
    for (more, words) in [
        (r#", "num_queues": 2"#, "one pair of queues"),
        (r#", "rx_rate_limiter": {}"#, "past this process"),
        (r#", "tx_rate_limiter": {}"#, "past this process"),
    ] {
        let text = Net::check(&stated(more)).unwrap_err().to_string();
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_missing_node_says_what_to_load() {
    let error = Kernel::open("/dev/no-such-node").err().unwrap();
    let text = error.to_string();
    assert!(text.contains("cannot use /dev/no-such-node"), "{text}");
    assert!(text.contains("load the kernel module vhost_net"), "{text}");
    assert!(text.contains("leave `backend` out"), "{text}");
}

/// A tap that is up, and an interface on it; `None` where this process cannot have them.
fn served(suffix: char) -> Option<(String, Net)> {
    let name = format!("clv{}{suffix}", std::process::id());
    let mut interface = stated("");
    interface.host_dev_name.clone_from(&name);
    let net = match Net::open(&interface) {
        Ok(net) => net,
        Err(error) => {
            eprintln!("skipped, runs as root where /dev/vhost-net is: {error}");
            return None;
        }
    };
    let up = Command::new("ip")
        .args(["link", "set", &name, "up"])
        .status();
    assert!(up.unwrap().success());
    Some((name, net))
}

/// Looks again until something is there.
fn wait<R>(mut look: impl FnMut() -> Option<R>) -> R {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "it does not come");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Sends frames to everyone, and waits until the kernel has given all of them back.
fn send(guest: &mut FakeGuest, count: usize) {
    let mut frame = [0; 72];
    frame[12..18].fill(0xff);
    frame[18] = 2;
    guest.poke(0x1000, &frame);
    for _ in 0..count {
        guest.queues[1].add(&[Buffer::Readable(0x1000, 72)]);
    }
    guest.kick().unwrap();
    let mut used = 0;
    wait(|| {
        used += guest.queues[1].take_used().len();
        (used == count).then_some(())
    });
}

#[test]
fn frames_pass_and_every_index_returns() {
    for (suffix, features) in [('a', 0), ('b', EVENT_IDX)] {
        let Some((name, net)) = served(suffix) else {
            return;
        };
        let mut guest = FakeGuest::running(Box::new(net), features);
        for round in 1..=5_u16 {
            send(&mut guest, 7);
            wait(|| {
                guest.workers.turn().unwrap();
                (guest.irq.take() > 0).then_some(())
            });
            guest.transport.slot().pause();
            let saved = guest.state().unwrap();
            let saved = serde_json::to_value(&saved).unwrap();
            let queue = saved.to_string();
            let index = format!(r#""next_available":{0},"next_used":{0}"#, 7 * round);
            assert!(queue.contains(&index), "{index} is not in {queue}");
            guest.transport.slot().resume();
        }
        let counter = format!("/sys/class/net/{name}/statistics/rx_packets");
        let arrived = std::fs::read_to_string(counter).unwrap();
        assert_eq!(arrived.trim(), "35");
    }
}

#[test]
fn rings_that_make_no_sense_need_a_reset_which_mends_them() {
    let Some((_name, net)) = served('h') else {
        return;
    };
    let metrics = net.metrics();
    let mut guest = FakeGuest::running(Box::new(net), 0);
    for fails in 1..=3 {
        send(&mut guest, 3);
        guest.queues[1].set_available_index(0x8000);
        let mut turned = guest.kick();
        wait(|| {
            if turned.is_ok() {
                turned = guest.workers.turn();
            }
            turned.err()
        });
        assert_eq!(turned, Err(QueueError::Host));
        assert_eq!(guest.status(), RUNNING | NEEDS_RESET);
        assert_eq!(metrics.event_fails.get(), fails);
        guest.set_status(0);
        guest.start(0);
    }
    send(&mut guest, 3);
}
