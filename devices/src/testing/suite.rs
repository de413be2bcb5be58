//! What holds for every virtio device, whatever a driver does. A device joins with one line in its tests:
//!
//! ```ignore
//! crate::testing::suite::device_suite!(Box::new(Block::open(&drive()).unwrap()));
//! ```

use vm_memory::{Bytes, GuestAddress};

use super::guest::{Guest, NEEDS_RESET, QUEUES_AT, RUNNING};
use super::{FakeDriver, MEMORY};
use crate::virtio::VirtioDevice;
use crate::virtio::queue::QueueState;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Makes the device under test, anew each time.
pub type Make<'a> = &'a dyn Fn() -> Box<dyn VirtioDevice>;

/// Makes a test of each rule, on each transport, for the device that `$make` makes.
#[cfg(test)]
macro_rules! device_suite {
    ($make:expr) => {
        mod every_device {
            use super::*;

            crate::testing::suite::device_suite!($make, mmio: FakeGuest);
            crate::testing::suite::device_suite!($make, pci: PciGuest);
        }
    };
    ($make:expr, $transport:ident: $guest:ident) => {
        crate::testing::suite::device_suite!($make, $transport: $guest =>
            resets_and_starts_again
            survives_garbage_in_every_register
            survives_hostile_rings
            refuses_impossible_queues
            survives_rings_on_top_of_each_other
            returns_hostile_chains_once
            survives_random_chains
            runs_with_queues_of_every_size
            goes_on_after_a_pause
            goes_on_elsewhere_after_being_saved
        );
    };
    ($make:expr, $transport:ident: $guest:ident => $($rule:ident)*) => {
        mod $transport {
            use super::*;
            $(
                #[test]
                fn $rule() {
                    crate::testing::suite::$rule::<crate::testing::$guest>(&|| $make);
                }
            )*
        }
    };
}

#[cfg(test)]
pub(crate) use device_suite;

/// A reset is over when the write returns, can be repeated, and leaves a device that starts again.
///
/// # Panics
/// When the rule is broken; so do all rules.
pub fn resets_and_starts_again<G: Guest>(make: Make<'_>) {
    let mut guest = G::new(make());
    for _ in 0..3 {
        guest.set_status(0);
        guest.set_status(0);
        assert_eq!(guest.status(), 0);
        assert!(guest.workers().is_empty());
        assert_starts(&mut guest, 0);
    }
}

/// No access of any width or value panics, whether the device runs or not.
pub fn survives_garbage_in_every_register<G: Guest>(make: Make<'_>) {
    let mut guest = G::new(make());
    let places = guest.places();
    for is_running in [false, true] {
        for value in [0x00, 0x01, 0x0f, 0x80, 0xff] {
            for place in &places {
                if is_running && guest.status() != RUNNING {
                    restart(&mut guest);
                }
                for len in [1, 2, 4, 8] {
                    let mut data = [value; 8];
                    guest.write_at(*place, &data[..len]);
                    guest.read_at(*place, &mut data[..len]);
                }
                let _ = guest.workers().turn();
            }
        }
    }
    restart(&mut guest);
}

/// Rings that make no sense stop the device, and a reset mends it.
pub fn survives_hostile_rings<G: Guest>(make: Make<'_>) {
    let mut guest = G::new(make());
    for queue in 0..queues(make) {
        for corruption in 0..3 {
            restart(&mut guest);
            let driver = &mut guest.queues()[queue];
            let size = driver.state().size;
            match corruption {
                0 => driver.set_available_index(size + 1),
                1 => driver.set_available_index(u16::MAX),
                _ => driver.publish(size),
            }
            let outcome = guest.kick();
            let status = guest.status();
            assert_eq!(outcome.is_err(), status & NEEDS_RESET != 0);
            assert_eq!(guest.queues()[queue].take_used(), []);
        }
    }
    restart(&mut guest);
}

/// A queue that cannot be keeps the device from starting, and a reset mends it. One that is not enabled does not
/// matter, whatever it says.
pub fn refuses_impossible_queues<G: Guest>(make: Make<'_>) {
    let mut guest = G::new(make());
    let end = u64::try_from(MEMORY).expect("a few MiB");
    let good = FakeDriver::new(guest.memory(), QUEUES_AT, 16).state();
    let bad = [
        QueueState { size: 0, ..good },
        QueueState { size: 3, ..good },
        QueueState {
            descriptor_table: QUEUES_AT + 8,
            ..good
        },
        QueueState {
            available_ring: QUEUES_AT + 0x101,
            ..good
        },
        QueueState {
            used_ring: QUEUES_AT + 0x202,
            ..good
        },
        QueueState {
            descriptor_table: end,
            ..good
        },
        QueueState {
            available_ring: end - 2,
            ..good
        },
        QueueState {
            used_ring: end - 4,
            ..good
        },
        QueueState {
            used_ring: 1 << 40,
            ..good
        },
        QueueState {
            descriptor_table: u64::MAX - 15,
            ..good
        },
    ];
    for queue in (0..).take(queues(make)) {
        for state in &bad {
            guest.set_status(0);
            guest.negotiate(0);
            guest.enable(queue, state);
            guest.set_status(RUNNING);
            assert_eq!(guest.status(), RUNNING | NEEDS_RESET, "{state:?}");
            assert!(guest.workers().is_empty(), "{state:?}");
            guest.notify(queue);
        }
    }
    restart(&mut guest);
}

/// Rings may lie over each other, over their buffers or over another queue's: what comes of it is the driver's.
pub fn survives_rings_on_top_of_each_other<G: Guest>(make: Make<'_>) {
    let mut guest = G::new(make());
    let good = FakeDriver::new(guest.memory(), QUEUES_AT, 16).state();
    let table = good.descriptor_table;
    let bad = [
        QueueState {
            used_ring: table,
            ..good
        },
        QueueState {
            used_ring: good.available_ring & !3,
            ..good
        },
        QueueState {
            available_ring: table,
            used_ring: table,
            ..good
        },
        // A buffer of each chain is the ring it goes back through.
        QueueState {
            used_ring: 0x1000,
            ..good
        },
    ];
    for state in &bad {
        guest.set_status(0);
        guest.negotiate(0);
        for queue in (0..).take(queues(make)) {
            guest.enable(queue, state);
        }
        guest.set_status(RUNNING);
        for index in 0..16 {
            let mut driver = FakeDriver::new(guest.memory(), table, 16);
            driver.describe(index, 0x1000, 0x200, NEXT, (index + 1) % 16);
            driver.describe((index + 1) % 16, 0x1000, 0x200, WRITE, 0);
            driver.publish(index);
            let _ = guest.kick();
        }
    }
    restart(&mut guest);
}

/// A chain that breaks a rule comes back at most once, and the device goes on.
pub fn returns_hostile_chains_once<G: Guest>(make: Make<'_>) {
    let far = u64::MAX - 7;
    let chains: &[&[(u64, u32, u16, u16)]] = &[
        &[(0x100, 8, NEXT, 1), (0x200, 8, NEXT, 0)],
        &[(0x100, 8, NEXT | WRITE, 0)],
        &[(0x100, 8, NEXT, u16::MAX)],
        &[(0x100, 0, 0, 0)],
        &[(0x100, 0, WRITE, 0)],
        &[(far, 16, 0, 0)],
        &[(far, 16, WRITE, 0)],
        &[(0, u32::MAX, WRITE, 0)],
        &[(0x100, 8, NEXT | WRITE, 1), (0x100, 8, 0, 0)],
        &[(0x100, 16, INDIRECT, 0)],
        &[(0x100, 16, INDIRECT | NEXT, 1), (0x200, 8, WRITE, 0)],
        // Indirect tables: empty, ragged, outside memory, of their own descriptor, longer than any queue.
        &[(0x100, 0, INDIRECT, 0)],
        &[(0x100, 17, INDIRECT, 0)],
        &[(far, 16, INDIRECT, 0)],
        &[(QUEUES_AT, 16, INDIRECT, 0)],
        &[(0x100, 16 << 15, INDIRECT, 0)],
        // Overlapping, and over the rings themselves.
        &[(0x100, 64, NEXT, 1), (0x120, 64, WRITE, 0)],
        &[(0x20_0000, 0x8000, 0, 0)],
    ];
    for features in [0, make().traits().features] {
        for queue in 0..queues(make) {
            for chain in chains {
                let mut guest = G::running(make(), features);
                let driver = &mut guest.queues()[queue];
                for (index, &(address, len, flags, next)) in (0..).zip(*chain) {
                    driver.describe(index, address, len, flags, next);
                }
                driver.publish(0);
                for _ in 0..2 {
                    guest.kick().expect("the rings are whole");
                }
                let used = guest.queues()[queue].take_used();
                assert!(used.len() <= 1, "{chain:?}");
                assert_eq!(guest.status(), RUNNING, "{chain:?}");
            }
        }
    }
}

/// Descriptors of random words, near and far, do no harm; every head comes back at most once.
pub fn survives_random_chains<G: Guest>(make: Make<'_>) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let offered = make().traits().features;
    for round in 0..20 {
        let features = if round % 2 == 0 { 0 } else { offered };
        let mut guest = G::running(make(), features);
        let memory = guest.memory().clone();
        for driver in guest.queues() {
            let size = driver.state().size;
            for index in 0..size {
                // Lengths and addresses mostly inside the lower half of memory, where no ring lies.
                let (word, other) = (random.next(), random.next());
                let (address, len) = match word % 8 {
                    0 => (other, word),
                    _ => (other % 0x1f_0000, word % 0x1_0000),
                };
                let (flags, next) = (word >> 20 & 7, word >> 24 & 0x1ff);
                driver.describe(index, address, low(len), low(flags), low(next));
                let _ = memory.write_obj(other, GuestAddress(other % 0x1f_0000));
            }
            for head in 0..size {
                driver.publish(head);
            }
        }
        for _ in 0..8 {
            let _ = guest.kick();
        }
        for driver in guest.queues() {
            let mut heads: Vec<_> = driver.take_used().into_iter().map(|used| used.0).collect();
            let count = heads.len();
            heads.sort_unstable();
            heads.dedup();
            assert_eq!(heads.len(), count);
        }
    }
}

/// Queues may be as short as one entry.
pub fn runs_with_queues_of_every_size<G: Guest>(make: Make<'_>) {
    for size in [1, 2, 64, u16::MAX] {
        let mut guest = G::new(make());
        guest.negotiate(0);
        guest.set_up_queues_of(size);
        guest.set_status(RUNNING);
        guest.kick().expect("the rings are whole");
        assert_eq!(guest.status(), RUNNING, "{size}");
    }
}

/// A pause keeps what was not done, once.
pub fn goes_on_after_a_pause<G: Guest>(make: Make<'_>) {
    let mut guest = G::running(make(), 0);
    for _ in 0..3 {
        publish_nothing(&mut guest);
        guest.kick().expect("the rings are whole");
        publish_nothing(&mut guest);
        guest.slot().pause();
        assert!(guest.workers().is_empty());
        guest.slot().resume();
        assert_eq!(guest.workers().len(), 1);
        guest.kick().expect("the rings are whole");
    }
    assert_eq!(guest.status(), RUNNING);
}

/// A saved state fits a new device on the same memory, and saves as the same again.
pub fn goes_on_elsewhere_after_being_saved<G: Guest>(make: Make<'_>) {
    let idle = G::new(make());
    let saved = idle.state().expect("it does not run");
    let copy = G::new(make());
    copy.restore(saved).expect("it is the same device");
    assert_eq!(copy.status(), 0);

    let mut first = G::running(make(), 0);
    publish_nothing(&mut first);
    assert!(first.state().is_none(), "a worker has the queues");
    first.slot().pause();
    let saved = first.state().expect("it is paused");
    let second = G::with_memory(make(), first.memory().clone());
    second
        .restore(saved.clone())
        .expect("it is the same device");
    assert_eq!(second.state(), Some(saved));
    second.slot().resume();
    second.kick().expect("the rings are whole");
    assert_eq!(second.status(), RUNNING);
    for driver in first.queues() {
        assert!(driver.take_used().len() <= 1);
    }
}

/// Starts the device and looks whether it runs.
fn assert_starts(guest: &mut impl Guest, features: u64) {
    guest.start(features);
    assert_eq!(guest.status(), RUNNING);
    assert_eq!(guest.workers().len(), 1);
    guest.kick().expect("the rings are whole");
}

/// Resets the device, whatever became of it, and starts it again.
pub fn restart(guest: &mut impl Guest) {
    guest.prepare();
    guest.set_status(0);
    assert_eq!(guest.status(), 0);
    assert!(guest.workers().is_empty());
    assert_starts(guest, 0);
}

/// How many queues the device has.
fn queues(make: Make<'_>) -> usize {
    make().traits().queue_sizes.len()
}

/// One malformed chain in every queue.
fn publish_nothing(guest: &mut impl Guest) {
    for driver in guest.queues() {
        driver.describe(0, 0x100, 0, 0, 0);
        driver.publish(0);
    }
}

/// As much of `word` as fits.
fn low<T: TryFrom<u64> + Default>(word: u64) -> T {
    let bits = 8 * size_of::<T>();
    T::try_from(word & (u64::MAX >> (64 - bits))).unwrap_or_default()
}

/// Marsaglia's xorshift: the same numbers each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
