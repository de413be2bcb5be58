//! What holds for every virtio device, whatever a driver does. A device joins with one line in its tests:
//!
//! ```ignore
//! crate::testing::suite::device_suite!(Box::new(Block::open(&drive()).unwrap()));
//! ```

use vm_memory::{Bytes, GuestAddress};

use super::FakeGuest;
use crate::Registers;
use crate::virtio::VirtioDevice;
use crate::virtio::transport::Transport;

const STATUS: u64 = 0x70;
const RUNNING: u32 = 15;
const NEEDS_RESET: u32 = 0x40;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Makes the device under test, anew each time.
pub type Make<'a> = &'a dyn Fn() -> Box<dyn VirtioDevice>;

/// Makes a test of each rule for the device that `$make` makes.
#[cfg(test)]
macro_rules! device_suite {
    ($make:expr) => {
        crate::testing::suite::device_suite!($make =>
            resets_and_starts_again
            survives_garbage_in_every_register
            survives_hostile_rings
            returns_hostile_chains_once
            survives_random_chains
            runs_with_queues_of_every_size
            goes_on_after_a_pause
            goes_on_elsewhere_after_being_saved
        );
    };
    ($make:expr => $($rule:ident)*) => {
        mod every_device {
            use super::*;
            $(
                #[test]
                fn $rule() {
                    crate::testing::suite::$rule(&|| $make);
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
pub fn resets_and_starts_again(make: Make<'_>) {
    let mut guest = FakeGuest::new(make());
    for _ in 0..3 {
        guest.write(STATUS, 0);
        guest.write(STATUS, 0);
        assert_eq!(guest.read(STATUS), 0);
        assert!(guest.workers.is_empty());
        assert_starts(&mut guest);
    }
}

/// No access of any width or value panics, whether the device runs or not.
pub fn survives_garbage_in_every_register(make: Make<'_>) {
    let mut guest = FakeGuest::new(make());
    for is_running in [false, true] {
        for value in [0x00, 0x01, 0x0f, 0x80, 0xff] {
            for offset in (0..0x140).chain([0xffc, 0xffd, 0xfff, 0x1000, u64::MAX]) {
                if is_running && guest.read(STATUS) != RUNNING {
                    guest.write(STATUS, 0);
                    assert_starts(&mut guest);
                }
                poke(&guest, offset, value);
                let _ = guest.workers.turn();
            }
        }
    }
    guest.write(STATUS, 0);
    assert_starts(&mut guest);
}

/// Rings that make no sense stop the device, and a reset mends it.
pub fn survives_hostile_rings(make: Make<'_>) {
    let mut guest = FakeGuest::new(make());
    for queue in 0..queues(make) {
        for corruption in 0..3 {
            guest.write(STATUS, 0);
            assert_starts(&mut guest);
            let driver = &mut guest.queues[queue];
            let size = driver.state().size;
            match corruption {
                0 => driver.set_available_index(size + 1),
                1 => driver.set_available_index(u16::MAX),
                _ => driver.publish(size),
            }
            guest.write(0x50, 0);
            let outcome = guest.workers.turn();
            let status = guest.read(STATUS);
            assert_eq!(outcome.is_err(), status & NEEDS_RESET != 0);
            assert_eq!(guest.queues[queue].take_used(), []);
        }
    }
    guest.write(STATUS, 0);
    assert_starts(&mut guest);
}

/// A chain that breaks a rule comes back at most once, and the device goes on.
pub fn returns_hostile_chains_once(make: Make<'_>) {
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
        // Overlapping, and over the rings themselves.
        &[(0x100, 64, NEXT, 1), (0x120, 64, WRITE, 0)],
        &[(0x20_0000, 0x8000, 0, 0)],
    ];
    for queue in 0..queues(make) {
        for chain in chains {
            let mut guest = FakeGuest::running(make(), 0);
            for (index, &(address, len, flags, next)) in (0..).zip(*chain) {
                guest.queues[queue].describe(index, address, len, flags, next);
            }
            guest.queues[queue].publish(0);
            for _ in 0..2 {
                guest.kick().expect("the rings are whole");
            }
            assert!(guest.queues[queue].take_used().len() <= 1, "{chain:?}");
            assert_eq!(guest.read(STATUS), RUNNING, "{chain:?}");
        }
    }
}

/// Descriptors of random words, near and far, do no harm; every head comes back at most once.
pub fn survives_random_chains(make: Make<'_>) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..20 {
        let mut guest = FakeGuest::running(make(), 0);
        for queue in 0..guest.queues.len() {
            let size = guest.queues[queue].state().size;
            for index in 0..size {
                // Lengths and addresses mostly inside the lower half of memory, where no ring lies.
                let (word, other) = (random.next(), random.next());
                let (address, len) = match word % 8 {
                    0 => (other, word),
                    _ => (other % 0x1f_0000, word % 0x1_0000),
                };
                let (flags, next) = (word >> 20 & 3, word >> 24 & 0x1ff);
                guest.queues[queue].describe(index, address, low(len), low(flags), low(next));
                let _ = guest
                    .memory
                    .write_obj(other, GuestAddress(other % 0x1f_0000));
            }
            for head in 0..size {
                guest.queues[queue].publish(head);
            }
        }
        for _ in 0..8 {
            let _ = guest.kick();
        }
        for driver in &mut guest.queues {
            let mut heads: Vec<_> = driver.take_used().into_iter().map(|used| used.0).collect();
            let count = heads.len();
            heads.sort_unstable();
            heads.dedup();
            assert_eq!(heads.len(), count);
        }
    }
}

/// Queues may be as short as one entry.
pub fn runs_with_queues_of_every_size(make: Make<'_>) {
    for size in [1, 2, 64, u16::MAX] {
        let mut guest = FakeGuest::new(make());
        guest.negotiate(0);
        guest.set_up_queues_of(size);
        guest.write(STATUS, RUNNING);
        guest.kick().expect("the rings are whole");
        assert_eq!(guest.read(STATUS), RUNNING, "{size}");
    }
}

/// A pause keeps what was not done, once.
pub fn goes_on_after_a_pause(make: Make<'_>) {
    let mut guest = FakeGuest::running(make(), 0);
    for _ in 0..3 {
        publish_nothing(&mut guest);
        guest.kick().expect("the rings are whole");
        publish_nothing(&mut guest);
        guest.transport.slot().pause();
        assert!(guest.workers.is_empty());
        guest.transport.slot().resume();
        assert_eq!(guest.workers.len(), 1);
        guest.kick().expect("the rings are whole");
    }
    assert_eq!(guest.read(STATUS), RUNNING);
}

/// A saved state fits a new device on the same memory, and saves as the same again.
pub fn goes_on_elsewhere_after_being_saved(make: Make<'_>) {
    let idle = FakeGuest::new(make());
    let saved = idle.transport.state().expect("it does not run");
    let copy = FakeGuest::new(make());
    copy.transport
        .restore(saved)
        .expect("it is the same device");
    assert_eq!(copy.read(STATUS), 0);

    let mut first = FakeGuest::running(make(), 0);
    publish_nothing(&mut first);
    first.transport.slot().pause();
    let saved = first.transport.state().expect("it is paused");
    let second = FakeGuest::with_memory(make(), first.memory.clone());
    second
        .transport
        .restore(saved.clone())
        .expect("it is the same device");
    assert_eq!(second.transport.state(), Some(saved));
    second.transport.slot().resume();
    second.kick().expect("the rings are whole");
    assert_eq!(second.read(STATUS), RUNNING);
    for driver in &mut first.queues {
        assert!(driver.take_used().len() <= 1);
    }
}

/// Starts the device and looks whether it runs.
fn assert_starts(guest: &mut FakeGuest) {
    guest.start(0);
    assert_eq!(guest.read(STATUS), RUNNING);
    assert_eq!(guest.workers.len(), 1);
    guest.kick().expect("the rings are whole");
}

/// How many queues the device has.
fn queues(make: Make<'_>) -> usize {
    make().traits().queue_sizes.len()
}

/// One malformed chain in every queue.
fn publish_nothing(guest: &mut FakeGuest) {
    for driver in &mut guest.queues {
        driver.describe(0, 0x100, 0, 0, 0);
        driver.publish(0);
    }
}

/// Reads and writes at `offset` in every width.
fn poke(guest: &FakeGuest, offset: u64, value: u8) {
    for len in [1, 2, 4, 8] {
        let mut data = [value; 8];
        guest.transport.write(offset, &data[..len]);
        guest.transport.read(offset, &mut data[..len]);
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
