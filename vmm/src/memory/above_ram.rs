//! Guest addresses above RAM: who has which, and what answers there when memory does not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::Registers;
use vm_memory::GuestAddress;

use crate::arch::x86_64::layout::{place_above_ram, windows_above_ram};
use crate::bus::Bus;

/// The guest addresses above RAM. Memory that is no RAM takes a range there, at any time of the machine's life.
pub struct AboveRam {
    ram_end: u64,
    /// By first byte; disjoint.
    taken: Mutex<BTreeMap<u64, Taken>>,
}

struct Taken {
    /// First byte after it.
    end: u64,
    fallback: Arc<dyn Registers>,
}

/// A range of guest addresses, free again when this is dropped.
pub struct PlaceAboveRam {
    start: GuestAddress,
    all: Arc<AboveRam>,
}

impl AboveRam {
    /// All that is above `ram` (ascending), free.
    #[must_use]
    pub fn new(ram: &[(GuestAddress, u64)]) -> Arc<Self> {
        Arc::new(Self {
            ram_end: ram.last().map_or(0, |(start, len)| start.0 + len),
            taken: Mutex::default(),
        })
    }

    /// Takes the first free range of `len` bytes, which is not 0, on a boundary of `alignment` or 128 MiB, whichever is
    /// more. Where no memory answers in it, or the guest writes
    /// what it may only read, `fallback` does. `None` when there is no room.
    pub fn take(
        self: &Arc<Self>,
        len: u64,
        alignment: u64,
        fallback: Arc<dyn Registers>,
    ) -> Option<PlaceAboveRam> {
        let mut taken = self.lock();
        let ends = taken.values().map(|other| other.end);
        let start = std::iter::once(self.ram_end)
            .chain(ends)
            .filter_map(|end| place_above_ram(end.checked_next_multiple_of(alignment)?, len))
            .filter(|start| start.0.is_multiple_of(alignment))
            .find(|start| {
                let below = taken.range(..start.0 + len).next_back();
                below.is_none_or(|(_, other)| other.end <= start.0)
            })?;
        let end = start.0 + len;
        taken.insert(start.0, Taken { end, fallback });
        Some(PlaceAboveRam {
            start,
            all: Arc::clone(self),
        })
    }

    /// Puts what answers here on `bus`.
    pub fn attach(self: &Arc<Self>, bus: &mut Bus) {
        for (start, end) in windows_above_ram(self.ram_end) {
            let all = Arc::clone(self);
            bus.add(start, end - start, Arc::new(Window { start, all }));
        }
    }

    /// What answers at `address`, and the offset into its range.
    fn find(&self, address: u64) -> Option<(Arc<dyn Registers>, u64)> {
        let taken = self.lock();
        let (start, found) = taken.range(..=address).next_back()?;
        (address < found.end).then(|| (Arc::clone(&found.fallback), address - start))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PlaceAboveRam {
    /// First byte.
    #[must_use]
    pub fn start(&self) -> GuestAddress {
        self.start
    }
}

impl Drop for PlaceAboveRam {
    fn drop(&mut self) {
        self.all.lock().remove(&self.start.0);
    }
}

/// Answers nothing: reads as 0, ignores writes.
pub struct Nobody;

impl Registers for Nobody {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, _data: &[u8]) {}
}

/// The part of [`AboveRam`] from `start` on, as a bus knows it.
struct Window {
    start: u64,
    all: Arc<AboveRam>,
}

impl Registers for Window {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self.all.find(self.start + offset) {
            Some((fallback, offset)) => fallback.read(offset, data),
            None => data.fill(0),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((fallback, offset)) = self.all.find(self.start + offset) {
            fallback.write(offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn above(ram_end: u64) -> Arc<AboveRam> {
        AboveRam::new(&[(GuestAddress(0), ram_end)])
    }

    fn take(all: &Arc<AboveRam>, len: u64) -> PlaceAboveRam {
        all.take(len, 1, Arc::new(Nobody)).unwrap()
    }

    #[test]
    fn places_follow_each_other_and_are_taken_again_once_they_are_free() {
        let all = above(128 * MIB);
        let first = take(&all, 2 * MIB);
        let second = take(&all, 130 * MIB);
        let third = take(&all, 2 * MIB);
        let starts = [&first, &second, &third].map(|place| place.start().0 - 4 * GIB);
        assert_eq!(starts, [0, 128 * MIB, 3 * 128 * MIB]);
        drop(second);
        assert_eq!(take(&all, 300 * MIB).start().0, 4 * GIB + 4 * 128 * MIB);
        assert_eq!(take(&all, 256 * MIB).start().0, 4 * GIB + 128 * MIB);
    }

    #[test]
    fn boundaries_wider_than_usual_are_kept() {
        let all = above(128 * MIB);
        let _first = take(&all, 2 * MIB);
        let wide = |alignment| all.take(MIB, alignment, Arc::new(Nobody));
        assert_eq!(wide(GIB).unwrap().start().0, 5 * GIB);
        assert_eq!(wide(1 << 40).unwrap().start().0, 1 << 40);
        assert!(wide(1 << 53).is_none());
    }

    #[test]
    fn what_does_not_fit_below_the_gap_goes_above_it_and_there_is_an_end() {
        let all = above(128 * MIB);
        let far = take(&all, 300 * GIB);
        assert_eq!(far.start().0, 512 * GIB);
        assert_eq!(take(&all, 2 * MIB).start().0, 4 * GIB);
        for len in [1 << 52, u64::MAX] {
            assert!(all.take(len, 1, Arc::new(Nobody)).is_none());
        }
    }

    /// Answers with the offset, and notes the last write.
    #[derive(Default)]
    struct Echo(Mutex<Option<u64>>);

    impl Registers for Echo {
        fn read(&self, offset: u64, data: &mut [u8]) {
            let bytes = offset.to_le_bytes();
            data.copy_from_slice(&bytes[..data.len()]);
        }

        fn write(&self, offset: u64, _data: &[u8]) {
            *self.0.lock().unwrap() = Some(offset);
        }
    }

    #[test]
    fn a_bus_reaches_what_answers_for_each_place_and_nobody_between() {
        let all = above(128 * MIB);
        let mut bus = Bus::default();
        all.attach(&mut bus);
        let near = take(&all, 2 * MIB);
        let echo = Arc::new(Echo::default());
        let far = all.take(300 * GIB, 1, echo.clone()).unwrap();
        let mut data = [0xff; 8];
        bus.read(far.start().0 + 0x1234, &mut data);
        assert_eq!(u64::from_le_bytes(data), 0x1234);
        bus.write(far.start().0 + 300 * GIB - 1, &[1]);
        assert_eq!(*echo.0.lock().unwrap(), Some(300 * GIB - 1));
        for address in [
            near.start().0,
            near.start().0 + 2 * MIB,
            far.start().0 + 300 * GIB,
        ] {
            bus.read(address, &mut data);
            assert_eq!(data, [0; 8]);
            bus.write(address, &[1]);
        }
        drop(far);
        bus.read(512 * GIB + 0x1234, &mut data);
        assert_eq!(data, [0; 8]);
    }
}
