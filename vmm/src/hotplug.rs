//! The PCI bus of a machine that runs: devices come and go.
//!
//! ```text
//! PUT     plug    device on the bus -> registers, interrupt -> the guest looks and finds it
//! DELETE  ask     registers, interrupt -> the guest lets go -> its vCPU sends a message -> unplug
//!         unplug  vCPUs stand still; off the bus, off the loop, dropped
//! ```

use std::sync::Arc;

use devices::acpi::{Event, Events};
use devices::irq::{IrqLine, Message as InterruptMessage};
use devices::legacy::ioapic::PinRouter;
use devices::pci::{Hotplug, PciBus, Released};

use crate::Vm;
use crate::arch::x86_64::layout::GSI_EVENTS;
use crate::event_loop::{Message, Sender};
use crate::kvm::InterruptRoutes;

/// The bus, and how the guest hears of changes on it.
pub(crate) struct PciSide {
    pub(crate) bus: Arc<PciBus>,
    pub(crate) hotplug: Arc<Hotplug>,
}

impl PciSide {
    /// A bus with nothing but its host bridge.
    pub(crate) fn new(events: &Arc<Events>, sender: &Sender) -> Self {
        let line = Box::new(SlotsEvent(Arc::clone(events)));
        let released = Box::new(LetGo(sender.clone()));
        Self {
            bus: Arc::default(),
            hotplug: Arc::new(Hotplug::new(line, released)),
        }
    }
}

/// The event that slots changed.
struct SlotsEvent(Arc<Events>);

impl IrqLine for SlotsEvent {
    fn raise(&self) {
        self.0.raise(Event::PciSlots);
    }
}

/// Tells the event loop what the guest let go.
struct LetGo(Sender);

impl Released for LetGo {
    fn released(&self, device: u8) {
        let job = Box::new(move |vm: &mut Vm| vm.released(device));
        self.0.send(Message::Job(job));
    }
}

/// The pins of the I/O APIC: routes in KVM. An edge that came while the guest had the pin closed is lost, so events
/// are told again when it opens.
pub(crate) struct Pins {
    routes: Arc<InterruptRoutes>,
    events: Arc<Events>,
}

impl Pins {
    pub(crate) fn new(routes: Arc<InterruptRoutes>, events: &Arc<Events>) -> Self {
        Self {
            routes,
            events: Arc::clone(events),
        }
    }
}

impl PinRouter for Pins {
    fn route(&self, pin: u8, message: Option<InterruptMessage>) {
        self.routes.route(pin, message);
        if message.is_some() && u32::from(pin) == GSI_EVENTS {
            self.events.repeat();
        }
    }
}
