//! CPU templates: what a user changes of the processors that KVM would show.
//!
//! The order is: what KVM supports, then the template, then [`super::cpuid::normalise`] and the boot registers. So a
//! template has no say in what a vCPU must know of this machine: topology, brand, boot MSRs.
//!
//! MSRs are changed where they are, on the vCPU (`kvm/msrs.rs`).

mod named;

use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use vm_config::{CpuidModifier, CpuidRegister, Explain, FaultCode, FaultKind};

pub use named::{NamedTemplateError, named};

/// A change to a CPUID entry that there is none of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "Template changes a CPUID entry not supported by KVM: Leaf: {leaf:x}, Subleaf: {subleaf:x}; take the entry out of cpuid_modifiers, or use a host that has it"
)]
pub struct NoCpuidEntry {
    /// The leaf it names.
    pub leaf: u32,
    /// The subleaf it names.
    pub subleaf: u32,
}

impl Explain for NoCpuidEntry {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(FaultCode::CpuTemplateCpuid)
    }
}

/// Changes `cpuid`, which KVM supports.
///
/// # Errors
/// The first entry that KVM does not have.
pub fn apply(cpuid: &mut CpuId, modifiers: &[CpuidModifier]) -> Result<(), NoCpuidEntry> {
    for CpuidModifier {
        leaf,
        subleaf,
        modifiers,
        ..
    } in modifiers
    {
        let mut entries = cpuid.as_mut_slice().iter_mut();
        let entry = entries.find(|entry| entry.function == *leaf && entry.index == *subleaf);
        let entry = entry.ok_or(NoCpuidEntry {
            leaf: *leaf,
            subleaf: *subleaf,
        })?;
        for change in modifiers {
            let register = register(entry, change.register);
            *register = change.bitmap.apply_u32(*register);
        }
    }
    Ok(())
}

fn register(entry: &mut kvm_cpuid_entry2, register: CpuidRegister) -> &mut u32 {
    match register {
        CpuidRegister::Eax => &mut entry.eax,
        CpuidRegister::Ebx => &mut entry.ebx,
        CpuidRegister::Ecx => &mut entry.ecx,
        CpuidRegister::Edx => &mut entry.edx,
    }
}

#[cfg(test)]
mod tests;
