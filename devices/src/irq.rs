//! Interrupts as devices see them: lines, and messages.

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

/// One edge-triggered interrupt line.
pub trait IrqLine: Send + Sync {
    /// Pulses the line once.
    fn raise(&self);
}

/// An irqfd: KVM injects the interrupt when the counter is written.
impl IrqLine for EventFd {
    fn raise(&self) {
        // Writing 1 fails only when the counter is about to overflow, that is, when an interrupt is pending.
        let _ = self.write(1);
    }
}

/// A message-signalled interrupt: a write of `data` to `address` (Intel SDM volume 3 §11.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Low 32 bits of the address; the high ones are 0.
    pub address: u32,
    /// The value written.
    pub data: u32,
}
