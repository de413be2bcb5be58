//! A VM's memory slots (KVM API 4.35 `KVM_SET_USER_MEMORY_REGION`): those of RAM, which stay, and others that come
//! and go while the VM runs.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use super::KvmError;
use super::over_memory::VmOverMemory;
use crate::memory::{AboveRam, Access, SlotMemory};

/// The memory slots of one VM.
pub struct MemorySlots {
    vm: Arc<VmOverMemory>,
    above_ram: Arc<AboveRam>,
    /// Flags of slots that are RAM.
    ram_flags: u32,
    numbers: Mutex<Numbers>,
}

/// Which slot numbers are in use.
struct Numbers {
    /// Below `next`, and free again.
    free: BTreeSet<u32>,
    next: u32,
}

/// Memory that the guest has, until this is dropped.
pub struct MemorySlot {
    number: u32,
    slots: Arc<MemorySlots>,
    /// Gone only when KVM did not let go of it.
    memory: Option<SlotMemory>,
}

impl MemorySlots {
    /// Registers the RAM of `vm`.
    pub(super) fn with_ram(
        vm: Arc<VmOverMemory>,
        above_ram: Arc<AboveRam>,
        dirty_log: bool,
    ) -> Result<Arc<Self>, KvmError> {
        let ram_flags = if dirty_log {
            KVM_MEM_LOG_DIRTY_PAGES
        } else {
            0
        };
        let ram = vm
            .memory()
            .iter()
            .filter(|region| region.blocks().is_none());
        let mut next = 0;
        for (slot, region) in (0..).zip(ram) {
            next = slot + 1;
            let host_address = region
                .get_host_address(MemoryRegionAddress(0))
                .expect("a region holds its first byte");
            let request = kvm_userspace_memory_region {
                slot,
                flags: ram_flags,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: host_address as u64,
            };
            // SAFETY: KVM uses `userspace_addr` until the VM is gone, that is, its descriptor and those of its vCPUs.
            // 1. It is the start of a live mapping of `memory_size` bytes: both come from `region`.
            // 2. The region stays mapped while `vm` lives, which closes the VM's descriptor before it lets go of it.
            // 3. No copy of that descriptor is made anywhere, and who needs it later (slots, routes, wires, the
            //    machine) has the same `Arc` of `vm`.
            // 4. Each `Vcpu` has one too, and closes its own descriptor first.
            unsafe { vm.set_user_memory_region(request) }
                .map_err(KvmError::call("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(Arc::new(Self {
            vm,
            above_ram,
            ram_flags,
            numbers: Mutex::new(Numbers {
                free: BTreeSet::new(),
                next,
            }),
        }))
    }

    /// Where memory that is no RAM finds its addresses.
    #[must_use]
    pub fn above_ram(&self) -> &Arc<AboveRam> {
        &self.above_ram
    }

    /// Gives the guest `memory`, whether the VM runs or not.
    ///
    /// # Errors
    /// When KVM refuses: it overlaps other memory, or there are more slots than KVM has.
    pub fn add(self: &Arc<Self>, memory: SlotMemory) -> Result<MemorySlot, KvmError> {
        let number = self.take_number();
        let request = kvm_userspace_memory_region {
            slot: number,
            flags: match memory.access() {
                Access::Read => KVM_MEM_READONLY,
                Access::Write => 0,
                Access::Ram => self.ram_flags,
            },
            guest_phys_addr: memory.start().0,
            memory_size: memory.len(),
            userspace_addr: memory.address() as u64,
        };
        // SAFETY: KVM uses `userspace_addr` until the slot is removed or the VM descriptor closes.
        // 1. A `SlotMemory` is mapped as long as it lives.
        // 2. The `MemorySlot` made of it lets go of it only after KVM removed the slot.
        let added = unsafe { self.vm.set_user_memory_region(request) };
        if let Err(error) = added {
            self.lock().free.insert(number);
            return Err(KvmError::call("KVM_SET_USER_MEMORY_REGION")(error));
        }
        Ok(MemorySlot {
            number,
            slots: Arc::clone(self),
            memory: Some(memory),
        })
    }

    fn take_number(&self) -> u32 {
        let mut numbers = self.lock();
        numbers.free.pop_first().unwrap_or_else(|| {
            numbers.next += 1;
            numbers.next - 1
        })
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for MemorySlot {
    fn drop(&mut self) {
        let Some(memory) = &self.memory else {
            return;
        };
        let request = kvm_userspace_memory_region {
            slot: self.number,
            flags: 0,
            guest_phys_addr: memory.start().0,
            memory_size: 0,
            userspace_addr: memory.address() as u64,
        };
        // SAFETY: A size of 0 removes the slot, and KVM uses its memory no more (KVM API 4.35).
        let removed = unsafe { self.slots.vm.set_user_memory_region(request) };
        if let Err(error) = removed {
            // Out of memory for the new list of slots. The guest keeps this one, so it stays mapped for ever.
            tracing::error!("KVM keeps memory slot {}: {error}", self.number);
            std::mem::forget(self.memory.take());
            return;
        }
        self.slots.lock().free.insert(self.number);
    }
}
