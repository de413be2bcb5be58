//! Descriptors wired to a VM: irqfds and ioeventfds that are taken away with whoever holds them.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use devices::irq::IrqLine;
use devices::metrics::InterruptMetrics;
use devices::pci::Doorbells;
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use vmm_sys_util::eventfd::EventFd;

use super::KvmError;
use super::over_memory::VmOverMemory;

/// An interrupt line: writing it is an interrupt, until it is dropped.
pub struct WiredLine {
    vm: Arc<VmOverMemory>,
    line: EventFd,
    gsi: u32,
    metrics: Arc<InterruptMetrics>,
}

impl WiredLine {
    pub(super) fn new(
        vm: Arc<VmOverMemory>,
        line: EventFd,
        gsi: u32,
        metrics: Arc<InterruptMetrics>,
    ) -> Result<Self, KvmError> {
        vm.register_irqfd(&line, gsi)
            .map_err(KvmError::call("KVM_IRQFD"))?;
        Ok(Self {
            vm,
            line,
            gsi,
            metrics,
        })
    }
}

impl IrqLine for WiredLine {
    fn raise(&self) {
        self.metrics.triggers.increment();
        self.line.raise();
    }
}

impl Drop for WiredLine {
    fn drop(&mut self) {
        if let Err(error) = self.vm.unregister_irqfd(&self.line, self.gsi) {
            tracing::error!("KVM keeps the interrupt {}: {error}", self.gsi);
        }
    }
}

/// The notification addresses of one PCI function, wherever its window is: guest writes there write its kick.
pub struct WiredDoorbells {
    vm: Arc<VmOverMemory>,
    kick: EventFd,
    /// From the start of the window.
    offsets: Vec<u64>,
    /// Where windows may be.
    places: Range<u64>,
    /// The window they are wired in.
    window: Mutex<Option<u64>>,
}

impl WiredDoorbells {
    pub(super) fn new(
        vm: Arc<VmOverMemory>,
        kick: EventFd,
        offsets: Vec<u64>,
        places: Range<u64>,
    ) -> Self {
        Self {
            vm,
            kick,
            offsets,
            places,
            window: Mutex::new(None),
        }
    }

    /// All of them, or none.
    fn wire(&self, window: u64) -> Result<(), kvm_ioctls::Error> {
        for (count, offset) in self.offsets.iter().enumerate() {
            let address = IoEventAddress::Mmio(window + offset);
            if let Err(error) = self.vm.register_ioevent(&self.kick, &address, NoDatamatch) {
                self.unwire(window, &self.offsets[..count]);
                return Err(error);
            }
        }
        Ok(())
    }

    fn unwire(&self, window: u64, offsets: &[u64]) {
        for offset in offsets {
            let address = IoEventAddress::Mmio(window + offset);
            if let Err(error) = self
                .vm
                .unregister_ioevent(&self.kick, &address, NoDatamatch)
            {
                tracing::error!("KVM keeps the notification at {address:?}: {error}");
            }
        }
    }
}

impl Doorbells for WiredDoorbells {
    /// What cannot be wired, because a guest put two windows at one place, reaches the function all the same, with an
    /// exit to this process each time.
    fn move_to(&self, address: u64) {
        let mut window = self.window.lock().expect("no holder of this lock panics");
        if *window == Some(address) || !self.places.contains(&address) {
            return;
        }
        if let Some(before) = window.take() {
            self.unwire(before, &self.offsets);
        }
        match self.wire(address) {
            Ok(()) => *window = Some(address),
            // A guest can cause it at will.
            Err(error) => tracing::trace!("notifications at {address:#x} cost exits: {error}"),
        }
    }
}

impl Drop for WiredDoorbells {
    fn drop(&mut self) {
        let window = self.window.get_mut().ok().and_then(Option::take);
        if let Some(window) = window {
            self.unwire(window, &self.offsets);
        }
    }
}
