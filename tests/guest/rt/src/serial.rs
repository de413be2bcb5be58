//! COM1, a 16550A: [`print!`](crate::print), [`println!`](crate::println) and [`Input`].
//!
//! Every port access leaves the guest, which costs tens of microseconds, so the transmitter is asked
//! for room once per FIFO and not once per byte.

use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};

use crate::interrupts::DeviceVector;
use crate::{apic, gates, port};

const COM1: u16 = 0x3f8;
const RECEIVE_BUFFER: u16 = COM1;
const TRANSMIT_HOLDING: u16 = COM1;
const INTERRUPT_ENABLE: u16 = COM1 + 1;
const FIFO_CONTROL: u16 = COM1 + 2;
const MODEM_CONTROL: u16 = COM1 + 4;
const LINE_STATUS: u16 = COM1 + 5;

const FIFO_ENABLE: u8 = 1;
const RECEIVED_DATA_AVAILABLE: u8 = 1;
/// DTR, RTS and OUT2; OUT2 connects the interrupt line.
const MODEM_CONTROL_WITH_INTERRUPT: u8 = 0x0b;
const DATA_READY: u8 = 1;
const TRANSMITTER_HOLDING_EMPTY: u8 = 0x20;
const FIFO_BYTES: u8 = 16;

/// Not yet set up.
const UNKNOWN: u8 = u8::MAX;

/// Interrupt controller input of COM1.
const GSI: u32 = 4;

/// Bytes the transmit FIFO takes before it must be asked again. Only one processor prints.
static ROOM: AtomicU8 = AtomicU8::new(UNKNOWN);

/// COM1 as a place to format into.
#[derive(Clone, Copy, Debug)]
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write_bytes(text.as_bytes());
        Ok(())
    }
}

/// Sends bytes as they are.
pub fn write_bytes(bytes: &[u8]) {
    let mut room = ROOM.load(Ordering::Relaxed);
    if room == UNKNOWN {
        port::write(FIFO_CONTROL, FIFO_ENABLE);
        room = 0;
    }
    for &byte in bytes {
        if room == 0 {
            while port::read(LINE_STATUS) & TRANSMITTER_HOLDING_EMPTY == 0 {}
            room = FIFO_BYTES;
        }
        port::write(TRANSMIT_HOLDING, byte);
        room -= 1;
    }
    ROOM.store(room, Ordering::Relaxed);
}

/// Whether a byte has come in that nobody has read.
pub fn has_input() -> bool {
    port::read(LINE_STATUS) & DATA_READY != 0
}

/// Received bytes; sleeps while there is none.
#[derive(Debug)]
pub struct Input(());

impl Input {
    /// Has COM1 raise `vector` on the calling processor when bytes come in.
    pub fn enable(vector: DeviceVector) -> Self {
        apic::enable();
        apic::route(GSI, vector);
        port::write(MODEM_CONTROL, MODEM_CONTROL_WITH_INTERRUPT);
        port::write(INTERRUPT_ENABLE, RECEIVED_DATA_AVAILABLE);
        Self(())
    }

    /// Waits for one byte.
    pub fn read(&mut self) -> u8 {
        while !has_input() {
            gates::wait_for_interrupt();
        }
        port::read(RECEIVE_BUFFER)
    }
}

/// Formats to COM1.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => {{
        // Writing to COM1 cannot fail.
        let _ = core::fmt::Write::write_fmt(&mut $crate::serial::Serial, format_args!($($argument)*));
    }};
}

/// Formats to COM1 and ends the line.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {
        $crate::print!("{}\n", format_args!($($argument)*))
    };
}
