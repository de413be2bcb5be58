//! The interrupt table, counters of device interrupts, and the report of an exception.
//!
//! Vectors: 0–31 exceptions, 3 among them for [`gates`](crate::gates), 32–63 devices, 0xff spurious (Intel SDM 3A, chapter 6).

use core::sync::atomic::{AtomicU64, Ordering};

const VECTOR_ENTRY_BYTES: u64 = 16;
const FIRST_DEVICE_VECTOR: u8 = 32;
const VECTORS_WITH_ENTRY: u8 = 64;
const BREAKPOINT: u8 = 3;
const SPURIOUS_VECTOR: u8 = 0xff;
/// Ring 0 code segment of `entry.s`.
const CODE64: u64 = 0x10;
/// Present interrupt gate, callable from ring 0 only, and from ring 3 as well.
const GATE_RING_0: u64 = 0x8e;
const GATE_RING_3: u64 = 0xee;

#[derive(Debug)]
#[repr(C, align(16))]
struct Table([[AtomicU64; 2]; 256]);

// SAFETY: no other item has this name; `entry.s` loads it as the interrupt table.
#[unsafe(no_mangle)]
static idt: Table = Table([const { [AtomicU64::new(0), AtomicU64::new(0)] }; 256]);

// SAFETY: no other item has this name; `entry.s` increments the entry of each vector below 64.
#[unsafe(no_mangle)]
static interrupt_counts: [AtomicU64; VECTORS_WITH_ENTRY as usize] =
    [const { AtomicU64::new(0) }; VECTORS_WITH_ENTRY as usize];

unsafe extern "C" {
    safe fn vector_entries();
    safe fn gate();
    safe fn spurious_interrupt();
}

/// An interrupt vector of a device, 32 to 63.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceVector(u8);

impl DeviceVector {
    /// The `index`th device vector, 0 to 31.
    pub fn new(index: u8) -> Self {
        crate::check!(
            index < VECTORS_WITH_ENTRY - FIRST_DEVICE_VECTOR,
            "no device vector {index}"
        );
        Self(FIRST_DEVICE_VECTOR + index)
    }

    /// The number the interrupt controllers are given.
    pub fn number(self) -> u8 {
        self.0
    }

    /// Interrupts handled so far.
    pub fn count(self) -> u64 {
        interrupt_counts[usize::from(self.0)].load(Ordering::SeqCst)
    }
}

/// Fills the table `entry.s` has already loaded. Before this an exception is a triple fault.
pub(crate) fn build_table() {
    let entries = vector_entries as *const () as u64;
    for vector in 0..VECTORS_WITH_ENTRY {
        set(
            vector,
            entries + u64::from(vector) * VECTOR_ENTRY_BYTES,
            GATE_RING_0,
        );
    }
    set(BREAKPOINT, gate as *const () as u64, GATE_RING_3);
    set(
        SPURIOUS_VECTOR,
        spurious_interrupt as *const () as u64,
        GATE_RING_0,
    );
}

/// Writes a 64-bit interrupt gate (Intel SDM 3A, 6.14.1).
fn set(vector: u8, entry: u64, kind: u64) {
    let low = entry & 0xffff | CODE64 << 16 | kind << 40 | (entry >> 16 & 0xffff) << 48;
    let gate = &idt.0[usize::from(vector)];
    gate[1].store(entry >> 32, Ordering::Relaxed);
    gate[0].store(low, Ordering::Relaxed);
}

/// Entered from `entry.s`, in ring 3 again, for vectors 0 to 31.
// SAFETY: no other item has this name; `entry.s` enters it with these arguments.
#[unsafe(no_mangle)]
extern "C" fn report_exception(vector: u64, error_code: u64, rip: u64, cr2: u64, cs: u64) -> ! {
    crate::fail!(
        "exception vector={vector} error_code={error_code:#x} rip={rip:#x} cr2={cr2:#x} ring={}",
        cs & 3
    )
}
