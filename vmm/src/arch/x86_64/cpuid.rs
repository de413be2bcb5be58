//! What a vCPU says of itself: KVM's CPUID, made true of this machine.
//!
//! KVM reports what it can virtualise, with the host's topology or none. [`normalise`] fills in which vCPU this is and
//! how vCPUs share cores and caches, names a generic processor, and hides what a guest cannot use. Leaves of KVM itself
//! (0x4000_0000 and up) pass through: kvmclock is where a guest learns the time and the TSC's frequency, so no
//! frequency leaf (0x15, 0x4000_0010) is made up; Linux would derive the APIC timer's from 0x15, and KVM's runs at
//! another.
//!
//! Spec: Intel SDM vol. 2A, `CPUID`; AMD APM vol. 3 appendix E; Linux `Documentation/virt/kvm/x86/cpuid.rst`.

mod amd;
mod intel;
mod topology;

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use vmm_sys_util::fam;

use vm_config::{Explain, FaultCode, FaultKind};

pub use intel::host_brand;
pub use topology::VcpuTopology;

const CPUID_01_ECX_PDCM: u32 = 1 << 15;
const CPUID_01_ECX_TSC_DEADLINE: u32 = 1 << 24;
const CPUID_01_ECX_HYPERVISOR: u32 = 1 << 31;
const CPUID_01_EDX_HTT: u32 = 1 << 28;
/// Cache line for `CLFLUSH`, in units of 8 bytes.
const CLFLUSH_LINE: u32 = 8;
/// ARAT: the APIC timer never stops. KVM's cannot.
const CPUID_06_EAX_ARAT: u32 = 1 << 2;
/// The first of the three leaves that hold the brand string.
const BRAND_LEAF: u32 = 0x8000_0002;

/// What CPUID depends on besides KVM.
#[derive(Clone, Copy, Debug)]
pub struct Vcpu<'a> {
    /// Which vCPU, and among how many.
    pub topology: VcpuTopology,
    /// The host has `KVM_CAP_TSC_DEADLINE_TIMER`.
    pub has_tsc_deadline: bool,
    /// The host's own brand string, of [`host_brand`]; its frequency is passed on.
    pub host_brand: &'a str,
}

/// Who made the processor, as leaf 0 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vendor {
    Intel,
    Amd,
    Other,
}

/// CPUID that does not fit what KVM takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuidError {
    /// Nothing to start from.
    #[error(
        "KVM reports no CPUID leaf {0:#x}; the host's KVM is broken or too old, update its kernel"
    )]
    NoLeaf(u32),
    /// More entries than KVM takes.
    #[error(
        "the guest's CPUID has more entries than KVM takes; report this with the output of `cpuid -1`"
    )]
    TooMany(#[source] fam::Error),
}

impl Explain for CpuidError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::NoLeaf(_) => FaultCode::KvmTooOld,
            Self::TooMany(_) => FaultCode::InternalError,
        })
    }
}

/// Makes `cpuid`, which KVM supports, that of one vCPU.
///
/// # Errors
/// [`CpuidError`]: KVM's answer lacks the leaves every processor has, or has too many.
pub fn normalise(cpuid: &mut CpuId, vcpu: &Vcpu<'_>) -> Result<(), CpuidError> {
    let mut leaves = Leaves(cpuid.as_slice().to_vec());
    let vendor = leaves.vendor()?;
    set_features(&mut leaves, vcpu)?;
    topology::set_extended_topology(&mut leaves, &vcpu.topology);
    match vendor {
        Vendor::Intel => intel::normalise(&mut leaves, vcpu),
        Vendor::Amd => amd::normalise(&mut leaves, vcpu),
        Vendor::Other => {}
    }
    *cpuid = CpuId::from_entries(&leaves.0).map_err(CpuidError::TooMany)?;
    Ok(())
}

/// Leaves 1 and 6.
fn set_features(leaves: &mut Leaves, vcpu: &Vcpu<'_>) -> Result<(), CpuidError> {
    let topology = &vcpu.topology;
    let leaf = leaves.get_mut(1, 0).ok_or(CpuidError::NoLeaf(1))?;
    let max_ids = u32::from(topology.count).next_power_of_two();
    leaf.ebx = leaf.ebx & 0xff | CLFLUSH_LINE << 8 | max_ids << 16 | topology.apic_id() << 24;
    leaf.ecx |= CPUID_01_ECX_HYPERVISOR;
    set_bits(&mut leaf.ecx, CPUID_01_ECX_PDCM, false);
    set_bits(
        &mut leaf.ecx,
        CPUID_01_ECX_TSC_DEADLINE,
        vcpu.has_tsc_deadline,
    );
    set_bits(&mut leaf.edx, CPUID_01_EDX_HTT, topology.count > 1);
    if let Some(leaf) = leaves.get_mut(6, 0) {
        leaf.eax |= CPUID_06_EAX_ARAT;
    }
    Ok(())
}

fn set_bits(register: &mut u32, bits: u32, on: bool) {
    if on {
        *register |= bits;
    } else {
        *register &= !bits;
    }
}

/// Replaces bits `low..=high` of a register.
fn set_field(register: &mut u32, high: u32, low: u32, value: u32) {
    let mask = (u32::MAX >> (31 - (high - low))) << low;
    *register = *register & !mask | (value << low) & mask;
}

/// The entries of one CPUID, by leaf and subleaf.
struct Leaves(Vec<kvm_cpuid_entry2>);

impl Leaves {
    fn get_mut(&mut self, leaf: u32, subleaf: u32) -> Option<&mut kvm_cpuid_entry2> {
        self.0
            .iter_mut()
            .find(|entry| entry.function == leaf && entry.index == subleaf)
    }

    /// All subleaves of `leaf`.
    fn each_mut(&mut self, leaf: u32) -> impl Iterator<Item = &mut kvm_cpuid_entry2> {
        self.0
            .iter_mut()
            .filter(move |entry| entry.function == leaf)
    }

    /// Replaces all subleaves of `leaf` by `registers`, `eax` to `edx`, for subleaves 0, 1, ….
    fn set_subleaves(&mut self, leaf: u32, registers: &[[u32; 4]]) {
        self.0.retain(|entry| entry.function != leaf);
        for (index, [eax, ebx, ecx, edx]) in (0..).zip(registers.iter().copied()) {
            self.0.push(kvm_cpuid_entry2 {
                function: leaf,
                index,
                flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                eax,
                ebx,
                ecx,
                edx,
                ..kvm_cpuid_entry2::default()
            });
        }
    }

    /// The entry of a leaf without subleaves; added, all zero, where KVM has none.
    fn leaf_mut(&mut self, leaf: u32) -> &mut kvm_cpuid_entry2 {
        let found = self.0.iter().position(|entry| entry.function == leaf);
        let at = found.unwrap_or_else(|| {
            self.0.push(kvm_cpuid_entry2 {
                function: leaf,
                ..kvm_cpuid_entry2::default()
            });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    /// Makes leaves up to `leaf` of its range visible.
    fn reach(&mut self, leaf: u32) {
        let first = self.leaf_mut(leaf & 0x8000_0000);
        first.eax = first.eax.max(leaf);
    }

    fn vendor(&mut self) -> Result<Vendor, CpuidError> {
        let leaf = self.get_mut(0, 0).ok_or(CpuidError::NoLeaf(0))?;
        let mut name = [0; 12];
        for (bytes, register) in name.chunks_exact_mut(4).zip([leaf.ebx, leaf.edx, leaf.ecx]) {
            bytes.copy_from_slice(&register.to_le_bytes());
        }
        Ok(match &name {
            b"GenuineIntel" => Vendor::Intel,
            b"AuthenticAMD" => Vendor::Amd,
            _ => Vendor::Other,
        })
    }

    /// Writes the brand string: 48 bytes over three leaves, padded with NUL.
    fn set_brand(&mut self, brand: &str) {
        let mut bytes = [0; 48];
        let len = brand.len().min(bytes.len() - 1);
        bytes[..len].copy_from_slice(&brand.as_bytes()[..len]);
        self.reach(BRAND_LEAF + 2);
        for (leaf, part) in (BRAND_LEAF..).zip(bytes.chunks_exact(16)) {
            let entry = self.leaf_mut(leaf);
            let registers = [
                &mut entry.eax,
                &mut entry.ebx,
                &mut entry.ecx,
                &mut entry.edx,
            ];
            for (register, word) in registers.into_iter().zip(part.chunks_exact(4)) {
                *register = u32::from_le_bytes(word.try_into().expect("chunks of 4"));
            }
        }
    }
}

#[cfg(test)]
mod tests;
