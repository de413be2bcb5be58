//! Which message-signalled interrupt each GSI stands for.
//!
//! With the split interrupt controller KVM holds only the local APICs. What an I/O APIC pin or an MSI-X
//! vector means is a table that user space writes whole (KVM API 4.52 `KVM_SET_GSI_ROUTING`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use devices::legacy::ioapic::{Message, PinRouter};
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;

use super::KvmError;

/// The interrupt routes of one VM.
pub struct InterruptRoutes {
    vm: Arc<VmFd>,
    table: Mutex<Table>,
}

/// What each GSI stands for, as KVM was last told.
#[derive(Default)]
struct Table(BTreeMap<u32, Message>);

impl InterruptRoutes {
    pub(super) fn new(vm: Arc<VmFd>) -> Self {
        Self {
            vm,
            table: Mutex::default(),
        }
    }

    /// Sets or removes what `gsi` stands for, and tells KVM.
    ///
    /// # Errors
    /// When KVM refuses the table; the route is then as before.
    pub fn set(&self, gsi: u32, message: Option<Message>) -> Result<(), KvmError> {
        let mut table = self.table.lock().expect("no holder of this lock panics");
        table.change(gsi, message, |routing| {
            self.vm
                .set_gsi_routing(routing)
                .map_err(KvmError::call("KVM_SET_GSI_ROUTING"))
        })
    }
}

impl Table {
    /// Makes one change, if `tell` takes the whole table with it: an entry that KVM refused must not stay, or it would
    /// refuse every later table for it.
    fn change<E>(
        &mut self,
        gsi: u32,
        message: Option<Message>,
        tell: impl FnOnce(&KvmIrqRouting) -> Result<(), E>,
    ) -> Result<(), E> {
        let before = self.replace(gsi, message);
        let entries: Vec<_> = self.0.iter().map(|(&gsi, &msi)| entry(gsi, msi)).collect();
        let routing = KvmIrqRouting::from_entries(&entries)
            .expect("at most 4096 GSIs, the capacity of the table");
        let told = tell(&routing);
        if told.is_err() {
            self.replace(gsi, before);
        }
        told
    }

    fn replace(&mut self, gsi: u32, message: Option<Message>) -> Option<Message> {
        match message {
            Some(message) => self.0.insert(gsi, message),
            None => self.0.remove(&gsi),
        }
    }
}

impl PinRouter for InterruptRoutes {
    fn route(&self, pin: u8, message: Option<Message>) {
        if let Err(error) = self.set(u32::from(pin), message) {
            // A guest can program nonsense, as often as it likes; the pin then stays as it was.
            tracing::trace!("interrupt route of pin {pin} refused: {error}");
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

#[cfg(test)]
mod tests {
    use super::*;

    fn message(data: u32) -> Option<Message> {
        Some(Message {
            address: 0xfee0_0000,
            data,
        })
    }

    #[test]
    fn a_route_that_kvm_refused_is_not_told_again() {
        let mut table = Table::default();
        let mut told = Vec::new();
        for (gsi, data, is_taken) in [(5, 0x31, true), (5, 0xbad, false), (6, 0x32, true)] {
            let outcome = table.change(gsi, message(data), |routing| {
                told = routing.as_slice().iter().map(|entry| entry.gsi).collect();
                is_taken.then_some(()).ok_or(())
            });
            assert_eq!(outcome.is_ok(), is_taken);
        }
        assert_eq!(told, [5, 6]);
        assert_eq!(table.0.get(&5).copied(), message(0x31));
    }

    #[test]
    fn a_first_route_that_kvm_refused_leaves_nothing() {
        let mut table = Table::default();
        assert_eq!(table.change(5, message(0xbad), |_| Err(())), Err(()));
        assert!(table.0.is_empty());
    }
}
