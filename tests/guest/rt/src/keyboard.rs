//! The i8042 keyboard controller: scancodes, and the reset line.

use crate::interrupts::DeviceVector;
use crate::{apic, clock, gates, port};

const DATA: u16 = 0x60;
const COMMAND: u16 = 0x64;
const STATUS: u16 = 0x64;

const OUTPUT_BUFFER_FULL: u8 = 1;
const INPUT_BUFFER_FULL: u8 = 2;
const WRITE_COMMAND_BYTE: u8 = 0x60;
const ENABLE_KEYBOARD: u8 = 0xae;
const PULSE_RESET: u8 = 0xfe;
/// Command byte: keyboard interrupt on, self test passed, codes not translated.
const INTERRUPT_ON: u8 = 0x05;

/// 200 ms or more on any processor below 5 GHz.
const RESET_CYCLES: u64 = 1_000_000_000;

/// Interrupt controller input of the keyboard.
const GSI: u32 = 1;

/// Scancodes; sleeps while there is none.
#[derive(Debug)]
pub struct Keyboard(());

impl Keyboard {
    /// Has the keyboard raise `vector` on the calling processor.
    pub fn enable(vector: DeviceVector) -> Self {
        apic::enable();
        apic::route(GSI, vector);
        write(COMMAND, WRITE_COMMAND_BYTE);
        write(DATA, INTERRUPT_ON);
        write(COMMAND, ENABLE_KEYBOARD);
        Self(())
    }

    /// Waits for one code.
    pub fn read(&mut self) -> u8 {
        while port::read(STATUS) & OUTPUT_BUFFER_FULL == 0 {
            gates::wait_for_interrupt();
        }
        port::read(DATA)
    }
}

/// Pulses the processor's reset line; returns only if nothing has happened for a while. The reset may
/// take effect a little after the write.
pub fn pulse_reset() {
    port::write(COMMAND, PULSE_RESET);
    clock::spin_until(RESET_CYCLES, || false);
}

fn write(port: u16, value: u8) {
    while port::read(STATUS) & INPUT_BUFFER_FULL != 0 {}
    port::write(port, value);
}
