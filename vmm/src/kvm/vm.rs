//! A KVM virtual machine: memory slots, interrupt controllers, and the descriptors wired to it.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use devices::GuestMemory;
use devices::metrics::InterruptMetrics;
use kvm_bindings::{CpuId, KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VmFd};
use vm_config::KvmCapability;
use vmm_sys_util::eventfd::EventFd;

use super::over_memory::VmOverMemory;
use super::wires::{WiredDoorbells, WiredLine};
use super::{InterruptRoutes, KvmError, MemorySlots, Vcpu};
use crate::arch::x86_64::layout::{IOAPIC_PINS, KVM_TSS_START};
use crate::memory::AboveRam;

/// This host's KVM.
pub struct Host {
    kvm: Kvm,
}

/// Who holds the I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptControllers {
    /// Local APICs in KVM, the I/O APIC here, no PIC, no PIT.
    Split,
    /// All of them in KVM, for hosts without the split.
    InKernel,
}

/// A KVM virtual machine with nothing but memory. Memory slots come first, interrupt controllers after: on recent
/// kernels a slot added after a device waits for a grace period of several milliseconds.
pub struct MemoryOnlyVm {
    vm: Arc<VmOverMemory>,
    slots: Arc<MemorySlots>,
}

/// A KVM virtual machine.
pub struct KvmVm {
    pub(super) vm: Arc<VmOverMemory>,
    slots: Arc<MemorySlots>,
    routes: Arc<InterruptRoutes>,
    controllers: InterruptControllers,
    interrupts: Arc<InterruptMetrics>,
}

impl Host {
    /// Opens `/dev/kvm`, and looks for the capabilities that a machine needs, as changed by `capabilities`.
    ///
    /// # Errors
    /// Says whether the device is missing, forbidden or too old.
    pub fn open(capabilities: &[KvmCapability]) -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(|error| {
            let source = io::Error::from(error);
            match source.kind() {
                io::ErrorKind::NotFound => KvmError::NoDevice(source),
                io::ErrorKind::PermissionDenied => KvmError::NoPermission {
                    uid: rustix::process::geteuid().as_raw(),
                    source,
                },
                _ => KvmError::Open(source),
            }
        })?;
        for (cap, name) in [
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::Irqfd, "KVM_CAP_IRQFD"),
            (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        ] {
            let number = cap as u32;
            let is_waived = capabilities.contains(&KvmCapability::Waive(number));
            if !is_waived && !kvm.check_extension(cap) {
                return Err(KvmError::MissingCapability { number, name });
            }
        }
        for capability in capabilities {
            if let KvmCapability::Require(number) = *capability
                && kvm.check_extension_raw(number.into()) <= 0
            {
                return Err(KvmError::MissingCapability {
                    number,
                    name: "asked for by the CPU template",
                });
            }
        }
        Ok(Self { kvm })
    }

    /// CPUID leaves that KVM and this CPU can give a guest.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn supported_cpuid(&self) -> Result<CpuId, KvmError> {
        self.kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::call("KVM_GET_SUPPORTED_CPUID"))
    }

    /// Model-specific registers that KVM keeps for a vCPU, and those that tell what the processor can do.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn msr_indices(&self) -> Result<Vec<u32>, KvmError> {
        let kept =
            (self.kvm.get_msr_index_list()).map_err(KvmError::call("KVM_GET_MSR_INDEX_LIST"))?;
        let features = (self.kvm.get_msr_feature_index_list())
            .map_err(KvmError::call("KVM_GET_MSR_FEATURE_INDEX_LIST"))?;
        Ok([kept.as_slice(), features.as_slice()].concat())
    }

    /// Whether the local APIC timer has the TSC-deadline mode.
    #[must_use]
    pub fn has_tsc_deadline(&self) -> bool {
        self.kvm.check_extension(Cap::TscDeadlineTimer)
    }

    /// Makes a VM over `memory`, with `above_ram` for more.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn create_vm(
        &self,
        memory: Arc<GuestMemory>,
        above_ram: Arc<AboveRam>,
        dirty_log: bool,
    ) -> Result<MemoryOnlyVm, KvmError> {
        let vm = Arc::new(VmOverMemory::new(self.create_vm_fd()?, memory));
        let slots = MemorySlots::with_ram(Arc::clone(&vm), above_ram, dirty_log)?;
        Ok(MemoryOnlyVm { vm, slots })
    }

    /// Gives a VM its interrupt controllers.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn add_controllers(&self, vm: MemoryOnlyVm) -> Result<KvmVm, KvmError> {
        let MemoryOnlyVm { vm, slots } = vm;
        let tss = usize::try_from(KVM_TSS_START.0).expect("it lies below 4 GiB");
        vm.set_tss_address(tss)
            .map_err(KvmError::call("KVM_SET_TSS_ADDR"))?;
        let controllers = create_controllers(&self.kvm, &vm)?;
        Ok(KvmVm {
            routes: Arc::new(InterruptRoutes::new(Arc::clone(&vm), controllers)),
            vm,
            slots,
            controllers,
            interrupts: Arc::default(),
        })
    }

    /// `KVM_CREATE_VM` can be interrupted by a signal while it waits for memory; that is no failure.
    fn create_vm_fd(&self) -> Result<VmFd, KvmError> {
        loop {
            match self.kvm.create_vm() {
                Err(error) if error.errno() == libc::EINTR => {}
                other => return other.map_err(KvmError::call("KVM_CREATE_VM")),
            }
        }
    }
}

fn create_controllers(kvm: &Kvm, fd: &VmFd) -> Result<InterruptControllers, KvmError> {
    if !kvm.check_extension(Cap::SplitIrqchip) {
        fd.create_irq_chip()
            .map_err(KvmError::call("KVM_CREATE_IRQCHIP"))?;
        return Ok(InterruptControllers::InKernel);
    }
    let request = kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        args: [IOAPIC_PINS.into(), 0, 0, 0],
        ..Default::default()
    };
    fd.enable_cap(&request)
        .map_err(KvmError::call("KVM_ENABLE_CAP(KVM_CAP_SPLIT_IRQCHIP)"))?;
    Ok(InterruptControllers::Split)
}

impl MemoryOnlyVm {
    /// The VM's memory slots.
    #[must_use]
    pub fn memory_slots(&self) -> &Arc<MemorySlots> {
        &self.slots
    }
}

impl KvmVm {
    /// The VM's memory slots, to which more can be added at any time.
    #[must_use]
    pub fn memory_slots(&self) -> &Arc<MemorySlots> {
        &self.slots
    }

    /// Who holds the I/O APIC.
    #[must_use]
    pub fn controllers(&self) -> InterruptControllers {
        self.controllers
    }

    /// The VM's interrupt routes.
    #[must_use]
    pub fn routes(&self) -> Arc<InterruptRoutes> {
        Arc::clone(&self.routes)
    }

    /// Guest memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        self.vm.memory()
    }

    /// Makes vCPU `index`.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn create_vcpu(&self, index: u8) -> Result<Vcpu, KvmError> {
        let fd = self
            .vm
            .create_vcpu(u64::from(index))
            .map_err(KvmError::call("KVM_CREATE_VCPU"))?;
        Ok(Vcpu::new(index, fd, Arc::clone(&self.vm)))
    }

    /// Makes a write to `line` an interrupt on `gsi`, as long as it is kept.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn wire_interrupt(&self, line: EventFd, gsi: u32) -> Result<WiredLine, KvmError> {
        let metrics = Arc::clone(&self.interrupts);
        WiredLine::new(Arc::clone(&self.vm), line, gsi, metrics)
    }

    /// What is counted of interrupts.
    #[must_use]
    pub fn interrupt_metrics(&self) -> Arc<InterruptMetrics> {
        Arc::clone(&self.interrupts)
    }

    /// Makes any guest write to one of `offsets` in a window a write to `kick`, as long as this is kept. The window is in
    /// `places`, and said later.
    #[must_use]
    pub fn wire_doorbells(
        &self,
        kick: EventFd,
        offsets: Vec<u64>,
        places: Range<u64>,
    ) -> WiredDoorbells {
        WiredDoorbells::new(Arc::clone(&self.vm), kick, offsets, places)
    }

    /// Makes any guest write to `address` a write to `kick`, whatever its width and value.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn wire_kick(&self, kick: &EventFd, address: u64) -> Result<(), KvmError> {
        self.vm
            .register_ioevent(kick, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(KvmError::call("KVM_IOEVENTFD"))
    }
}
