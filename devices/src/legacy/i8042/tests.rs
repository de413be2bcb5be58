//! What a driver sees of the controller.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::testing::FakeIrq;

struct Machine {
    controller: I8042,
    irq: FakeIrq,
    resets: Arc<AtomicUsize>,
}

fn machine() -> Machine {
    let (irq, resets) = (FakeIrq::default(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&resets);
    let reset = move || {
        count.fetch_add(1, Ordering::Relaxed);
    };
    Machine {
        controller: I8042::new(Box::new(irq.clone()), Arc::new(reset)),
        irq,
        resets,
    }
}

impl Machine {
    fn command(&self, byte: u8) {
        self.controller.write(COMMAND, &[byte]);
    }

    fn data(&self, byte: u8) {
        self.controller.write(DATA, &[byte]);
    }

    fn take(&self) -> Vec<u8> {
        let mut taken = Vec::new();
        let mut byte = [0];
        loop {
            self.controller.read(COMMAND, &mut byte);
            if byte[0] & STATUS_OUTPUT_FULL == 0 {
                return taken;
            }
            self.controller.read(DATA, &mut byte);
            taken.push(byte[0]);
        }
    }
}

#[test]
fn reset_commands_reset_once_each() {
    let machine = machine();
    machine.command(0xfe);
    assert_eq!(machine.resets.load(Ordering::Relaxed), 1);
    machine.command(0xd1);
    machine.data(0xfe);
    assert_eq!(machine.resets.load(Ordering::Relaxed), 2);
    machine.command(0xff);
    machine.data(0xfe);
    machine.command(0xd1);
    machine.data(0x03);
    assert_eq!(machine.resets.load(Ordering::Relaxed), 2);
}

#[test]
fn probe_as_linux_does_it_finds_a_controller() {
    let machine = machine();
    assert!(machine.take().is_empty());
    machine.command(0x20);
    let command = machine.take()[0];
    assert_eq!(command & COMMAND_TRANSLATE, 0);
    machine.command(0x60);
    machine.data(command & !COMMAND_INTERRUPT | COMMAND_DISABLE_KEYBOARD);
    machine.command(0xaa);
    assert_eq!(machine.take(), [SELF_TEST_PASSED]);
    machine.command(0xab);
    assert_eq!(machine.take(), [0]);
    assert_eq!(machine.irq.take(), 1, "only while interrupts were on");
}

#[test]
fn probe_as_linux_does_it_finds_no_mouse_and_no_stray_byte() {
    let machine = machine();
    machine.command(0xd3);
    machine.data(0x5a);
    machine.command(0xa9);
    assert_eq!(machine.take(), [NO_MOUSE]);
}

#[test]
fn keyboard_answers_its_driver() {
    let machine = machine();
    for (bytes, answer) in [
        (&[0xff][..], &[0xfa, 0xaa][..]),
        (&[0xf2], &[0xfa, 0xab, 0x83]),
        (&[0xed, 0x07], &[0xfa, 0xfa]),
        (&[0xf3, 0x00], &[0xfa, 0xfa]),
        (&[0xf0, 0x00], &[0xfa, 0xfa, 0x02]),
        (&[0xf0, 0x02], &[0xfa, 0xfa]),
        (&[0xf4], &[0xfa]),
        (&[0xee], &[0xee]),
        (&[0x00], &[0xfe]),
    ] {
        for byte in bytes {
            machine.data(*byte);
        }
        assert_eq!(machine.take(), answer, "{bytes:x?}");
    }
}

#[test]
fn ctrl_alt_del_interrupts_for_each_byte() {
    let machine = machine();
    machine.controller.press_ctrl_alt_del().unwrap();
    assert_eq!(machine.take(), CTRL_ALT_DEL);
    assert_eq!(machine.irq.take(), CTRL_ALT_DEL.len());
}

#[test]
fn ctrl_alt_del_is_translated_on_demand() {
    let machine = machine();
    machine.command(0x60);
    machine.data(COMMAND_INTERRUPT | COMMAND_TRANSLATE);
    machine.controller.press_ctrl_alt_del().unwrap();
    assert_eq!(machine.take(), CTRL_ALT_DEL_TRANSLATED);
}

#[test]
fn keys_nobody_reads_are_refused_whole() {
    let machine = machine();
    machine.controller.press_ctrl_alt_del().unwrap();
    assert_eq!(machine.controller.press_ctrl_alt_del(), Err(KeyboardFull));
    assert_eq!(machine.take(), CTRL_ALT_DEL);
    machine.controller.press_ctrl_alt_del().unwrap();
}

#[test]
fn buffer_is_bounded_whatever_is_sent() {
    let machine = machine();
    for byte in (0..=255).cycle().take(2000) {
        machine.data(byte);
    }
    assert!(machine.controller.state().output.len() <= BUFFER);
    for byte in (0..=255u8).filter(|byte| *byte < 0xf0) {
        machine.command(byte);
        machine.data(byte | 1);
    }
    assert!(machine.controller.state().output.len() <= BUFFER);
    assert_eq!(machine.resets.load(Ordering::Relaxed), 0);
}

#[test]
fn odd_widths_and_ports_are_tolerated() {
    let machine = machine();
    for (offset, len) in [
        (0, 2),
        (0, 4),
        (4, 8),
        (1, 1),
        (3, 1),
        (u64::MAX, 1),
        (0, 0),
    ] {
        let mut data = vec![0xee; len];
        machine.controller.read(offset, &mut data);
        assert_eq!(data, vec![0; len]);
        machine.controller.write(offset, &vec![0xfe; len]);
    }
    assert_eq!(machine.resets.load(Ordering::Relaxed), 0);
}

#[test]
fn saved_controller_goes_on_and_interrupts() {
    let first = machine();
    first.controller.press_ctrl_alt_del().unwrap();
    let text = serde_json::to_string(&first.controller.state()).unwrap();
    let second = machine();
    let state: I8042State = serde_json::from_str(&text).unwrap();
    second.controller.restore(state.clone()).unwrap();
    assert_eq!(second.irq.take(), 1);
    assert_eq!(second.take(), CTRL_ALT_DEL);
    let mut hostile = state;
    hostile.output = vec![0; BUFFER + 1].into();
    assert_eq!(second.controller.restore(hostile), Err(RestoreError));
}
