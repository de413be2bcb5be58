//! Accesses to the registers of the serial port, the keyboard controller and the I/O APIC, and what arrives meanwhile;
//! their states are saved and adopted on the way.
#![no_main]

use std::sync::Arc;

use devices::Registers;
use devices::irq::Message;
use devices::legacy::i8042::I8042;
use devices::legacy::ioapic::{IoApic, PinRouter};
use devices::legacy::serial::Serial;
use devices::testing::{FakeIrq, FakeSink};
use fuzz::bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let sink = FakeSink::default();
    let serial = Serial::new(Box::new(FakeIrq::default()), Box::new(sink.clone()));
    let devices = Devices {
        serial: serial.expect("the host has what it needs"),
        keyboard: I8042::new(Box::new(FakeIrq::default()), Arc::new(|| ())),
        controller: IoApic::new(Nowhere),
        sink,
    };
    let mut bytes = Bytes::new(input);
    while devices.step(&mut bytes).is_some() {}
});

struct Devices {
    serial: Serial,
    keyboard: I8042,
    controller: IoApic<Nowhere>,
    sink: FakeSink,
}

/// Routes of pins that lead nowhere.
struct Nowhere;

impl PinRouter for Nowhere {
    fn route(&self, _pin: u8, _message: Option<Message>) {}
}

impl Devices {
    fn step(&self, bytes: &mut Bytes<'_>) -> Option<()> {
        let what = bytes.byte()?;
        match what >> 4 {
            0 => {
                let input = bytes.run()?;
                assert!(self.serial.receive(input) <= input.len());
            }
            1 => drop(self.keyboard.press_ctrl_alt_del()),
            2 => drop(self.sink.take()),
            3 if what & 1 == 0 => self.sink.refuse(),
            3 => self.save(),
            _ => self.access(what, bytes)?,
        }
        Some(())
    }

    fn access(&self, what: u8, bytes: &mut Bytes<'_>) -> Option<()> {
        let (at, value) = (bytes.byte()?, bytes.long()?);
        let device: &dyn Registers = match what >> 2 & 3 {
            0 => &self.serial,
            1 => &self.keyboard,
            _ => &self.controller,
        };
        let mut data = value.to_le_bytes();
        let data = &mut data[..1 << (what & 3)];
        // A window of ports is short; the I/O APIC's registers lie 16 bytes apart.
        if what & 0x80 == 0 {
            device.write(at.into(), data);
        } else {
            device.read(at.into(), data);
        }
        Some(())
    }

    /// What was saved is adopted and saved again.
    fn save(&self) {
        let (serial, keyboard) = (self.serial.state(), self.keyboard.state());
        let refused = self.serial.restore(serial.clone()).is_err()
            || self.keyboard.restore(keyboard.clone()).is_err();
        assert!(!refused, "it does not take its own state");
        assert_eq!(
            (self.serial.state(), self.keyboard.state()),
            (serial, keyboard)
        );
    }
}
