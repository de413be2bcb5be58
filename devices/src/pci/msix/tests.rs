use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::*;

type Routes = Vec<(u16, Option<Message>)>;

#[derive(Clone, Default)]
struct Lines {
    routes: Arc<Mutex<Routes>>,
    signals: Arc<Mutex<Vec<u16>>>,
}

impl Lines {
    fn signals(&self) -> Vec<u16> {
        std::mem::take(&mut self.signals.lock().unwrap())
    }
    fn routes(&self) -> Routes {
        std::mem::take(&mut self.routes.lock().unwrap())
    }
}

impl MessageLines for Lines {
    fn route(&self, vector: u16, message: Option<Message>) {
        self.routes.lock().unwrap().push((vector, message));
    }
    fn signal(&self, vector: u16) {
        self.signals.lock().unwrap().push(vector);
    }
}

const MESSAGE: Message = Message {
    address: 0xfee0_1000,
    data: 0x41,
};

fn msix() -> (Msix, Lines) {
    let lines = Lines::default();
    (Msix::new(3, Box::new(lines.clone())), lines)
}

fn write(msix: &Msix, vector: u64, words: [u32; 4]) {
    for (word, at) in words.into_iter().zip((16 * vector..).step_by(4)) {
        msix.write_table(at, &word.to_le_bytes());
    }
}

fn open(msix: &Msix, vector: u64) {
    write(msix, vector, [MESSAGE.address, 0, MESSAGE.data, 0]);
}

fn pending(msix: &Msix) -> u32 {
    let mut word = [0; 4];
    msix.read_pending(0, &mut word);
    u32::from_le_bytes(word)
}

#[test]
fn an_open_vector_is_routed_once_and_sends() {
    let (msix, lines) = msix();
    open(&msix, 1);
    assert_eq!(lines.routes(), [], "nothing is routed before it is enabled");
    msix.set_control(0x8000);
    msix.trigger(1);
    msix.trigger(1);
    assert_eq!(lines.routes(), [(1, Some(MESSAGE))]);
    assert_eq!(lines.signals(), [1, 1]);
}

#[test]
fn a_masked_vector_waits_and_sends_once_when_it_opens() {
    let (msix, lines) = msix();
    msix.set_control(0x8000);
    msix.trigger(2);
    msix.trigger(2);
    assert_eq!((pending(&msix), lines.signals()), (4, vec![]));
    open(&msix, 2);
    assert_eq!((pending(&msix), lines.signals()), (0, vec![2]));
}

#[test]
fn the_function_mask_holds_all_vectors_back() {
    let (msix, lines) = msix();
    for vector in 0..3 {
        open(&msix, vector);
    }
    msix.set_control(0xc000);
    msix.trigger(0);
    msix.trigger(2);
    assert_eq!((pending(&msix), lines.signals()), (5, vec![]));
    msix.set_control(0x8000);
    assert_eq!((pending(&msix), lines.signals()), (0, vec![0, 2]));
}

#[test]
fn masking_and_unmasking_the_same_message_is_no_new_route() {
    let (msix, lines) = msix();
    msix.set_control(0x8000);
    open(&msix, 0);
    lines.routes();
    for mask in [1_u32, 0, 1, 0] {
        msix.write_table(12, &mask.to_le_bytes());
    }
    assert_eq!(lines.routes(), []);
    msix.write_table(12, &[1, 0, 0, 0]);
    msix.write_table(8, &[0x42, 0, 0, 0]);
    assert_eq!(lines.routes(), []);
    msix.write_table(12, &[0; 4]);
    let other = Message {
        data: 0x42,
        ..MESSAGE
    };
    assert_eq!(lines.routes(), [(0, Some(other))]);
}

#[test]
fn a_disabled_table_sends_and_keeps_nothing() {
    let (msix, lines) = msix();
    open(&msix, 0);
    msix.trigger(0);
    msix.trigger(3);
    msix.trigger(u16::MAX);
    assert_eq!((pending(&msix), lines.signals()), (0, vec![]));
}

#[test]
fn a_message_to_elsewhere_is_nobodys() {
    let (msix, lines) = msix();
    msix.set_control(0x8000);
    write(&msix, 0, [0x10_0000, 0, 1, 0]);
    write(&msix, 1, [0xfee0_0000, 1, 1, 0]);
    assert!(lines.routes().iter().all(|(_, message)| message.is_none()));
}

#[test]
fn the_table_reads_as_it_was_written_in_words_and_pairs() {
    let (msix, _) = msix();
    let mut pair = [0; 8];
    msix.read_table(16 * 2 + 8, &mut pair);
    assert_eq!(pair, [0, 0, 0, 0, 1, 0, 0, 0]);
    msix.write_table(16, &[1, 2, 3, 4, 5, 6, 7, 8]);
    msix.read_table(16, &mut pair);
    assert_eq!(pair, [1, 2, 3, 4, 5, 6, 7, 8]);
    for (offset, len) in [(16, 1), (16, 2), (17, 4), (18, 4), (48, 4), (1 << 40, 8)] {
        msix.read_table(offset, &mut pair[..len]);
        assert_eq!(pair[..len], [0; 8][..len]);
        msix.write_table(offset, &[0xff; 8][..len]);
    }
    msix.read_table(16, &mut pair);
    assert_eq!(pair, [1, 2, 3, 4, 5, 6, 7, 8]);
    msix.read_pending(u64::MAX - 3, &mut pair[..4]);
}

#[test]
fn a_saved_table_comes_back_with_its_routes() {
    let (msix, _) = msix();
    msix.set_control(0x8000);
    open(&msix, 1);
    msix.trigger(2);
    let text = serde_json::to_string(&msix.state()).unwrap();
    let (copy, lines) = self::msix();
    copy.restore(&serde_json::from_str(&text).unwrap());
    assert_eq!(copy.state(), msix.state());
    assert_eq!(lines.routes(), [(1, Some(MESSAGE))]);
    let other = Msix::new(2, Box::new(Lines::default()));
    assert!(!other.fits(&msix.state()));
}

/// Counts, and nothing else.
#[derive(Default)]
struct Counter(Arc<AtomicUsize>);

impl MessageLines for Counter {
    fn route(&self, _: u16, _: Option<Message>) {}
    fn signal(&self, _: u16) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn no_interrupt_is_lost_between_masking_and_unmasking() {
    let count = Arc::new(AtomicUsize::new(0));
    let msix = Msix::new(1, Box::new(Counter(count.clone())));
    msix.set_control(0x8000);
    for _ in 0..2000 {
        msix.write_table(12, &[1, 0, 0, 0]);
        count.store(0, Ordering::SeqCst);
        std::thread::scope(|scope| {
            scope.spawn(|| msix.trigger(0));
            msix.write_table(12, &[0; 4]);
        });
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert_eq!(pending(&msix), 0);
    }
}
