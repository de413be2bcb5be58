//! What happened to the microVM, for `GET /events`: the last [`KEPT`] events, and whoever waits for the next.
//!
//! Whoever causes an event notes it under a lock and goes on; no I/O path has one. A reader that is slow misses the
//! oldest and is told how many. Nobody wakes up while nothing happens.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use devices::virtio::WorkerId;
use vm_config::{DeviceName, VmEvent};

/// Events that can still be read.
pub const KEPT: usize = 1024;
/// A guest can cause events of its devices at will: one of a kind for each device in this time.
const DEVICE_PERIOD: Duration = Duration::from_secs(1);

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct EventEntry {
    /// Counted from 1, without gaps.
    pub seq: u64,
    /// When.
    pub at: SystemTime,
    /// What.
    pub event: VmEvent,
}

/// The events, shared by those who cause them and those who read.
#[derive(Clone, Default)]
pub struct EventLog(Arc<Mutex<Log>>);

#[derive(Default)]
struct Log {
    entries: VecDeque<Arc<EventEntry>>,
    /// Events so far.
    count: u64,
    is_over: bool,
    /// Who waits for the next event.
    waiting: BTreeMap<u64, Waker>,
    readers: u64,
    devices: BTreeMap<u16, Device>,
}

/// A device whose events are told.
struct Device {
    name: DeviceName,
    /// When it was last told of, by kind of event.
    told: BTreeMap<DeviceEvent, Instant>,
}

/// What a guest can cause at a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DeviceEvent {
    DriverReady,
    NeedsReset,
}

/// What a reader finds.
#[derive(Debug)]
pub enum Reading {
    /// Events, after `dropped` that it missed.
    Events {
        /// How many it missed.
        dropped: u64,
        /// In their order; at least one.
        entries: Vec<Arc<EventEntry>>,
    },
    /// None yet; the reader's waker is called when there is one.
    Nothing,
    /// None will come.
    Over,
}

/// A reader of the events after a certain one.
pub struct EventReader {
    log: EventLog,
    id: u64,
    /// The last it has read.
    after: u64,
}

impl EventLog {
    /// Notes `event`.
    pub(crate) fn note(&self, event: VmEvent) {
        self.change(|log| log.note(event));
    }

    /// Notes the last event. Whoever reads finds it before the end.
    pub(crate) fn end(&self, event: VmEvent) {
        self.change(|log| {
            log.note(event);
            log.is_over = true;
        });
    }

    /// The device of worker `id` has a name from here on.
    pub(crate) fn name_device(&self, id: WorkerId, name: DeviceName) {
        let told = BTreeMap::new();
        self.lock().devices.insert(id.0, Device { name, told });
    }

    /// Notes what happened at the device of worker `id`, if it has a name and not the same happened just before.
    pub(crate) fn note_device(&self, id: WorkerId, event: DeviceEvent) {
        let Some(name) = self.lock().device_to_tell(id, event, Instant::now()) else {
            return;
        };
        self.note(match event {
            DeviceEvent::DriverReady => VmEvent::DriverReady(name),
            DeviceEvent::NeedsReset => VmEvent::DeviceNeedsReset(name),
        });
    }

    /// A reader of what is kept after event `after`, and of all that follows.
    #[must_use]
    pub fn read_after(&self, after: u64) -> EventReader {
        let mut log = self.lock();
        log.readers += 1;
        EventReader {
            log: self.clone(),
            id: log.readers,
            after,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Log)) {
        let waiting = {
            let mut log = self.lock();
            change(&mut log);
            std::mem::take(&mut log.waiting)
        };
        waiting.into_values().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn note(&mut self, event: VmEvent) {
        self.count += 1;
        if self.entries.len() >= KEPT {
            self.entries.pop_front();
        }
        self.entries.push_back(Arc::new(EventEntry {
            seq: self.count,
            at: SystemTime::now(),
            event,
        }));
    }

    fn device_to_tell(
        &mut self,
        id: WorkerId,
        event: DeviceEvent,
        now: Instant,
    ) -> Option<DeviceName> {
        let device = self.devices.get_mut(&id.0)?;
        let last = device.told.get(&event);
        if last.is_some_and(|last| now.saturating_duration_since(*last) < DEVICE_PERIOD) {
            return None;
        }
        device.told.insert(event, now);
        Some(device.name.clone())
    }
}

impl EventReader {
    /// The next events, `most` at most.
    pub fn read(&mut self, most: usize, waker: &Waker) -> Reading {
        let mut log = self.log.lock();
        let first_kept = log.entries.front().map_or(1, |entry| entry.seq);
        let dropped = first_kept.saturating_sub(self.after.saturating_add(1));
        let start = self.after.saturating_add(1).max(first_kept) - first_kept;
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let entries: Vec<_> = log.entries.iter().skip(start).take(most).cloned().collect();
        match entries.last() {
            Some(last) => {
                self.after = last.seq;
                Reading::Events { dropped, entries }
            }
            None if log.is_over => Reading::Over,
            None => {
                log.waiting.insert(self.id, waker.clone());
                Reading::Nothing
            }
        }
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        self.log.lock().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use vm_config::DeviceKind;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn seqs(reading: Reading) -> (u64, Vec<u64>) {
        match reading {
            Reading::Events { dropped, entries } => {
                (dropped, entries.iter().map(|entry| entry.seq).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_reader_has_what_happened_before_and_is_woken_once_for_what_follows() {
        let log = EventLog::default();
        log.note(VmEvent::Starting);
        log.note(VmEvent::Running);
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut reader = log.read_after(0);
        assert_eq!(seqs(reader.read(1, &waker)), (0, vec![1]));
        assert_eq!(seqs(reader.read(9, &waker)), (0, vec![2]));
        assert!(matches!(reader.read(9, &waker), Reading::Nothing));
        assert!(matches!(reader.read(9, &waker), Reading::Nothing));
        log.note(VmEvent::Paused);
        log.note(VmEvent::Resumed);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(seqs(log.read_after(3).read(9, &waker)), (0, vec![4]));
        assert_eq!(seqs(reader.read(9, &waker)), (0, vec![3, 4]));
    }

    #[test]
    fn a_slow_reader_hears_how_many_it_missed() {
        let log = EventLog::default();
        for _ in 0..KEPT + 10 {
            log.note(VmEvent::Paused);
        }
        let (dropped, entries) = seqs(log.read_after(3).read(2, Waker::noop()));
        assert_eq!((dropped, entries), (7, vec![11, 12]));
        let mut future = log.read_after(u64::MAX);
        assert!(matches!(future.read(2, Waker::noop()), Reading::Nothing));
    }

    #[test]
    fn readers_that_left_are_forgotten_and_the_last_event_ends_the_others() {
        let log = EventLog::default();
        let mut reader = log.read_after(0);
        for _ in 0..100 {
            let mut other = log.read_after(0);
            assert!(matches!(other.read(1, Waker::noop()), Reading::Nothing));
        }
        assert!(log.lock().waiting.is_empty());
        log.end(VmEvent::Paused);
        assert_eq!(seqs(reader.read(9, Waker::noop())), (0, vec![1]));
        assert!(matches!(reader.read(9, Waker::noop()), Reading::Over));
    }

    #[test]
    fn no_reader_sees_the_end_before_the_last_event() {
        for _ in 0..300 {
            let log = EventLog::default();
            let mut reader = log.read_after(0);
            let (said, heard) = std::sync::mpsc::channel();
            let reads = std::thread::spawn(move || {
                let mut reading = reader.read(9, Waker::noop());
                said.send(()).unwrap();
                while matches!(reading, Reading::Nothing) {
                    reading = reader.read(9, Waker::noop());
                }
                reading
            });
            heard.recv().unwrap();
            log.end(VmEvent::Paused);
            assert_eq!(seqs(reads.join().unwrap()), (0, vec![1]));
        }
    }

    #[test]
    fn a_guest_cannot_flood_the_events_of_a_device() {
        let log = EventLog::default();
        let name = DeviceName {
            kind: DeviceKind::Drive,
            id: "disk".to_owned(),
        };
        log.note_device(WorkerId(1), DeviceEvent::DriverReady);
        log.name_device(WorkerId(1), name);
        for _ in 0..100 {
            log.note_device(WorkerId(1), DeviceEvent::DriverReady);
            log.note_device(WorkerId(1), DeviceEvent::NeedsReset);
        }
        assert_eq!(log.lock().count, 2);
        let later = Instant::now() + DEVICE_PERIOD;
        let told = log
            .lock()
            .device_to_tell(WorkerId(1), DeviceEvent::DriverReady, later);
        assert!(told.is_some());
    }
}
