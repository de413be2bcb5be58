//! Message-signalled interrupts of one PCI device: an irqfd a vector, on interrupts of its slot's own.
//!
//! The irqfds are wired when the device is attached; a vector gets its route when the guest first unmasks it. Both are
//! gone with the device.

use std::sync::Arc;

use devices::irq::IrqLine;
use devices::irq::Message;
use devices::metrics::InterruptMetrics;
use devices::pci::MessageLines;

use crate::kvm::{InterruptRoutes, WiredLine};

/// The vectors of one device.
pub(crate) struct MessageVectors {
    pub(crate) first_gsi: u32,
    /// Wired to `first_gsi` and those that follow.
    pub(crate) lines: Vec<WiredLine>,
    pub(crate) routes: Arc<InterruptRoutes>,
    pub(crate) metrics: Arc<InterruptMetrics>,
}

impl MessageLines for MessageVectors {
    fn route(&self, vector: u16, message: Option<Message>) {
        let gsi = self.first_gsi + u32::from(vector);
        self.metrics.config_updates.increment();
        if let Err(error) = self.routes.set(gsi, message) {
            // A guest can program nonsense; it then gets no interrupt from this vector.
            tracing::debug!("interrupt route of vector {vector}, GSI {gsi}, refused: {error}");
        }
    }

    fn signal(&self, vector: u16) {
        if let Some(line) = self.lines.get(usize::from(vector)) {
            line.raise();
        }
    }
}

impl Drop for MessageVectors {
    fn drop(&mut self) {
        let gsis = (self.first_gsi..).take(self.lines.len());
        let end = gsis.last().map_or(self.first_gsi, |last| last + 1);
        if let Err(error) = self.routes.remove(self.first_gsi..end) {
            tracing::error!(
                "interrupt routes from GSI {} on stay: {error}",
                self.first_gsi
            );
        }
    }
}
