//! A vCPU of this host, written as a CPU template: what a guest would find, bit by bit.

use std::ops::RangeInclusive;
use std::sync::Arc;

use kvm_bindings::kvm_cpuid_entry2;
use vm_config::{
    Bitmap, CpuConfig, CpuidModifier, CpuidRegister, HugePages, Machine, MsrModifier,
    RegisterModifier,
};

use crate::StartError;
use crate::arch::x86_64::layout::ram_regions;
use crate::arch::x86_64::msr::boot_msrs;
use crate::kvm::{Host, Vcpu};
use crate::memory::{self, AboveRam, Sharing};
use crate::processors::Processors;

/// As much as KVM asks for; no guest runs.
const MEMORY_MIB: usize = 2;

/// Registers that say what happens rather than what there is (Intel SDM vol. 4 table 2-2, AMD APM vol. 2 appendix A,
/// Linux `Documentation/virt/kvm/x86/msr.rst`): a template of them makes no sense.
const ACTIVITY: &[RangeInclusive<u32>] = &[
    // The wall clock and the system time of kvmclock.
    0x11..=0x12,
    // Performance counters.
    0xc1..=0xd2,
    0x186..=0x197,
    0x309..=0x30b,
    0x38d..=0x390,
    0xc001_0000..=0xc001_0007,
    0xc001_0200..=0xc001_020b,
    // Machine checks.
    0x179..=0x17b,
    0x400..=0x47f,
    // Virtualization in the guest.
    0x480..=0x491,
    // The deadline of the timer.
    0x6e0..=0x6e0,
    // What a guest tells Hyper-V and KVM.
    0x4000_0000..=0x4000_01ff,
    0x4b56_4d00..=0x4b56_4dff,
];

/// Why there is no dump.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a vCPU")]
pub struct CpuDumpError(#[from] StartError);

/// All of the first vCPU of `machine` that a template can change: with the template that `machine` names, else with
/// `custom`. Entries that Cloister adds to KVM's CPUID are left out, as a template of them would not start.
///
/// # Errors
/// When KVM cannot be used, or the template does not fit.
pub fn dump_cpu(machine: &Machine, custom: &CpuConfig) -> Result<CpuConfig, CpuDumpError> {
    Ok(dump(machine, custom)?)
}

fn dump(machine: &Machine, custom: &CpuConfig) -> Result<CpuConfig, StartError> {
    let host = Host::open(&custom.kvm_capabilities)?;
    let ram = ram_regions(MEMORY_MIB);
    let guest = memory::allocate(&ram, None, HugePages::None, Sharing::Private)?;
    let above_ram = AboveRam::new(&ram);
    let vm = host.create_vm(Arc::new(guest), above_ram, false)?;
    let vm = host.add_controllers(vm)?;
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_boot_state(Processors::new(&host, machine, custom)?.boot_state(0, None)?)?;
    Ok(CpuConfig {
        kvm_capabilities: Vec::new(),
        cpuid_modifiers: cpuid(&host, &vcpu)?,
        msr_modifiers: msrs(&host, &vcpu)?,
    })
}

fn cpuid(host: &Host, vcpu: &Vcpu) -> Result<Vec<CpuidModifier>, StartError> {
    let place = |entry: &kvm_cpuid_entry2| (entry.function, entry.index);
    let supported = host.supported_cpuid()?;
    let supported: Vec<_> = supported.as_slice().iter().map(place).collect();
    let found = vcpu.cpuid()?;
    let mut entries = found.as_slice().to_vec();
    entries.retain(|entry| supported.contains(&place(entry)));
    entries.sort_by_key(place);
    // KVM has no two entries of one place, but where it tells leaf 2 again and again.
    entries.dedup_by_key(|entry| place(entry));
    Ok(entries.iter().map(as_modifier).collect())
}

fn as_modifier(entry: &kvm_cpuid_entry2) -> CpuidModifier {
    let registers = [
        (CpuidRegister::Eax, entry.eax),
        (CpuidRegister::Ebx, entry.ebx),
        (CpuidRegister::Ecx, entry.ecx),
        (CpuidRegister::Edx, entry.edx),
    ];
    let modifiers = registers.map(|(register, value)| RegisterModifier {
        register,
        bitmap: Bitmap::exactly(value.into()),
    });
    CpuidModifier {
        leaf: entry.function,
        subleaf: entry.index,
        flags: entry.flags,
        modifiers: modifiers.to_vec(),
    }
}

fn msrs(host: &Host, vcpu: &Vcpu) -> Result<Vec<MsrModifier>, StartError> {
    let boot: Vec<u32> = boot_msrs().iter().map(|msr| msr.index).collect();
    let is_activity = |index: &u32| ACTIVITY.iter().any(|range| range.contains(index));
    let mut indices = host.msr_indices()?;
    indices.sort_unstable();
    indices.dedup();
    indices.retain(|index| !boot.contains(index) && !is_activity(index));
    let found = vcpu.readable_msrs(&indices)?;
    let modifiers = found.iter().map(|msr| MsrModifier {
        addr: msr.index,
        bitmap: Bitmap::exactly(msr.data),
    });
    Ok(modifiers.collect())
}
