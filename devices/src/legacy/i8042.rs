//! The i8042 keyboard controller with a keyboard and no mouse (IBM PS/2 Technical Reference, "Keyboard and
//! Auxiliary Device Controller").
//!
//! A guest uses it to reset the machine; the host uses it to press Ctrl-Alt-Del. It answers what drivers ask
//! while they probe, so that they find a keyboard at once and no mouse.
//!
//! ```text
//!   port 0x60  read: output buffer          write: keyboard command or a controller command's parameter
//!   port 0x64  read: status                 write: controller command
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vm_config::{Explain, FaultCode, FaultKind};

use crate::Registers;
use crate::irq::IrqLine;
use crate::metrics::I8042Metrics;

/// Ports in the window that starts at 0x60; the three between are not the controller's.
pub const WINDOW_LEN: u64 = 5;

/// Bytes the output buffer holds.
const BUFFER: usize = 16;

// Offsets of the two ports.
const DATA: u64 = 0;
const COMMAND: u64 = 4;

const STATUS_OUTPUT_FULL: u8 = 1 << 0;
const STATUS_SYSTEM: u8 = 1 << 2;
/// The last write was a command.
const STATUS_COMMAND: u8 = 1 << 3;
const STATUS_UNLOCKED: u8 = 1 << 4;

const COMMAND_INTERRUPT: u8 = 1 << 0;
const COMMAND_SYSTEM: u8 = 1 << 2;
const COMMAND_DISABLE_KEYBOARD: u8 = 1 << 4;
const COMMAND_DISABLE_MOUSE: u8 = 1 << 5;
const COMMAND_TRANSLATE: u8 = 1 << 6;

/// Bit 0 of the output port: low resets the processor.
const OUTPUT_NO_RESET: u8 = 1 << 0;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0x55;
const KEYBOARD_READY: u8 = 0xaa;
const KEYBOARD_ID: [u8; 2] = [0xab, 0x83];
const SCAN_CODE_SET: u8 = 2;
/// The clock line is stuck: there is no mouse.
const NO_MOUSE: u8 = 1;

/// Ctrl, Alt and Del pressed, then released (scan code set 2).
const CTRL_ALT_DEL: [u8; 11] = [
    0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14,
];
/// The same as the controller translates it for a driver that asks so (scan code set 1).
const CTRL_ALT_DEL_TRANSLATED: [u8; 8] = [0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d];

/// What a guest pulls to end the machine.
pub trait ResetLine: Send + Sync {
    /// The guest wants it to end. Called on a vCPU's thread, with no lock held.
    fn reset(&self);
}

impl<F: Fn() + Send + Sync> ResetLine for F {
    fn reset(&self) {
        self();
    }
}

/// Keys that were not pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the keyboard's buffer is full; the guest does not read its keyboard (it needs SERIO_I8042 and KEYBOARD_ATKBD)"
)]
pub struct KeyboardFull;

impl Explain for KeyboardFull {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(FaultCode::KeyboardFull)
    }
}

/// A saved state that no controller can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("saved i8042 state holds more output than the controller")]
pub struct RestoreError;

/// All a driver can observe of the controller. Format `i8042` v1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct I8042State {
    /// The command byte.
    command: u8,
    /// The output port.
    output_port: u8,
    /// The last write went to the command port.
    was_command: bool,
    /// Whose parameter the next byte to the data port is.
    parameter_of: Option<Parameter>,
    /// Bytes for the driver, oldest first.
    output: VecDeque<u8>,
}

/// Commands that take a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Parameter {
    CommandByte,
    OutputPort,
    KeyboardOutput,
    Discarded,
    KeyboardSetting,
    ScanCodeSet,
}

/// A keyboard controller.
pub struct I8042 {
    // Runtime glue: rebuilt on restore.
    irq: Box<dyn IrqLine>,
    reset: Arc<dyn ResetLine>,
    metrics: Arc<I8042Metrics>,
    // Guest-visible state: all of it, and nothing else.
    state: Mutex<I8042State>,
}

/// What an access does outside the controller; done when the lock is released.
#[derive(Debug, Default, PartialEq, Eq)]
struct Effects {
    raise: bool,
    reset: bool,
}

impl Default for I8042State {
    /// As firmware leaves it: tested, interrupts on, no mouse, no translation.
    fn default() -> Self {
        Self {
            command: COMMAND_INTERRUPT | COMMAND_SYSTEM | COMMAND_DISABLE_MOUSE,
            output_port: OUTPUT_NO_RESET,
            was_command: false,
            parameter_of: None,
            output: VecDeque::with_capacity(BUFFER),
        }
    }
}

impl I8042 {
    /// A controller on interrupt line `irq`, which resets the machine by `reset`.
    #[must_use]
    pub fn new(irq: Box<dyn IrqLine>, reset: Arc<dyn ResetLine>) -> Self {
        Self {
            irq,
            reset,
            metrics: Arc::default(),
            state: Mutex::default(),
        }
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<I8042Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Presses Ctrl-Alt-Del, and releases it.
    ///
    /// # Errors
    /// When the guest has not read earlier keys; none of these is pressed then.
    pub fn press_ctrl_alt_del(&self) -> Result<(), KeyboardFull> {
        let pressed = {
            let mut state = self.lock();
            let keys: &[u8] = if state.command & COMMAND_TRANSLATE == 0 {
                &CTRL_ALT_DEL
            } else {
                &CTRL_ALT_DEL_TRANSLATED
            };
            state.press(keys)
        };
        match pressed {
            Ok(raise) => self.finish(&Effects {
                raise,
                reset: false,
            }),
            Err(_) => self.metrics.error_count.increment(),
        }
        pressed.map(|_| ())
    }

    /// The state to save.
    #[must_use]
    pub fn state(&self) -> I8042State {
        self.lock().clone()
    }

    /// Adopts a saved state, and pulses the line if the driver has something to read.
    ///
    /// # Errors
    /// When no controller can be in that state.
    pub fn restore(&self, state: I8042State) -> Result<(), RestoreError> {
        if state.output.len() > BUFFER {
            return Err(RestoreError);
        }
        let raise = state.wants_interrupt();
        *self.lock() = state;
        self.finish(&Effects {
            raise,
            reset: false,
        });
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, I8042State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, effects: &Effects) {
        if effects.raise {
            self.irq.raise();
        }
        if effects.reset {
            self.metrics.reset_count.increment();
            self.reset.reset();
        }
    }
}

/// Ports are bytes; an access of any other width, or between the two ports, reads as 0 and writes nothing.
impl Registers for I8042 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let (DATA | COMMAND, [byte]) = (offset, &mut *data) else {
            data.fill(0);
            self.metrics.missed_read_count.increment();
            return;
        };
        self.metrics.read_count.increment();
        let raise = {
            let mut state = self.lock();
            if offset == COMMAND {
                *byte = state.status();
                false
            } else {
                *byte = state.output.pop_front().unwrap_or_default();
                // The next byte moves up: a new byte, a new interrupt.
                state.wants_interrupt()
            }
        };
        self.finish(&Effects {
            raise,
            reset: false,
        });
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let (DATA | COMMAND, [byte]) = (offset, data) else {
            self.metrics.missed_write_count.increment();
            return;
        };
        self.metrics.write_count.increment();
        let effects = {
            let mut state = self.lock();
            state.was_command = offset == COMMAND;
            let had_interrupt = state.wants_interrupt();
            let reset = if offset == COMMAND {
                state.parameter_of = None;
                state.controller_command(*byte)
            } else {
                match state.parameter_of.take() {
                    Some(command) => state.parameter(command, *byte),
                    None => {
                        state.keyboard_command(*byte);
                        false
                    }
                }
            };
            Effects {
                raise: !had_interrupt && state.wants_interrupt(),
                reset,
            }
        };
        self.finish(&effects);
    }
}

impl I8042State {
    fn status(&self) -> u8 {
        let mut status = STATUS_UNLOCKED;
        if !self.output.is_empty() {
            status |= STATUS_OUTPUT_FULL;
        }
        if self.command & COMMAND_SYSTEM != 0 {
            status |= STATUS_SYSTEM;
        }
        if self.was_command {
            status |= STATUS_COMMAND;
        }
        status
    }

    fn wants_interrupt(&self) -> bool {
        self.command & COMMAND_INTERRUPT != 0 && !self.output.is_empty()
    }

    /// Answers a controller command. What the driver did not read before asking is gone: it could not tell it
    /// from the answer.
    fn reply(&mut self, byte: u8) {
        self.output.clear();
        self.output.push_back(byte);
    }

    /// Bytes from the keyboard; those that do not fit are lost, as in the real one.
    fn send(&mut self, bytes: &[u8]) {
        let room = BUFFER.saturating_sub(self.output.len());
        self.output.extend(bytes.iter().take(room));
    }

    /// All keys or none. True when the line is to be pulsed.
    fn press(&mut self, keys: &[u8]) -> Result<bool, KeyboardFull> {
        if BUFFER.saturating_sub(self.output.len()) < keys.len() {
            return Err(KeyboardFull);
        }
        let had_interrupt = self.wants_interrupt();
        self.send(keys);
        Ok(!had_interrupt && self.wants_interrupt())
    }

    /// A byte to the command port. True when it resets the machine.
    fn controller_command(&mut self, command: u8) -> bool {
        match command {
            0x20 => self.reply(self.command),
            0x60 => self.parameter_of = Some(Parameter::CommandByte),
            0xa7 => self.command |= COMMAND_DISABLE_MOUSE,
            0xa8 => self.command &= !COMMAND_DISABLE_MOUSE,
            0xa9 => self.reply(NO_MOUSE),
            0xaa => {
                self.command |= COMMAND_SYSTEM;
                self.reply(SELF_TEST_PASSED);
            }
            // Interface test: no error.
            0xab => self.reply(0),
            0xad => self.command |= COMMAND_DISABLE_KEYBOARD,
            0xae => self.command &= !COMMAND_DISABLE_KEYBOARD,
            0xd0 => self.reply(self.output_port),
            0xd1 => self.parameter_of = Some(Parameter::OutputPort),
            0xd2 => self.parameter_of = Some(Parameter::KeyboardOutput),
            // For a mouse: its output, its input.
            0xd3 | 0xd4 => self.parameter_of = Some(Parameter::Discarded),
            // Pulses the output port's lower bits that are 0.
            0xf0..=0xff => return command & OUTPUT_NO_RESET == 0,
            _ => {}
        }
        false
    }

    /// The parameter of an earlier command. True when it resets the machine.
    fn parameter(&mut self, of: Parameter, value: u8) -> bool {
        match of {
            Parameter::CommandByte => self.command = value,
            Parameter::OutputPort => {
                self.output_port = value | OUTPUT_NO_RESET;
                return value & OUTPUT_NO_RESET == 0;
            }
            Parameter::KeyboardOutput => self.reply(value),
            Parameter::Discarded => {}
            Parameter::KeyboardSetting => self.send(&[ACK]),
            Parameter::ScanCodeSet if value == 0 => self.send(&[ACK, SCAN_CODE_SET]),
            Parameter::ScanCodeSet => self.send(&[ACK]),
        }
        false
    }

    /// A byte to the keyboard.
    fn keyboard_command(&mut self, command: u8) {
        match command {
            // Lights; repeat rate and delay.
            0xed | 0xf3 => {
                self.parameter_of = Some(Parameter::KeyboardSetting);
                self.send(&[ACK]);
            }
            0xee => self.send(&[command]),
            0xf0 => {
                self.parameter_of = Some(Parameter::ScanCodeSet);
                self.send(&[ACK]);
            }
            0xf2 => self.send(&[ACK, KEYBOARD_ID[0], KEYBOARD_ID[1]]),
            // Enable, disable, defaults, and what keys report.
            0xf4..=0xfd => self.send(&[ACK]),
            0xff => {
                self.output.clear();
                self.send(&[ACK, KEYBOARD_READY]);
            }
            _ => self.send(&[RESEND]),
        }
    }
}

#[cfg(test)]
mod tests;
