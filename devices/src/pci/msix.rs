//! MSI-X: a table of messages, one a vector, each with a mask, and a bit for what is pending behind the mask
//! (PCI 3.0 §6.8.2).
//!
//! The host routes a vector when its mask opens for the first time, or opens with another message; after that a
//! device's interrupt touches two flags and no lock. A flag race is settled as Dekker's: who sends looks at
//! the mask again after noting what is pending, who unmasks looks for what is pending after opening the mask.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::config::ConfigurationSpace;
use crate::irq::Message;

/// Capability identifier.
const CAPABILITY_ID: u8 = 0x11;
/// Message control, from the capability's start.
pub const MESSAGE_CONTROL: u16 = 2;
const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;

/// Bytes of a table entry.
const ENTRY_LEN: u64 = 16;
/// Vector control: masked.
const MASKED: u32 = 1;

/// Upper address bits of every message to a local APIC (Intel SDM volume 3 §11.11.1).
const APIC_MESSAGES: u32 = 0xfee0_0000;

/// Where a function's interrupts go; given by the host.
pub trait MessageLines: Send + Sync {
    /// From now on `vector` sends `message`, or nothing.
    fn route(&self, vector: u16, message: Option<Message>);
    /// Sends the message of `vector`.
    fn signal(&self, vector: u16);
}

/// The table of one function.
pub struct Msix {
    lines: Box<dyn MessageLines>,
    vectors: Box<[Vector]>,
    is_enabled: AtomicBool,
    // Held while the host is told of a route: the order of route changes must be that of the guest's writes.
    table: Mutex<Table>,
}

/// What an interrupt looks at on its way out.
#[derive(Default)]
struct Vector {
    is_open: AtomicBool,
    is_pending: AtomicBool,
}

struct Table {
    control: u16,
    entries: Vec<Entry>,
    /// What the host was told.
    routed: Vec<Option<Message>>,
}

/// One entry as the guest wrote it: address, its upper half, data, vector control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Entry([u32; 4]);

/// All a driver can observe of the table. Format `msix` v1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MsixState {
    control: u16,
    entries: Vec<Entry>,
    pending: Vec<bool>,
}

impl Entry {
    /// At reset a vector is masked.
    const FRESH: Self = Self([0, 0, 0, MASKED]);

    fn is_masked(self) -> bool {
        self.0[3] & MASKED != 0
    }

    /// What it sends. An address that is no local APIC's is nobody's: the message is lost.
    fn message(self) -> Option<Message> {
        let [address, upper, data, _] = self.0;
        let is_apic = upper == 0 && address & 0xfff0_0000 == APIC_MESSAGES;
        is_apic.then_some(Message { address, data })
    }
}

impl Msix {
    /// A table of `vectors` entries, 1 to 2048, all masked.
    #[must_use]
    pub fn new(vectors: u16, lines: Box<dyn MessageLines>) -> Self {
        Self {
            lines,
            vectors: (0..vectors).map(|_| Vector::default()).collect(),
            is_enabled: AtomicBool::new(false),
            table: Mutex::new(Table {
                control: 0,
                entries: vec![Entry::FRESH; vectors.into()],
                routed: vec![None; vectors.into()],
            }),
        }
    }

    /// Appends the capability, for a table and a pending bit array at these offsets of the first window.
    pub fn add_capability(&self, space: &mut ConfigurationSpace, table: u32, pba: u32) -> u16 {
        let last = u16::try_from(self.vectors.len().saturating_sub(1)).unwrap_or(0x7ff);
        let mut body = Vec::with_capacity(10);
        body.extend(last.to_le_bytes());
        body.extend(table.to_le_bytes());
        body.extend(pba.to_le_bytes());
        let [low, high] = (ENABLE | FUNCTION_MASK).to_le_bytes();
        space.add_capability(CAPABILITY_ID, &body, &[0, 0, low, high])
    }

    /// Whether `vector` exists.
    #[must_use]
    pub fn has(&self, vector: u16) -> bool {
        usize::from(vector) < self.vectors.len()
    }

    /// The driver uses message-signalled interrupts.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.is_enabled.load(Ordering::SeqCst)
    }

    /// Sends the message of `vector`, or notes it until the mask opens.
    pub fn trigger(&self, index: u16) {
        let Some(vector) = self.vectors.get(usize::from(index)) else {
            return;
        };
        if !self.is_enabled() {
            return;
        }
        if vector.is_open.load(Ordering::SeqCst) {
            self.lines.signal(index);
            return;
        }
        vector.is_pending.store(true, Ordering::SeqCst);
        if vector.is_open.load(Ordering::SeqCst) {
            self.send_pending(index, vector);
        }
    }

    /// The driver wrote message control.
    pub fn set_control(&self, control: u16) {
        let mut table = self.lock();
        let control = control & (ENABLE | FUNCTION_MASK);
        if control == table.control {
            return;
        }
        table.control = control;
        self.is_enabled
            .store(control & ENABLE != 0, Ordering::SeqCst);
        for index in (0..).take(self.vectors.len()) {
            self.refresh(&mut table, index);
        }
    }

    /// Reads the table, in words or pairs of words; any other access reads as 0 (PCI 3.0 §6.8.2).
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if !is_words(offset, data.len()) {
            return;
        }
        let table = self.lock();
        for (word, at) in data.chunks_exact_mut(4).zip((offset..).step_by(4)) {
            if let Some((index, field)) = place(at)
                && let Some(entry) = table.entries.get(usize::from(index))
            {
                word.copy_from_slice(&entry.0[field].to_le_bytes());
            }
        }
    }

    /// Writes the table, in words or pairs of words; any other access writes nothing.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        if !is_words(offset, data.len()) {
            return;
        }
        let mut table = self.lock();
        for (word, at) in data.chunks_exact(4).zip((offset..).step_by(4)) {
            let (Some((index, field)), Ok(word)) = (place(at), <[u8; 4]>::try_from(word)) else {
                continue;
            };
            let Some(entry) = table.entries.get_mut(usize::from(index)) else {
                continue;
            };
            let value = u32::from_le_bytes(word);
            entry.0[field] = if field == 3 { value & MASKED } else { value };
            self.refresh(&mut table, index);
        }
    }

    /// Reads the pending bits, in words or pairs of words. They cannot be written.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if !is_words(offset, data.len()) {
            return;
        }
        for (byte, at) in data.iter_mut().zip(offset..) {
            let Some(first) = usize::try_from(at).ok().and_then(|at| at.checked_mul(8)) else {
                return;
            };
            for (bit, vector) in self.vectors.iter().skip(first).take(8).enumerate() {
                *byte |= u8::from(vector.is_pending.load(Ordering::SeqCst)) << bit;
            }
        }
    }

    /// The state to save.
    #[must_use]
    pub fn state(&self) -> MsixState {
        let table = self.lock();
        let pending = self.vectors.iter();
        MsixState {
            control: table.control,
            entries: table.entries.clone(),
            pending: pending
                .map(|vector| vector.is_pending.load(Ordering::SeqCst))
                .collect(),
        }
    }

    /// Whether `state` is of a table of this size.
    #[must_use]
    pub fn fits(&self, state: &MsixState) -> bool {
        let len = self.vectors.len();
        state.entries.len() == len && state.pending.len() == len
    }

    /// Adopts a saved state and tells the host of its routes. Nothing changes when it does not fit.
    pub fn restore(&self, state: &MsixState) {
        if !self.fits(state) {
            return;
        }
        let mut table = self.lock();
        table.entries.clone_from(&state.entries);
        for (vector, is_pending) in self.vectors.iter().zip(&state.pending) {
            vector.is_pending.store(*is_pending, Ordering::SeqCst);
        }
        drop(table);
        self.set_control(state.control);
    }

    /// Sends every open vector once: a message may have been lost with a saved machine. Drivers take an
    /// interrupt without a cause for what it is.
    pub fn repeat(&self) {
        for (index, vector) in (0..).zip(&self.vectors) {
            if vector.is_open.load(Ordering::SeqCst) {
                self.lines.signal(index);
            }
        }
    }

    /// Brings the host and the vector's flags in line with its entry.
    fn refresh(&self, table: &mut Table, index: u16) {
        let at = usize::from(index);
        let (entry, vector) = (table.entries[at], &self.vectors[at]);
        let is_open =
            table.control & ENABLE != 0 && table.control & FUNCTION_MASK == 0 && !entry.is_masked();
        if !is_open {
            vector.is_open.store(false, Ordering::SeqCst);
            return;
        }
        let message = entry.message();
        if table.routed[at] != message {
            table.routed[at] = message;
            self.lines.route(index, message);
        }
        vector.is_open.store(true, Ordering::SeqCst);
        self.send_pending(index, vector);
    }

    fn send_pending(&self, index: u16, vector: &Vector) {
        if vector.is_pending.swap(false, Ordering::SeqCst) {
            self.lines.signal(index);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An access that tables take.
fn is_words(offset: u64, len: usize) -> bool {
    offset.is_multiple_of(4) && matches!(len, 4 | 8)
}

/// The vector and the field that a table offset names.
fn place(offset: u64) -> Option<(u16, usize)> {
    let index = u16::try_from(offset / ENTRY_LEN).ok()?;
    let field = usize::try_from(offset % ENTRY_LEN / 4).ok()?;
    Some((index, field))
}

#[cfg(test)]
mod tests;
