//! What a driver sees through the window.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use crate::Registers;
use crate::testing::suite::device_suite;
use crate::testing::{Buffer, FakeGuest, InlineLoop, guest_memory};
use crate::virtio::queue::Queue;
use crate::virtio::transport::Transport;
use crate::virtio::transport::echo::{EVENT_IDX, Echo};
use crate::virtio::{QueueError, Worker, WorkerId, WorkerLoop};

const STATUS: u64 = 0x70;

#[test]
fn identity_is_modern_and_of_no_vendor() {
    let guest = FakeGuest::new(Echo::new());
    let identity: Vec<_> = (0..4).map(|word| guest.read(4 * word)).collect();
    assert_eq!(identity, [0x7472_6976, 2, 42, 0]);
}

#[test]
fn features_are_read_by_halves() {
    let guest = FakeGuest::new(Echo::new());
    let mut halves = Vec::new();
    for word in [0, 1, 2, u32::MAX] {
        guest.write(0x14, word);
        halves.push(guest.read(0x10));
    }
    assert_eq!(halves, [0x2000_0001, 1, 0, 0]);
}

#[test]
fn request_goes_round_and_interrupts_once() {
    let mut guest = FakeGuest::running(Echo::new(), 0);
    assert_eq!(guest.read(STATUS), 15);
    let head = guest.queues[1].add(&[Buffer::Writable(0x100, 7)]);
    guest.kick().unwrap();
    assert_eq!(guest.queues[1].take_used(), [(head, 7)]);
    assert_eq!(guest.irq.take(), 1);
    assert_eq!(guest.read(0x60), 1);
    guest.write(0x64, 1);
    assert_eq!(guest.read(0x60), 0);
}

#[test]
fn queue_that_was_not_enabled_stays_silent() {
    let mut guest = FakeGuest::new(Echo::new());
    guest.negotiate(0);
    guest.set_up_queues();
    guest.write(0x30, 1);
    guest.write(0x44, 0);
    guest.write(STATUS, 15);
    guest.queues[1].add(&[Buffer::Writable(0x100, 7)]);
    guest.kick().unwrap();
    assert_eq!(guest.queues[1].take_used(), []);
}

#[test]
fn queue_registers_are_closed_before_features_and_when_ready() {
    let guest = FakeGuest::new(Echo::new());
    guest.write(0x44, 1);
    assert_eq!(guest.read(0x44), 0);
    guest.negotiate(0);
    guest.write(0x44, 1);
    assert_eq!(guest.read(0x44), 1);
    guest.write(0x80, 0x1000);
    guest.write(STATUS, 0);
    guest.negotiate(0);
    assert_eq!(guest.read(0x44), 0);
}

#[test]
fn selecting_a_queue_that_does_not_exist_reads_as_none() {
    let guest = FakeGuest::new(Echo::new());
    guest.negotiate(0);
    for queue in [2, 0xffff, u32::MAX] {
        guest.write(0x30, queue);
        assert_eq!((guest.read(0x34), guest.read(0x44)), (0, 0));
        guest.write(0x44, 1);
    }
}

#[test]
fn impossible_ring_needs_a_reset_and_recovers_by_one() {
    let mut guest = FakeGuest::new(Echo::new());
    guest.negotiate(0);
    guest.set_up_queues();
    guest.write(0x44, 0);
    guest.write(0x30, 0);
    guest.write(0x44, 0);
    guest.write(0x84, 0xdead_0000);
    guest.write(0x44, 1);
    guest.write(STATUS, 15);
    assert_eq!(guest.read(STATUS), 15 | 0x40);
    assert_eq!(guest.read(0x60), 2);
    assert_eq!(guest.irq.take(), 1);
    assert!(guest.workers.is_empty());
    guest.write(STATUS, 0);
    assert_eq!(guest.read(STATUS), 0);
    guest.start(0);
    assert_eq!(guest.read(STATUS), 15);
    assert_eq!(guest.workers.len(), 1);
}

#[test]
fn device_that_does_not_start_needs_a_reset() {
    let mut device = Echo::new();
    device.fails = true;
    let guest = FakeGuest::running(device, 0);
    assert_eq!(guest.read(STATUS), 15 | 0x40);
}

/// Counts what is logged on its thread.
#[derive(Clone, Default)]
struct LogCounter(Arc<AtomicUsize>);

impl tracing::Subscriber for LogCounter {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::DEBUG
    }

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::Id {
        tracing::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}
    fn enter(&self, _: &tracing::Id) {}
    fn exit(&self, _: &tracing::Id) {}
}

#[test]
fn a_driver_cannot_fill_the_log_by_starting_a_device_that_fails() {
    let mut device = Echo::new();
    device.fails = true;
    let mut guest = FakeGuest::new(device);
    let logged = LogCounter::default();
    tracing::subscriber::with_default(logged.clone(), || {
        for _ in 0..5 {
            guest.start(0);
            guest.write(STATUS, 0);
        }
    });
    assert_eq!(logged.0.load(Ordering::Relaxed), 1);
}

#[test]
fn broken_rings_need_a_reset() {
    let mut guest = FakeGuest::running(Echo::new(), 0);
    guest.queues[0].set_available_index(100);
    assert_eq!(guest.kick(), Err(QueueError::AvailableIndex));
    assert_eq!(guest.read(STATUS), 15 | 0x40);
    guest.write(STATUS, 0);
    guest.start(0);
    guest.queues[0].add(&[Buffer::Writable(0x100, 7)]);
    guest.kick().unwrap();
    assert_eq!(guest.queues[0].take_used().len(), 1);
}

#[test]
fn writing_back_needs_reset_is_no_new_step() {
    let guest = FakeGuest::running(Echo::new(), 0);
    guest.queues[0].set_available_index(100);
    let _ = guest.kick();
    guest.write(STATUS, guest.read(STATUS) | 0x80);
    assert_eq!(guest.read(STATUS), 15 | 0x40 | 0x80);
}

#[test]
fn reset_takes_the_worker_off_the_loop() {
    let guest = FakeGuest::running(Echo::new(), 0);
    assert_eq!(guest.workers.len(), 1);
    guest.write(STATUS, 0);
    assert_eq!(guest.workers.len(), 0);
    assert_eq!(guest.read(STATUS), 0);
    guest.write(STATUS, 0);
    assert_eq!(guest.read(STATUS), 0);
}

#[test]
fn config_takes_every_width_and_ends_where_it_ends() {
    let guest = FakeGuest::new(Echo::new());
    let read = |offset: u64, len: usize| {
        let mut data = vec![0xee; len];
        guest.transport.read(0x100 + offset, &mut data);
        data
    };
    assert_eq!(read(0, 1), [1]);
    assert_eq!(read(1, 2), [2, 3]);
    assert_eq!(read(0, 8), [1, 2, 3, 4, 5, 6, 0, 0]);
    assert_eq!(read(5, 4), [6, 0, 0, 0]);
    assert_eq!(read(0xeff, 1), [0]);
    guest.transport.write(0x100, &[9]);
    assert_eq!(read(0, 1), [1], "no driver yet");
    guest.negotiate(0);
    guest.transport.write(0x104, &[7, 8, 9, 10]);
    assert_eq!(read(4, 4), [7, 8, 0, 0]);
}

#[test]
fn registers_are_words() {
    let guest = FakeGuest::new(Echo::new());
    for len in [1, 2, 3, 8] {
        let mut data = vec![0xee; len];
        guest.transport.read(0, &mut data);
        assert_eq!(data, vec![0; len]);
        guest.transport.write(STATUS, &vec![1; len]);
    }
    assert_eq!(guest.read(STATUS), 0);
    let mut data = [0xee; 4];
    guest.transport.read(u64::MAX, &mut data);
    guest.transport.read(0x2, &mut data);
    assert_eq!(data, [0; 4]);
}

#[test]
fn config_change_moves_the_generation_and_interrupts() {
    let device = Echo::new();
    let interrupt = Arc::clone(&device.interrupt);
    let guest = FakeGuest::running(device, 0);
    let before = guest.read(0xfc);
    interrupt.lock().unwrap().as_ref().unwrap().config();
    assert_ne!(guest.read(0xfc), before);
    assert_eq!(guest.read(0x60), 2);
}

#[test]
fn parked_device_goes_on_where_it_stopped() {
    let mut guest = FakeGuest::running(Echo::new(), EVENT_IDX);
    guest.queues[0].add(&[Buffer::Writable(0x100, 7)]);
    guest.kick().unwrap();
    assert_eq!(guest.transport.state(), None);
    guest.transport.slot().pause();
    assert!(guest.workers.is_empty());
    assert!(guest.transport.state().is_some());
    guest.queues[0].add(&[Buffer::Writable(0x200, 8)]);
    guest.transport.slot().resume();
    guest.kick().unwrap();
    assert_eq!(guest.queues[0].take_used().len(), 2);
}

#[test]
fn pausing_a_device_that_is_not_started_changes_nothing() {
    let mut guest = FakeGuest::new(Echo::new());
    guest.transport.slot().pause();
    guest.transport.slot().resume();
    guest.start(0);
    assert_eq!(guest.read(STATUS), 15);
}

#[test]
fn saved_device_goes_on_elsewhere_and_hears_of_pending_interrupts() {
    let mut guest = FakeGuest::running(Echo::new(), 0);
    guest.queues[0].add(&[Buffer::Writable(0x100, 7)]);
    guest.kick().unwrap();
    guest.transport.slot().pause();
    let state = guest.transport.state().unwrap();
    let text = serde_json::to_string(&state).unwrap();
    let copy = FakeGuest::new(Echo::new());
    copy.transport
        .restore(serde_json::from_str(&text).unwrap())
        .unwrap();
    assert_eq!(copy.transport.state().unwrap(), state);
    assert_eq!(copy.read(STATUS), 15);
    assert_eq!(copy.read(0x60), 1);
    copy.transport.slot().resume();
    assert_eq!(copy.irq.take(), 1);
    assert_eq!(copy.workers.len(), 1);
}

#[test]
fn state_of_another_device_is_refused() {
    let guest = FakeGuest::running(Echo::new(), 0);
    guest.transport.slot().pause();
    let state = guest.transport.state().unwrap();
    let good = serde_json::to_value(&state).unwrap();
    for (pointer, value) in [
        ("/negotiation/status", 7),
        ("/negotiation/driver_features", 2),
        ("/queues/0/size", 32),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value.into();
        let fresh = FakeGuest::new(Echo::new());
        let refused = fresh
            .transport
            .restore(serde_json::from_value(bad).unwrap());
        assert!(refused.is_err(), "{pointer}");
        assert_eq!(fresh.read(STATUS), 0);
    }
}

/// A loop whose `stop` waits until the test saw what the other vCPUs see meanwhile.
struct SlowLoop {
    inner: InlineLoop,
    stopping: Barrier,
    stopped: AtomicBool,
}

impl WorkerLoop for SlowLoop {
    fn start(&self, id: WorkerId, worker: Box<dyn Worker>) {
        self.inner.start(id, worker);
    }

    fn stop(&self, id: WorkerId) -> Vec<Queue> {
        self.stopping.wait();
        self.stopping.wait();
        self.stopped.store(true, Ordering::SeqCst);
        self.inner.stop(id)
    }
}

#[test]
fn reset_is_over_when_the_write_returns_and_other_vcpus_wait_for_nothing() {
    let workers = Arc::new(SlowLoop {
        inner: InlineLoop::default(),
        stopping: Barrier::new(2),
        stopped: AtomicBool::new(false),
    });
    let mut guest = FakeGuest::new(Echo::new());
    guest.transport = Arc::new(super::MmioTransport::new(
        WorkerId(1),
        Echo::new(),
        guest_memory(4 << 20),
        Box::new(guest.irq.clone()),
        vmm_sys_util::eventfd::EventFd::new(0).unwrap(),
        Arc::clone(&workers) as Arc<dyn WorkerLoop>,
    ));
    guest.memory = guest_memory(4 << 20);
    guest.start(0);
    std::thread::scope(|scope| {
        let vcpu = scope.spawn(|| {
            guest.write(STATUS, 0);
            assert!(workers.stopped.load(Ordering::SeqCst));
            assert_eq!(guest.read(STATUS), 0);
        });
        workers.stopping.wait();
        assert_ne!(guest.read(STATUS), 0);
        guest.write(STATUS, 0);
        guest.write(STATUS, 1);
        assert_ne!(guest.read(STATUS), 0);
        workers.stopping.wait();
        vcpu.join().unwrap();
    });
}

device_suite!(Echo::new());
