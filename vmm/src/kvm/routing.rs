//! Which message-signalled interrupt each GSI stands for.
//!
//! With the split interrupt controller KVM holds only the local APICs. What an I/O APIC pin or an MSI-X
//! vector means is a table that user space writes whole (KVM API 4.52 `KVM_SET_GSI_ROUTING`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use devices::irq::Message;
use devices::legacy::ioapic::{PINS, PinRouter};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};

use super::over_memory::VmOverMemory;
use super::{InterruptControllers, KvmError};

/// The interrupt routes of one VM.
pub struct InterruptRoutes {
    vm: Arc<VmOverMemory>,
    table: Mutex<Table>,
}

/// What each GSI stands for, as KVM was last told.
#[derive(Default)]
struct Table {
    /// The pins of KVM's own controllers, where it has them.
    wired: Vec<kvm_irq_routing_entry>,
    messages: BTreeMap<u32, Message>,
}

impl InterruptRoutes {
    pub(super) fn new(vm: Arc<VmOverMemory>, controllers: InterruptControllers) -> Self {
        let wired = match controllers {
            InterruptControllers::Split => Vec::new(),
            InterruptControllers::InKernel => wired_entries(),
        };
        let table = Table {
            wired,
            messages: BTreeMap::new(),
        };
        Self {
            vm,
            table: Mutex::new(table),
        }
    }

    /// Sets or removes what `gsi` stands for, and tells KVM.
    ///
    /// # Errors
    /// When KVM refuses the table; the route is then as before.
    pub fn set(&self, gsi: u32, message: Option<Message>) -> Result<(), KvmError> {
        let mut table = self.table.lock().expect("no holder of this lock panics");
        table.change(gsi, message, |routing| self.tell(routing))
    }

    /// Removes what the GSIs of `gsis` stand for, and tells KVM once, if any stood for something.
    ///
    /// # Errors
    /// When KVM refuses the table; the routes are gone from the next one.
    pub fn remove(&self, gsis: Range<u32>) -> Result<(), KvmError> {
        let mut table = self.table.lock().expect("no holder of this lock panics");
        table.remove(gsis, |routing| self.tell(routing))
    }

    fn tell(&self, routing: &KvmIrqRouting) -> Result<(), KvmError> {
        self.vm
            .set_gsi_routing(routing)
            .map_err(KvmError::call("KVM_SET_GSI_ROUTING"))
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
        let told = tell(&self.routing());
        if told.is_err() {
            self.replace(gsi, before);
        }
        told
    }

    /// Removes all routes of `gsis`, and tells if there were any.
    fn remove<E>(
        &mut self,
        gsis: Range<u32>,
        tell: impl FnOnce(&KvmIrqRouting) -> Result<(), E>,
    ) -> Result<(), E> {
        let count = self.messages.len();
        self.messages.retain(|gsi, _| !gsis.contains(gsi));
        if self.messages.len() == count {
            return Ok(());
        }
        tell(&self.routing())
    }

    /// The whole table as KVM takes it.
    fn routing(&self) -> KvmIrqRouting {
        let mut entries = self.wired.clone();
        entries.extend(self.messages.iter().map(|(&gsi, &msi)| entry(gsi, msi)));
        KvmIrqRouting::from_entries(&entries)
            .expect("at most 31 times 128 messages and 40 wired entries; 4096 fit")
    }

    fn replace(&mut self, gsi: u32, message: Option<Message>) -> Option<Message> {
        match message {
            Some(message) => self.messages.insert(gsi, message),
            None => self.messages.remove(&gsi),
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
        assert_eq!(table.messages.get(&5).copied(), message(0x31));
    }

    #[test]
    fn removed_routes_are_told_once_and_only_if_there_were_any() {
        let mut table = Table::default();
        for gsi in [5, 128, 130] {
            table
                .change(gsi, message(gsi), |_| Ok::<_, ()>(()))
                .unwrap();
        }
        let mut told = Vec::new();
        for _ in 0..2 {
            let tell = |routing: &KvmIrqRouting| {
                let gsis = routing.as_slice().iter().map(|entry| entry.gsi);
                told.push(gsis.collect::<Vec<_>>());
                Ok::<_, ()>(())
            };
            table.remove(128..256, tell).unwrap();
        }
        assert_eq!(told, [[5]]);
    }

    #[test]
    fn a_first_route_that_kvm_refused_leaves_nothing() {
        let mut table = Table::default();
        assert_eq!(table.change(5, message(0xbad), |_| Err(())), Err(()));
        assert!(table.messages.is_empty());
    }
}
