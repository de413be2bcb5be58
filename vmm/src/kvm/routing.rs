//! Which message-signalled interrupt each GSI stands for.
//!
//! With the split interrupt controller KVM holds only the local APICs. What an I/O APIC pin or an MSI-X
//! vector means is a table that user space writes whole (KVM API 4.52 `KVM_SET_GSI_ROUTING`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;

use super::{InterruptControllers, KvmError};
use devices::legacy::ioapic::{Message, PINS, PinRouter};

/// The routing table of one VM.
pub struct InterruptRoutes {
    vm: Arc<VmFd>,
    controllers: InterruptControllers,
    table: Mutex<BTreeMap<u32, Message>>,
}

impl InterruptRoutes {
    pub(super) fn new(vm: Arc<VmFd>, controllers: InterruptControllers) -> Self {
        Self {
            vm,
            controllers,
            table: Mutex::new(BTreeMap::new()),
        }
    }

    /// Sets or removes what `gsi` stands for, and tells KVM.
    ///
    /// # Errors
    /// When KVM refuses the table.
    pub fn set(&self, gsi: u32, message: Option<Message>) -> Result<(), KvmError> {
        let mut table = self.table.lock().expect("no holder of this lock panics");
        match message {
            Some(message) => table.insert(gsi, message),
            None => table.remove(&gsi),
        };
        let mut entries = match self.controllers {
            InterruptControllers::Split => Vec::new(),
            InterruptControllers::InKernel => wired_entries(),
        };
        entries.extend(table.iter().map(|(&gsi, &msi)| entry(gsi, msi)));
        let routing = KvmIrqRouting::from_entries(&entries)
            .expect("at most 31 times 128 messages and 40 wired entries; 4096 fit");
        self.vm
            .set_gsi_routing(&routing)
            .map_err(KvmError::call("KVM_SET_GSI_ROUTING"))
    }
}

impl PinRouter for InterruptRoutes {
    fn route(&self, pin: u8, message: Option<Message>) {
        if let Err(error) = self.set(u32::from(pin), message) {
            // A guest can program nonsense; it then gets no interrupt from this pin.
            tracing::debug!("interrupt route of pin {pin} refused: {error}");
        }
    }
}

/// The pins of KVM's own controllers, as they are before the first table is written (Linux
/// `arch/x86/kvm/irq_comm.c`): GSI 0 to 15 go to a PIC and the I/O APIC, the rest to the latter.
fn wired_entries() -> Vec<kvm_irq_routing_entry> {
    let to_chip = |gsi: u32, irqchip: u32, pin: u32| kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            irqchip: kvm_irq_routing_irqchip { irqchip, pin },
        },
        ..Default::default()
    };
    let to_pic = |gsi: u32| match gsi {
        0..8 => Some(to_chip(gsi, KVM_IRQCHIP_PIC_MASTER, gsi)),
        8..16 => Some(to_chip(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8)),
        _ => None,
    };
    (0..u32::from(PINS))
        .flat_map(|gsi| [Some(to_chip(gsi, KVM_IRQCHIP_IOAPIC, gsi)), to_pic(gsi)])
        .flatten()
        .collect()
}

fn entry(gsi: u32, message: Message) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            msi: kvm_irq_routing_msi {
                address_lo: message.address,
                data: message.data,
                ..Default::default()
            },
        },
        ..Default::default()
    }
}

// The generated struct is named once so that a change of its layout is seen here.
const _: () = assert!(size_of::<kvm_irq_routing>() == 8);
