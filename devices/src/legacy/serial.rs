//! A 16550A serial port (National Semiconductor PC16550D).
//!
//! The transmitter is always empty: a byte written is with the sink before the access returns. The receiver
//! holds [`RECEIVE_FIFO`] bytes, filled by [`super::SerialInput`].
//!
//! The interrupt output is the level that the data sheet describes, derived from registers after each access,
//! and the line is pulsed when it rises. An interrupt is therefore never lost between two causes: while input
//! remains unread, IIR goes on to say so. (The ready-made model in vm-superio clears all causes when IIR is
//! read and reports two causes at once as a third.)

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vm_config::TokenBucket;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::Registers;
use crate::irq::IrqLine;
use crate::limiter::Allowance;
use crate::metrics::SerialMetrics;
use crate::tail::{Tail, Written};

/// Bytes of input the port holds. More than a 16550A's 16, which no driver can tell, for fewer wake-ups.
pub const RECEIVE_FIFO: usize = 64;

/// Ports in the window.
pub const WINDOW_LEN: u64 = 8;

// Register offsets; the first three mean something else when written or when DLAB is set.
const DATA: u8 = 0;
const INTERRUPT_ENABLE: u8 = 1;
const INTERRUPT_ID: u8 = 2;
const FIFO_CONTROL: u8 = 2;
const LINE_CONTROL: u8 = 3;
const MODEM_CONTROL: u8 = 4;
const LINE_STATUS: u8 = 5;
const MODEM_STATUS: u8 = 6;
const SCRATCH: u8 = 7;

const IER_RECEIVED: u8 = 1 << 0;
const IER_EMPTY: u8 = 1 << 1;
const IER_MASK: u8 = 0x0f;
const IIR_NONE: u8 = 0b0001;
const IIR_EMPTY: u8 = 0b0010;
const IIR_RECEIVED: u8 = 0b0100;
const IIR_FIFO_ENABLED: u8 = 0b1100_0000;
const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVE: u8 = 1 << 1;
const LCR_DLAB: u8 = 1 << 7;
const MCR_DTR: u8 = 1 << 0;
const MCR_RTS: u8 = 1 << 1;
const MCR_OUT1: u8 = 1 << 2;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;
const MCR_MASK: u8 = 0x1f;
const LSR_DATA_READY: u8 = 1 << 0;
/// Holding and shift register empty.
const LSR_EMPTY: u8 = 1 << 5 | 1 << 6;
const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;

/// All a driver can observe of the port. Format `serial` v1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialState {
    /// Divisor latch, low and high byte.
    divisor: [u8; 2],
    interrupt_enable: u8,
    has_fifo: bool,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    /// The transmitter became empty and the driver has not seen it in IIR.
    is_empty_pending: bool,
    /// Input the driver has not read.
    received: VecDeque<u8>,
}

/// A saved state that no port can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("saved serial state holds more input than the port")]
pub struct RestoreError;

/// A serial port.
pub struct Serial {
    // Runtime glue: rebuilt on restore.
    irq: Box<dyn IrqLine>,
    output: Mutex<Output>,
    tail: Tail,
    /// Written when there is room again for input that waits.
    room: EventFd,
    metrics: Arc<SerialMetrics>,
    inner: Mutex<Inner>,
}

/// Where output goes, and how much of it.
struct Output {
    sink: Box<dyn Write + Send>,
    limit: Option<Allowance>,
}

struct Inner {
    /// Input waits for room.
    is_input_waiting: bool,
    // Guest-visible state: all of it, and nothing else.
    state: SerialState,
}

/// What an access does outside the registers; done when the lock is released.
#[derive(Debug, Default)]
struct Effects {
    output: Option<u8>,
    raise: bool,
    has_room: bool,
}

impl Default for SerialState {
    /// As at power-on: 9600 baud, eight bits.
    fn default() -> Self {
        Self {
            divisor: [12, 0],
            interrupt_enable: 0,
            has_fifo: false,
            line_control: 0b011,
            modem_control: 0,
            scratch: 0,
            is_empty_pending: false,
            received: VecDeque::with_capacity(RECEIVE_FIFO),
        }
    }
}

impl Serial {
    /// A port that writes to `sink`, which must not block: a vCPU waits for it.
    ///
    /// # Errors
    /// When the host gives no eventfd.
    pub fn new(irq: Box<dyn IrqLine>, sink: Box<dyn Write + Send>) -> std::io::Result<Self> {
        Ok(Self {
            irq,
            output: Mutex::new(Output { sink, limit: None }),
            tail: Tail::default(),
            room: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            metrics: Arc::default(),
            inner: Mutex::new(Inner {
                is_input_waiting: false,
                state: SerialState::default(),
            }),
        })
    }

    /// The same port with a limit on its output, bytes: what the bucket does not cover is dropped.
    #[must_use]
    pub fn with_limit(self, limit: Option<TokenBucket>) -> Self {
        self.lock_output().limit = limit.and_then(Allowance::new);
        self
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<SerialMetrics> {
        Arc::clone(&self.metrics)
    }

    /// What the guest wrote, whatever became of it.
    #[must_use]
    pub fn written(&self) -> Written {
        self.tail.written()
    }

    /// The state to save.
    #[must_use]
    pub fn state(&self) -> SerialState {
        self.lock().state.clone()
    }

    /// Adopts a saved state, and pulses the line if an interrupt is pending in it.
    ///
    /// # Errors
    /// When no port can be in that state.
    pub fn restore(&self, state: SerialState) -> Result<(), RestoreError> {
        if state.received.len() > RECEIVE_FIFO {
            return Err(RestoreError);
        }
        let raise = state.cause() != IIR_NONE;
        self.lock().state = state;
        self.finish(Effects {
            raise,
            ..Effects::default()
        });
        Ok(())
    }

    /// Takes input, as much as there is room for. Returns how much.
    pub fn receive(&self, input: &[u8]) -> usize {
        let (taken, effects) = self.change(|inner, _| {
            let room = inner.state.room();
            let taken = room.min(input.len());
            inner.state.received.extend(input.iter().take(taken));
            inner.is_input_waiting = taken < input.len();
            taken
        });
        self.finish(effects);
        taken
    }

    /// Bytes of input there is room for. When there is none, [`Serial::room_event`] is written once there is.
    pub(super) fn room(&self) -> usize {
        let mut inner = self.lock();
        let room = inner.state.room();
        inner.is_input_waiting |= room == 0;
        room
    }

    /// Readable after room was made for input that waits.
    pub(super) fn room_event(&self) -> &EventFd {
        &self.room
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the registers under the lock, and finds out what follows from it.
    fn change<T>(&self, change: impl FnOnce(&mut Inner, &mut Effects) -> T) -> (T, Effects) {
        let mut effects = Effects::default();
        let mut inner = self.lock();
        let was_pending = inner.state.cause() != IIR_NONE;
        let result = change(&mut inner, &mut effects);
        effects.raise |= !was_pending && inner.state.cause() != IIR_NONE;
        // Half empty: one wake-up for many bytes, before the driver runs dry.
        if inner.is_input_waiting && inner.state.room() >= RECEIVE_FIFO / 2 {
            inner.is_input_waiting = false;
            effects.has_room = true;
        }
        (result, effects)
    }

    fn finish(&self, effects: Effects) {
        if let Some(byte) = effects.output {
            self.output(byte);
        }
        if effects.raise {
            self.irq.raise();
        }
        if effects.has_room {
            // Fails only when the counter is full, that is, when the event is pending.
            let _ = self.room.write(1);
        }
    }

    fn output(&self, byte: u8) {
        self.tail.push(&[byte]);
        let mut output = self.lock_output();
        self.metrics.write_count.increment();
        if let Some(limit) = &mut output.limit
            && !limit.covers(1)
        {
            self.metrics.rate_limiter_dropped_bytes.increment();
            return;
        }
        let sink = &mut output.sink;
        let written = sink.write_all(&[byte]).and_then(|()| sink.flush());
        if written.is_err() {
            self.metrics.error_count.increment();
        }
    }
}

/// Registers are bytes; an access of any other width reads as 0 and writes nothing.
impl Registers for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let (Ok(offset), [byte]) = (u8::try_from(offset), &mut *data) else {
            data.fill(0);
            self.metrics.missed_read_count.increment();
            return;
        };
        let effects;
        (*byte, effects) = self.change(|inner, _| inner.state.read(offset, &self.metrics));
        self.finish(effects);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let (Ok(offset), [byte]) = (u8::try_from(offset), data) else {
            self.metrics.missed_write_count.increment();
            return;
        };
        let ((), effects) = self.change(|inner, effects| {
            effects.output = inner.state.write(offset, *byte, effects);
        });
        self.finish(effects);
    }
}

impl SerialState {
    fn is_latch_open(&self) -> bool {
        self.line_control & LCR_DLAB != 0
    }

    fn is_looped(&self) -> bool {
        self.modem_control & MCR_LOOP != 0
    }

    /// Room for input from outside, which a port that talks to itself does not hear.
    fn room(&self) -> usize {
        if self.is_looped() {
            0
        } else {
            RECEIVE_FIFO - self.received.len().min(RECEIVE_FIFO)
        }
    }

    /// The interrupt with the highest priority, as IIR has it (PC16550D, table IV).
    fn cause(&self) -> u8 {
        if self.interrupt_enable & IER_RECEIVED != 0 && !self.received.is_empty() {
            IIR_RECEIVED
        } else if self.interrupt_enable & IER_EMPTY != 0 && self.is_empty_pending {
            IIR_EMPTY
        } else {
            IIR_NONE
        }
    }

    fn read(&mut self, offset: u8, metrics: &SerialMetrics) -> u8 {
        match offset {
            DATA if self.is_latch_open() => self.divisor[0],
            INTERRUPT_ENABLE if self.is_latch_open() => self.divisor[1],
            DATA => {
                metrics.read_count.increment();
                self.received.pop_front().unwrap_or_default()
            }
            INTERRUPT_ENABLE => self.interrupt_enable,
            INTERRUPT_ID => {
                let cause = self.cause();
                // Seeing this cause clears it; input is cleared by reading it.
                if cause == IIR_EMPTY {
                    self.is_empty_pending = false;
                }
                let fifo = if self.has_fifo { IIR_FIFO_ENABLED } else { 0 };
                cause | fifo
            }
            LINE_CONTROL => self.line_control,
            MODEM_CONTROL => self.modem_control,
            LINE_STATUS if self.received.is_empty() => LSR_EMPTY,
            LINE_STATUS => LSR_EMPTY | LSR_DATA_READY,
            MODEM_STATUS => self.modem_status(),
            SCRATCH => self.scratch,
            _ => 0,
        }
    }

    /// Returns the byte that leaves the port.
    fn write(&mut self, offset: u8, value: u8, effects: &mut Effects) -> Option<u8> {
        match offset {
            DATA if self.is_latch_open() => self.divisor[0] = value,
            INTERRUPT_ENABLE if self.is_latch_open() => self.divisor[1] = value,
            DATA => {
                // The holding register fills and empties: the level falls and rises.
                effects.raise |= self.cause() == IIR_EMPTY;
                self.is_empty_pending = true;
                if !self.is_looped() {
                    return Some(value);
                }
                if self.received.len() < RECEIVE_FIFO {
                    self.received.push_back(value);
                }
            }
            INTERRUPT_ENABLE => {
                let enabled = value & !self.interrupt_enable;
                self.interrupt_enable = value & IER_MASK;
                // Enabling it with the transmitter empty raises it (PC16550D, section 8.7).
                self.is_empty_pending |= enabled & IER_EMPTY != 0;
            }
            FIFO_CONTROL => {
                self.has_fifo = value & FCR_ENABLE != 0;
                if value & FCR_CLEAR_RECEIVE != 0 {
                    self.received.clear();
                }
            }
            LINE_CONTROL => self.line_control = value,
            MODEM_CONTROL => self.modem_control = value & MCR_MASK,
            SCRATCH => self.scratch = value,
            _ => {}
        }
        None
    }

    /// A connected terminal, or the port's own outputs when it is looped (PC16550D, section 8.4).
    fn modem_status(&self) -> u8 {
        if !self.is_looped() {
            return MSR_DCD | MSR_DSR | MSR_CTS;
        }
        let wires = [
            (MCR_RTS, MSR_CTS),
            (MCR_DTR, MSR_DSR),
            (MCR_OUT1, MSR_RI),
            (MCR_OUT2, MSR_DCD),
        ];
        let high = wires
            .iter()
            .filter(|(output, _)| self.modem_control & output != 0);
        high.fold(0, |status, (_, input)| status | input)
    }
}

#[cfg(test)]
mod tests;
