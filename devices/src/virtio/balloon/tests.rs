//! The balloon as a driver and a user see it.

use std::thread::sleep;

use super::*;
use crate::testing::suite::device_suite;
use crate::testing::{Bench, Buffer, FakeGuest};
use crate::virtio::transport::Transport;
use vm_config::GuestStatistics;

const MIB: usize = 1 << 20;
const STATS: u64 = 1 << VIRTIO_BALLOON_F_STATS_VQ;
const HINT: u64 = 1 << VIRTIO_BALLOON_F_FREE_PAGE_HINT;
const REPORTING: u64 = 1 << VIRTIO_BALLOON_F_PAGE_REPORTING;

/// Where the driver's lists lie, and the pages it plays with.
const LIST: u64 = 0x1000;
const PAGES_AT: u64 = 0x10_0000;

fn config() -> BalloonConfig {
    BalloonConfig {
        amount_mib: 3,
        deflate_on_oom: true,
        stats_polling_interval_s: 1,
        free_page_hinting: true,
        free_page_reporting: true,
    }
}

device_suite!(Box::new(Balloon::new(&config())));

/// A running balloon whose driver accepted `features`, in memory full of sevens.
fn running(features: u64) -> FakeGuest {
    let guest = FakeGuest::running(Box::new(Balloon::new(&config())), features);
    guest.poke(PAGES_AT, &vec![7; MIB]);
    guest
}

fn frames(frames: &[u32]) -> Vec<u8> {
    frames
        .iter()
        .flat_map(|frame| frame.to_le_bytes())
        .collect()
}

/// Pages of the playground that were given back, by number.
fn given_back(guest: &FakeGuest) -> Vec<u64> {
    let is_zero = |page: &u64| guest.peek(PAGES_AT + (page << 12), 4096) == [0; 4096];
    (0..256).filter(is_zero).collect()
}

fn with_balloon<R>(guest: &FakeGuest, change: impl FnOnce(&mut Balloon) -> R) -> R {
    guest.transport.slot().pause();
    let result = guest.transport.slot().change(|device| {
        let device: &mut dyn std::any::Any = device;
        change(device.downcast_mut().unwrap())
    });
    guest.transport.slot().resume();
    result.unwrap()
}

#[test]
fn configuration_tells_target_actual_and_command() {
    let guest = running(0);
    assert_eq!(guest.read(0x100), 3 * 256);
    guest.write(0x104, 77);
    guest.write(0x100, 99);
    guest.write(0x108, 99);
    assert_eq!(
        [0x100, 0x104, 0x108].map(|at| guest.read(at)),
        [3 * 256, 77, 0]
    );
}

#[test]
fn queues_are_those_of_the_features() {
    let bare = BalloonConfig {
        amount_mib: 0,
        deflate_on_oom: false,
        stats_polling_interval_s: 0,
        free_page_hinting: false,
        free_page_reporting: true,
    };
    let traits = Balloon::new(&bare).traits();
    assert_eq!(traits.queue_sizes, [256; 3]);
    assert_eq!(traits.features, 1 << 32 | REPORTING);
    assert_eq!(Balloon::new(&config()).traits().queue_sizes, [256; 5]);
}

#[test]
fn inflated_pages_are_given_back_and_others_kept() {
    let mut guest = running(0);
    let first = u32::try_from(PAGES_AT >> 12).unwrap();
    let list = frames(&[first + 9, first + 8, 0x4000_0000, first + 3, u32::MAX]);
    guest.poke(LIST, &list);
    guest.queues[0].add(&[Buffer::Readable(LIST, 20)]);
    guest.kick().unwrap();
    assert_eq!(guest.queues[0].take_used(), [(0, 0)]);
    assert_eq!(given_back(&guest), [3, 8, 9]);
    assert_eq!(guest.irq.take(), 1);
}

#[test]
fn deflating_gives_the_list_back_and_touches_nothing() {
    let mut guest = running(0);
    guest.poke(LIST, &frames(&[u32::try_from(PAGES_AT >> 12).unwrap()]));
    guest.queues[1].add(&[Buffer::Readable(LIST, 4)]);
    guest.kick().unwrap();
    assert_eq!(guest.queues[1].take_used(), [(0, 0)]);
    assert_eq!(given_back(&guest), [0; 0]);
}

#[test]
fn reported_ranges_are_given_back_before_the_driver_has_them_again() {
    let mut guest = running(REPORTING);
    // With one feature accepted its queue is the third.
    guest.queues[2].add(&[
        Buffer::Writable(PAGES_AT + 0x4000, 0x3000),
        Buffer::Writable(PAGES_AT + 0x7000, 0x1000),
        Buffer::Writable(PAGES_AT + 0x9800, 0x1800),
    ]);
    guest.kick().unwrap();
    assert_eq!(guest.queues[2].take_used(), [(0, 0)]);
    assert_eq!(given_back(&guest), [4, 5, 6, 7, 10]);
}

#[test]
fn hints_count_only_during_their_run() {
    let mut guest = running(HINT);
    let hint = |guest: &mut FakeGuest, page: u64| {
        guest.queues[2].add(&[Buffer::Writable(PAGES_AT + (page << 12), 0x1000)]);
        guest.kick().unwrap();
    };
    let command = |guest: &mut FakeGuest, command: u32| {
        guest.poke(LIST, &command.to_le_bytes());
        guest.queues[2].add(&[Buffer::Readable(LIST, 4)]);
        guest.kick().unwrap();
    };
    hint(&mut guest, 1);
    with_balloon(&guest, |balloon| {
        balloon.start_hinting(HintingStart::default())
    })
    .unwrap();
    assert_eq!(guest.read(0x108), 2);
    hint(&mut guest, 2);
    command(&mut guest, 2);
    hint(&mut guest, 3);
    assert_eq!(given_back(&guest), [3]);

    // The driver is done: it is told so, and what it still sends is in use again.
    let generation = guest.read(0xfc);
    command(&mut guest, 0);
    assert_eq!(guest.read(0x108), 1);
    assert_ne!(guest.read(0xfc), generation);
    hint(&mut guest, 4);
    assert_eq!(given_back(&guest), [3]);
    let status = with_balloon(&guest, |balloon| balloon.hinting_status()).unwrap();
    assert_eq!((status.host_cmd, status.guest_cmd), (1, Some(0)));
}

#[test]
fn a_run_that_is_not_acknowledged_lasts_until_it_is_stopped() {
    let mut guest = running(HINT);
    let how = HintingStart {
        acknowledge_on_stop: false,
    };
    for run in [2, 3] {
        with_balloon(&guest, |balloon| balloon.start_hinting(how)).unwrap();
        guest.poke(LIST, &0_u32.to_le_bytes());
        guest.queues[2].add(&[Buffer::Readable(LIST, 4)]);
        guest.kick().unwrap();
        assert_eq!(guest.read(0x108), run);
        with_balloon(&guest, Balloon::stop_hinting).unwrap();
        assert_eq!(guest.read(0x108), 1);
    }
}

#[test]
fn statistics_are_held_until_new_ones_are_wanted() {
    let mut guest = running(STATS);
    let mut record = 4_u16.to_le_bytes().to_vec();
    record.extend(1234_u64.to_le_bytes());
    guest.poke(LIST, &record);
    guest.queues[2].add(&[Buffer::Readable(LIST, 10)]);
    guest.kick().unwrap();
    assert_eq!(guest.queues[2].take_used(), []);
    let statistics = with_balloon(&guest, |balloon| balloon.statistics()).unwrap();
    let told = GuestStatistics {
        free_memory: Some(1234),
        ..GuestStatistics::default()
    };
    assert_eq!(statistics.guest, told);
    assert_eq!((statistics.target_pages, statistics.target_mib), (768, 3));
    // The worker made since has not looked at its queues yet.
    guest.kick().unwrap();
    assert_eq!(guest.queues[2].take_used(), []);
    sleep(Duration::from_millis(1100));
    guest.workers.turn().unwrap();
    assert_eq!(guest.queues[2].take_used(), [(0, 0)]);
}

#[test]
fn of_more_statistics_buffers_the_latest_is_held() {
    let mut guest = running(STATS);
    guest.poke(LIST, &[0; 10]);
    for _ in 0..3 {
        guest.queues[2].add(&[Buffer::Readable(LIST, 10)]);
    }
    guest.kick().unwrap();
    assert_eq!(guest.queues[2].take_used(), [(0, 0), (1, 0)]);
}

#[test]
fn a_buffer_behind_one_that_is_held_comes_back_once_whatever_it_is() {
    let mut guest = running(STATS);
    guest.poke(LIST, &[0; 10]);
    for len in [10, 9] {
        guest.queues[2].add(&[Buffer::Readable(LIST, len)]);
    }
    guest.kick().unwrap();
    with_balloon(&guest, |_| ());
    guest.workers.turn().unwrap();
    assert_eq!(guest.queues[2].take_used(), [(0, 0), (1, 0)]);
}

#[test]
fn what_was_not_offered_cannot_be_asked() {
    let mut balloon = Balloon::new(&BalloonConfig {
        stats_polling_interval_s: 0,
        free_page_hinting: false,
        ..config()
    });
    assert_eq!(balloon.statistics(), Err(BalloonError::NoStatistics));
    let refused = Err(BalloonError::StatisticsStateChange);
    assert_eq!(balloon.set_interval(1), refused);
    assert_eq!(balloon.set_interval(0), Ok(()));
    let hinting = balloon.start_hinting(HintingStart::default());
    assert_eq!(hinting, Err(BalloonError::NoHinting));
    assert_eq!(balloon.stop_hinting(), Err(BalloonError::NoHinting));
    assert_eq!(balloon.hinting_status(), Err(BalloonError::NoHinting));
}

#[test]
fn a_turn_is_bounded_and_goes_on() {
    let mut guest = running(0);
    let len = u32::try_from(4 * pages::MAX_FRAMES).unwrap();
    for _ in 0..5 {
        guest.queues[0].add(&[Buffer::Readable(0x2000, len)]);
    }
    guest.kick().unwrap();
    let first = guest.queues[0].take_used().len();
    assert!(first < 5, "{first} of 5 lists in one turn");
    let mut rest = 0;
    for _ in 0..5 {
        guest.workers.turn().unwrap();
        rest += guest.queues[0].take_used().len();
    }
    assert_eq!(first + rest, 5);
}

#[test]
fn inflating_allocates_nothing_per_list() {
    let mut bench = Bench::new(&mut Balloon::new(&config()), 1 << 32);
    let mut counts = [0; 3];
    for count in &mut counts {
        bench.drivers[0].add(&[Buffer::Readable(0x2000, 1024)]);
        *count = bench.allocations_of(0);
    }
    assert_eq!(counts[1..], [0, 0]);
}
