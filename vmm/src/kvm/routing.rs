//! Which message-signalled interrupt each GSI stands for.
//!
//! With the split interrupt controller KVM holds only the local APICs. What an I/O APIC pin or an MSI-X
//! vector means is a table that user space writes whole (KVM API 4.52 `KVM_SET_GSI_ROUTING`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;

use super::KvmError;
use devices::legacy::ioapic::{Message, PinRouter};

/// The routing table of one VM.
pub struct InterruptRoutes {
    vm: Arc<VmFd>,
    table: Mutex<BTreeMap<u32, Message>>,
}

impl InterruptRoutes {
    pub(super) fn new(vm: Arc<VmFd>) -> Self {
        Self {
            vm,
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
        let entries: Vec<_> = table.iter().map(|(&gsi, &msi)| entry(gsi, msi)).collect();
        let routing = KvmIrqRouting::from_entries(&entries)
            .expect("at most 4096 GSIs, the capacity of the table");
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
