//! What the guest finds its processors to be: what KVM supports, changed by the CPU template, made true of this machine.

use std::sync::Arc;

use kvm_bindings::CpuId;
use vm_config::{CpuConfig, Machine, MsrModifier};

use crate::StartError;
use crate::arch::x86_64::cpuid::{self, CpuidError, VcpuTopology};
use crate::arch::x86_64::lapic::set_lint;
use crate::arch::x86_64::msr::boot_msrs;
use crate::arch::x86_64::template;
use crate::kvm::{BootState, EntryState, Host};

/// The processors of one machine.
pub(crate) struct Processors {
    count: u8,
    smt: bool,
    /// With the template, without what each vCPU is told of itself.
    cpuid: CpuId,
    msr_changes: Arc<[MsrModifier]>,
    has_tsc_deadline: bool,
    host_brand: String,
}

impl Processors {
    /// Those of `machine` on `host`: with the template that `machine` names, else with `custom`.
    ///
    /// # Errors
    /// When the template does not fit the host.
    pub(crate) fn new(
        host: &Host,
        machine: &Machine,
        custom: &CpuConfig,
    ) -> Result<Self, StartError> {
        let mut cpuid = host.supported_cpuid()?;
        let named = match machine.cpu_template {
            Some(name) => Some(template::named(name, cpuid.as_slice())?),
            None => None,
        };
        let changes = named.as_ref().unwrap_or(custom);
        template::apply(&mut cpuid, &changes.cpuid_modifiers)?;
        Ok(Self {
            count: machine.vcpu_count,
            smt: machine.smt,
            cpuid,
            msr_changes: changes.msr_modifiers.as_slice().into(),
            has_tsc_deadline: host.has_tsc_deadline(),
            host_brand: cpuid::host_brand(),
        })
    }

    /// What vCPU `index` starts with; `entry` is the boot processor's.
    ///
    /// # Errors
    /// When KVM's CPUID lacks what every processor has.
    pub(crate) fn boot_state(
        &self,
        index: u8,
        entry: Option<EntryState>,
    ) -> Result<BootState, CpuidError> {
        let mut cpuid = self.cpuid.clone();
        let about = cpuid::Vcpu {
            topology: VcpuTopology {
                index,
                count: self.count,
                smt: self.smt,
            },
            has_tsc_deadline: self.has_tsc_deadline,
            host_brand: &self.host_brand,
        };
        cpuid::normalise(&mut cpuid, &about)?;
        Ok(BootState {
            cpuid,
            msr_changes: Arc::clone(&self.msr_changes),
            msrs: boot_msrs(),
            lapic: set_lint,
            entry,
        })
    }
}
