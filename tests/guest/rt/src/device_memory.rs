//! Memory that a device reads and writes behind the compiler's back.
//!
//! Every byte is an atomic: to the compiler a device is one more thread, so no access needs `unsafe`.

use core::ops::Range;
use core::sync::atomic::{AtomicU8, Ordering};

/// `N` bytes on a page boundary, for a static.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct DeviceMemory<const N: usize>([AtomicU8; N]);

impl<const N: usize> DeviceMemory<N> {
    /// Zeroed memory.
    pub const fn zeroed() -> Self {
        Self([const { AtomicU8::new(0) }; N])
    }

    /// Guest physical address of the byte at `offset`.
    pub fn address(&self, offset: usize) -> u64 {
        self.0[offset..].as_ptr() as u64
    }

    /// The bytes in `range`, as they are when each is read.
    pub fn bytes(&self, range: Range<usize>) -> impl DoubleEndedIterator<Item = u8> + '_ {
        self.0[range]
            .iter()
            .map(|byte| byte.load(Ordering::Relaxed))
    }

    /// The byte at `offset`.
    pub fn byte(&self, offset: usize) -> u8 {
        self.0[offset].load(Ordering::Relaxed)
    }

    /// Copies bytes out from `offset` on.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let range = offset..offset + into.len();
        for (to, byte) in into.iter_mut().zip(self.bytes(range)) {
            *to = byte;
        }
    }

    /// Copies bytes in from `offset` on.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        for (to, &byte) in self.0[offset..offset + bytes.len()].iter().zip(bytes) {
            to.store(byte, Ordering::Relaxed);
        }
    }
}
