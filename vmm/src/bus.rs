//! Which device answers at which port or address.

use std::ops::Range;
use std::sync::Arc;

use devices::Registers;

/// Windows of one address space, found by binary search. Built once, then only read.
#[derive(Default)]
pub struct Bus {
    /// Sorted, disjoint.
    windows: Vec<Window>,
}

struct Window {
    range: Range<u64>,
    registers: Arc<dyn Registers>,
}

impl Bus {
    /// Adds a window.
    ///
    /// # Panics
    /// When it overlaps another: placement is ours, so that is a mistake of ours.
    pub fn add(&mut self, start: u64, len: u64, registers: Arc<dyn Registers>) {
        let range = start..start.checked_add(len).expect("windows end below 2^64");
        let index = self.windows.partition_point(|w| w.range.end <= range.start);
        let is_free = self
            .windows
            .get(index)
            .is_none_or(|next| range.end <= next.range.start);
        assert!(is_free, "windows at {range:x?} and another overlap");
        self.windows.insert(index, Window { range, registers });
    }

    /// The window that holds all of `len` bytes at `address`, and the offset into it.
    fn find(&self, address: u64, len: usize) -> Option<(&dyn Registers, u64)> {
        let index = self.windows.partition_point(|w| w.range.end <= address);
        let window = self.windows.get(index)?;
        let offset = address.checked_sub(window.range.start)?;
        let end = address.checked_add(u64::try_from(len).ok()?)?;
        (end <= window.range.end).then_some((&*window.registers, offset))
    }
}

/// A bus is itself a window: the whole address space. What nobody answers reads as 0 and ignores writes.
impl Registers for Bus {
    fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((registers, offset)) => registers.read(offset, data),
            None => data.fill(0),
        }
    }

    fn write(&self, address: u64, data: &[u8]) {
        if let Some((registers, offset)) = self.find(address, data.len()) {
            registers.write(offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Answers with its mark and the offset; records writes.
    struct Marked(u8, Mutex<Vec<u64>>);

    impl Registers for Marked {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(self.0 + u8::try_from(offset).unwrap());
        }
        fn write(&self, offset: u64, _data: &[u8]) {
            self.1.lock().unwrap().push(offset);
        }
    }

    fn marked(mark: u8) -> Arc<Marked> {
        Arc::new(Marked(mark, Mutex::default()))
    }

    fn read(bus: &Bus, address: u64) -> u8 {
        let mut data = [0xff];
        bus.read(address, &mut data);
        data[0]
    }

    #[test]
    fn an_access_reaches_the_window_that_holds_it() {
        let mut bus = Bus::default();
        let second = marked(100);
        bus.add(0x20, 0x10, second.clone());
        bus.add(0x10, 0x10, marked(1));
        assert_eq!(read(&bus, 0x10), 1);
        assert_eq!(read(&bus, 0x1f), 16);
        assert_eq!(read(&bus, 0x20), 100);
        bus.write(0x2f, &[0]);
        assert_eq!(*second.1.lock().unwrap(), [0xf]);
    }

    #[test]
    fn nobody_home_reads_as_zero() {
        let mut bus = Bus::default();
        bus.add(0x10, 0x10, marked(1));
        for address in [0, 0xf, 0x20, u64::MAX] {
            assert_eq!(read(&bus, address), 0);
        }
    }

    #[test]
    fn an_access_across_the_end_reaches_nobody() {
        let mut bus = Bus::default();
        let window = marked(1);
        bus.add(0x10, 0x10, window.clone());
        bus.write(0x1e, &[0; 4]);
        bus.write(u64::MAX, &[0; 8]);
        assert!(window.1.lock().unwrap().is_empty());
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn overlapping_windows_are_our_mistake() {
        let mut bus = Bus::default();
        bus.add(0x10, 0x10, marked(1));
        bus.add(0x1f, 1, marked(2));
    }
}
