//! Interrupt lines as devices see them.

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
