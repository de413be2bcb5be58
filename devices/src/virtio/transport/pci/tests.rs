//! What a driver sees in configuration space and through the window.

use std::sync::Mutex;

use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;
use crate::irq::Message;
use crate::testing::{Buffer, FakeDriver, InlineLoop, guest_memory};
use crate::virtio::transport::echo::Echo;

const BAR: Bar = Bar {
    address: 0x40_0008_0000,
    size: BAR_LEN,
};
const MEMORY: usize = 4 << 20;
const STATUS: u64 = 20;
const NONE: u64 = 0xffff;

/// Counts messages and remembers routes.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u16>>>);

impl MessageLines for Lines {
    fn route(&self, _: u16, _: Option<Message>) {}
    fn signal(&self, vector: u16) {
        self.0.lock().unwrap().push(vector);
    }
}

impl Lines {
    fn take(&self) -> Vec<u16> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Remembers where the doorbells went.
#[derive(Clone, Default)]
struct Moves(Arc<Mutex<Vec<u64>>>);

impl Doorbells for Moves {
    fn move_to(&self, address: u64) {
        self.0.lock().unwrap().push(address);
    }
}

struct Guest {
    transport: PciTransport,
    lines: Lines,
    moves: Moves,
    workers: Arc<InlineLoop>,
    memory: Arc<GuestMemory>,
    queues: Vec<FakeDriver>,
}

impl Guest {
    fn new(device: Box<dyn VirtioDevice>) -> Self {
        let (lines, workers) = (Lines::default(), Arc::new(InlineLoop::default()));
        let (memory, moves) = (guest_memory(MEMORY), Moves::default());
        let place = PciPlacement {
            id: WorkerId(3),
            bar: BAR,
            lines: Box::new(lines.clone()),
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            doorbells: Box::new(moves.clone()),
        };
        let transport = PciTransport::new(place, device, Arc::clone(&memory), workers.clone());
        transport.write_config(4, &[6, 0]);
        Self {
            transport,
            lines,
            moves,
            workers,
            memory,
            queues: Vec::new(),
        }
    }

    /// Runs the device, with MSI-X: vector 0 for the configuration, 1 and 2 for the queues.
    fn running(device: Box<dyn VirtioDevice>) -> Self {
        let mut guest = Self::new(device);
        guest.enable_msix();
        guest.start();
        guest
    }

    fn enable_msix(&self) {
        for vector in 0..3 {
            for (field, word) in [(0, 0xfee0_0000), (4, 0), (8, 0x40 + vector), (12, 0)] {
                self.write::<4>(0x8000 + 16 * vector + field, word);
            }
        }
        let control = self.capability(0x11) + 2;
        self.transport.write_config(control, &[0, 0x80]);
    }

    fn negotiate(&self) {
        self.write::<1>(STATUS, 1);
        self.write::<1>(STATUS, 3);
        self.write::<4>(8, 1);
        self.write::<4>(12, 1);
        self.write::<1>(STATUS, 11);
    }

    fn start(&mut self) {
        self.negotiate();
        self.write::<2>(16, 0);
        self.queues.clear();
        let mut base = 2 << 20;
        for index in 0..self.read::<2>(18) {
            self.write::<2>(22, index);
            let size = u16::try_from(self.read::<2>(24)).unwrap();
            let driver = FakeDriver::new(&self.memory, base, size);
            base += FakeDriver::footprint(size);
            let state = driver.state();
            self.write::<2>(26, index + 1);
            assert_eq!(self.read::<2>(26), index + 1);
            self.write::<8>(32, state.descriptor_table);
            self.write::<4>(40, state.available_ring & 0xffff_ffff);
            self.write::<4>(44, state.available_ring >> 32);
            self.write::<8>(48, state.used_ring);
            self.write::<2>(28, 1);
            self.queues.push(driver);
        }
        self.write::<1>(STATUS, 15);
    }

    fn read<const N: usize>(&self, offset: u64) -> u64 {
        let mut data = [0; 8];
        self.transport.read_bar(offset, &mut data[..N]);
        u64::from_le_bytes(data)
    }

    fn write<const N: usize>(&self, offset: u64, value: u64) {
        self.transport.write_bar(offset, &value.to_le_bytes()[..N]);
    }

    fn config<const N: usize>(&self, offset: u16) -> u64 {
        let mut data = [0; 8];
        self.transport.read_config(offset, &mut data[..N]);
        u64::from_le_bytes(data)
    }

    /// The offset of the first capability `id` after `skip` others.
    fn nth_capability(&self, id: u64, skip: usize) -> u16 {
        let mut at = self.config::<1>(0x34);
        let all = std::iter::from_fn(|| {
            let here = u16::try_from(at).unwrap();
            at = self.config::<1>(here + 1);
            (here != 0).then_some(here)
        });
        let mut those = all.filter(|here| self.config::<1>(*here) == id);
        those.nth(skip).expect("it has that capability")
    }

    fn capability(&self, id: u64) -> u16 {
        self.nth_capability(id, 0)
    }

    fn kick(&self) -> Result<(), crate::virtio::QueueError> {
        self.write::<2>(0x6000, 0);
        self.workers.turn()
    }
}

#[test]
fn configuration_space_says_what_the_device_is() {
    let guest = Guest::new(Echo::new());
    assert_eq!(guest.config::<4>(0), 0x106a_1af4);
    assert_eq!(guest.config::<4>(8), 0xffff_0001);
    assert_eq!(guest.config::<4>(0x2c), 0x106a_1af4);
    assert_eq!(guest.config::<8>(0x10), BAR.address | 4);
    assert_eq!(guest.config::<1>(0x3d), 0, "no interrupt pin");
}

#[test]
fn capabilities_say_where_everything_is() {
    let guest = Guest::new(Echo::new());
    for (index, kind, len, offset, length) in [
        (0, 1, 16, 0, 56),
        (1, 3, 16, 0x2000, 1),
        (2, 4, 16, 0x4000, 0x1000),
        (3, 2, 20, 0x6000, 0x1000),
        (4, 5, 20, 0, 0),
    ] {
        let at = guest.nth_capability(9, index);
        let found = (guest.config::<1>(at + 3), guest.config::<1>(at + 2));
        assert_eq!(found, (kind, len));
        assert_eq!(guest.config::<1>(at + 4), 0);
        assert_eq!(guest.config::<4>(at + 8), offset);
        assert_eq!(guest.config::<4>(at + 12), length);
    }
    assert_eq!(guest.config::<4>(guest.nth_capability(9, 3) + 16), 4);
    let msix = guest.capability(0x11);
    assert_eq!(guest.config::<2>(msix + 2), 2, "three vectors");
    assert_eq!(guest.config::<4>(msix + 4), 0x8000);
    assert_eq!(guest.config::<4>(msix + 8), 0x4_8000);
}

#[test]
fn request_goes_round_and_each_queue_has_its_vector() {
    let mut guest = Guest::running(Echo::new());
    assert_eq!(guest.read::<1>(STATUS), 15);
    for queue in 0..2 {
        let head = guest.queues[queue].add(&[Buffer::Writable(0x100, 7)]);
        guest.kick().unwrap();
        assert_eq!(guest.queues[queue].take_used(), [(head, 7)]);
        assert_eq!(guest.lines.take(), [u16::try_from(queue + 1).unwrap()]);
    }
    assert_eq!(guest.read::<1>(0x2000), 0, "the vector says enough");
}

#[test]
fn a_driver_without_msix_polls_the_isr_status_which_clears() {
    let mut guest = Guest::new(Echo::new());
    guest.start();
    guest.queues[0].add(&[Buffer::Writable(0x100, 7)]);
    guest.kick().unwrap();
    assert!(guest.lines.take().is_empty());
    assert_eq!(guest.read::<1>(0x2000), 1);
    assert_eq!(guest.read::<1>(0x2000), 0);
}

#[test]
fn a_masked_vector_is_pending_until_it_opens() {
    let mut guest = Guest::running(Echo::new());
    guest.write::<4>(0x8000 + 16 + 12, 1);
    guest.queues[0].add(&[Buffer::Writable(0x100, 7)]);
    guest.kick().unwrap();
    assert_eq!((guest.lines.take(), guest.read::<8>(0x4_8000)), (vec![], 2));
    guest.write::<4>(0x8000 + 16 + 12, 0);
    assert_eq!(
        (guest.lines.take(), guest.read::<8>(0x4_8000)),
        (vec![1], 0)
    );
}

#[test]
fn a_vector_that_does_not_exist_reads_back_as_none() {
    let guest = Guest::new(Echo::new());
    assert_eq!((guest.read::<2>(16), guest.read::<2>(26)), (NONE, NONE));
    for (vector, read) in [(2, 2), (3, NONE), (NONE, NONE)] {
        guest.write::<2>(16, vector);
        guest.write::<2>(26, vector);
        assert_eq!((guest.read::<2>(16), guest.read::<2>(26)), (read, read));
    }
    guest.write::<2>(22, 9);
    guest.write::<2>(26, 1);
    assert_eq!(guest.read::<2>(26), NONE, "no such queue");
}

#[test]
fn reset_unmaps_the_vectors_and_keeps_the_table() {
    let guest = Guest::running(Echo::new());
    guest.write::<1>(STATUS, 0);
    assert_eq!(guest.read::<1>(STATUS), 0);
    guest.write::<2>(22, 1);
    assert_eq!((guest.read::<2>(16), guest.read::<2>(26)), (NONE, NONE));
    assert_eq!((guest.read::<2>(24), guest.read::<2>(28)), (8, 0));
    assert_eq!(guest.read::<4>(0x8000 + 16 + 8), 0x41);
    assert!(guest.workers.is_empty());
}

#[test]
fn config_change_moves_the_generation_and_sends_its_vector() {
    let device = Echo::new();
    let interrupt = Arc::clone(&device.interrupt);
    let guest = Guest::running(device);
    let before = guest.read::<1>(21);
    interrupt.lock().unwrap().as_ref().unwrap().config();
    assert_ne!(guest.read::<1>(21), before);
    assert_eq!(guest.lines.take(), [0]);
    assert_eq!(guest.read::<1>(0x2000), 2);
}

#[test]
fn broken_rings_need_a_reset() {
    let mut guest = Guest::running(Echo::new());
    guest.queues[0].set_available_index(100);
    assert!(guest.kick().is_err());
    assert_eq!(guest.read::<1>(STATUS), 15 | 0x40);
    assert_eq!(guest.lines.take(), [0]);
    guest.write::<1>(STATUS, 0);
    guest.start();
    assert_eq!(guest.read::<1>(STATUS), 15);
}

#[test]
fn an_enabled_queue_is_closed() {
    let guest = Guest::new(Echo::new());
    guest.write::<2>(28, 1);
    assert_eq!(guest.read::<2>(28), 0, "before features");
    guest.negotiate();
    guest.write::<2>(24, 4);
    guest.write::<2>(24, 32);
    guest.write::<4>(32, 0x1000);
    guest.write::<2>(28, 1);
    guest.write::<2>(28, 0);
    guest.write::<2>(24, 8);
    guest.write::<8>(32, 0x2000);
    assert_eq!(guest.read::<2>(28), 1);
    assert_eq!((guest.read::<2>(24), guest.read::<8>(32)), (4, 0x1000));
    assert_eq!(guest.read::<2>(30), 0);
    guest.write::<2>(22, 1);
    assert_eq!(guest.read::<2>(30), 1, "a notify register a queue");
}

#[test]
fn fields_answer_to_their_own_width() {
    let guest = Guest::new(Echo::new());
    assert_eq!((guest.read::<1>(18), guest.read::<2>(18)), (0, 2));
    guest.write::<2>(STATUS, 1);
    guest.write::<4>(STATUS, 1);
    assert_eq!(guest.read::<1>(STATUS), 0);
    assert_eq!(guest.read::<8>(0x1000), 0, "between structures");
    assert_eq!(guest.read::<8>(0x34), 0, "across the end of one");
}

#[test]
fn the_window_and_its_doorbells_are_where_the_register_says() {
    let guest = Guest::running(Echo::new());
    assert_eq!(guest.transport.window(), Some(BAR.address));
    guest.transport.write_config(4, &[0; 2]);
    assert_eq!(guest.transport.window(), None, "closed");
    let [a, b, c, d, ..] = (BAR.address + 2 * BAR_LEN).to_le_bytes();
    guest.transport.write_config(0x10, &[a, b, c, d]);
    guest.transport.write_config(4, &[6, 0]);
    guest.transport.write_config(4, &[6, 0]);
    let moved = Some(BAR.address + 2 * BAR_LEN);
    assert_eq!(guest.transport.window(), moved);
    let moves = guest.moves.0.lock().unwrap();
    assert_eq!(*moves, [BAR.address, BAR.address + 2 * BAR_LEN]);
}

#[test]
fn the_window_is_reached_through_configuration_space() {
    let guest = Guest::new(Echo::new());
    let at = guest.nth_capability(9, 4);
    let aim = |offset: u32, length: u32| {
        guest.transport.write_config(at + 8, &offset.to_le_bytes());
        guest.transport.write_config(at + 12, &length.to_le_bytes());
    };
    aim(18, 2);
    assert_eq!(guest.config::<2>(at + 16), 2);
    aim(20, 1);
    guest.transport.write_config(at + 16, &[1]);
    assert_eq!(guest.read::<1>(STATUS), 1);
    // Ragged, too long, another window, far outside.
    for (offset, length, bar) in [
        (19, 2, 0),
        (0, 8, 0),
        (0, 0, 0),
        (0, 4, 1),
        (u32::MAX - 3, 4, 0),
    ] {
        aim(offset, length);
        guest.transport.write_config(at + 4, &[bar]);
        guest.transport.write_config(at + 16, &[0; 4]);
        guest.config::<4>(at + 16);
        guest.transport.write_config(at + 4, &[0]);
    }
    assert_eq!(guest.read::<1>(STATUS), 1);
}

#[test]
fn garbage_everywhere_does_no_harm() {
    let mut guest = Guest::running(Echo::new());
    let places = (0..0x48)
        .chain(0x1ffe..0x2004)
        .chain(0x3ffc..0x4010)
        .chain(0x5ff8..0x6010)
        .chain(0x6ff8..0x7004)
        .chain(0x7ff8..0x8044)
        .chain(0x4_7ff0..0x4_8010)
        .chain([BAR_LEN - 1, BAR_LEN, u64::MAX]);
    for value in [0x00, 0x01, 0x0f, 0x80, 0xff] {
        for offset in places.clone() {
            for len in [1, 2, 4, 8] {
                let mut data = [value; 8];
                guest.transport.write_bar(offset, &data[..len]);
                guest.transport.read_bar(offset, &mut data[..len]);
                let _ = guest.workers.turn();
            }
        }
        for offset in (0..0x110).chain(0xff0..0x1000) {
            for len in [1, 2, 4, 8] {
                let mut data = [value; 8];
                guest.transport.write_config(offset, &data[..len]);
                guest.transport.read_config(offset, &mut data[..len]);
            }
        }
        guest
            .transport
            .write_config(0x10, &0x8_0000_u32.to_le_bytes());
        guest.transport.write_config(0x14, &0x40_u32.to_le_bytes());
        guest.transport.write_config(4, &[6, 0]);
    }
    guest.write::<1>(STATUS, 0);
    guest.enable_msix();
    guest.start();
    guest.lines.take();
    guest.queues[0].add(&[Buffer::Writable(0x100, 7)]);
    guest.kick().unwrap();
    assert_eq!(guest.queues[0].take_used().len(), 1);
    assert_eq!(guest.lines.take(), [1]);
}

#[test]
fn saved_device_goes_on_elsewhere_with_its_vectors() {
    let mut guest = Guest::running(Echo::new());
    guest.queues[0].add(&[Buffer::Writable(0x100, 7)]);
    guest.kick().unwrap();
    assert_eq!(guest.transport.state(), None);
    guest.transport.slot().pause();
    let state = guest.transport.state().unwrap();
    let text = serde_json::to_string(&state).unwrap();
    let copy = Guest::new(Echo::new());
    copy.transport
        .restore(serde_json::from_str(&text).unwrap())
        .unwrap();
    assert_eq!(copy.transport.state().unwrap(), state);
    copy.transport.slot().resume();
    assert_eq!(copy.read::<1>(STATUS), 15);
    assert_eq!(copy.workers.len(), 1);
    assert_eq!(copy.lines.take(), [0, 1, 2], "one may have been lost");
    copy.transport.slot().pause();
    copy.transport.slot().resume();
    assert!(copy.lines.take().is_empty(), "none is lost by a pause");
}

#[test]
fn state_of_another_device_is_refused() {
    let guest = Guest::running(Echo::new());
    guest.transport.slot().pause();
    let good = serde_json::to_value(guest.transport.state().unwrap()).unwrap();
    for (pointer, value) in [
        ("/negotiation/status", 7.into()),
        ("/queues/0/size", 32.into()),
        ("/vectors", serde_json::json!([1])),
        ("/msix/pending", serde_json::json!([])),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        let fresh = Guest::new(Echo::new());
        let refused = fresh
            .transport
            .restore(serde_json::from_value(bad).unwrap());
        assert!(refused.is_err(), "{pointer}");
        assert_eq!(fresh.read::<1>(STATUS), 0);
    }
}
