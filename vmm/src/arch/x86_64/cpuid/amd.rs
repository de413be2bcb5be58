//! Leaves of AMD processors.

use super::topology::APIC_ID_BITS;
use super::{Leaves, Vcpu, set_bits, set_field};

/// Speculation controls by MSR, which AMD processors do not have.
const CPUID_07_EDX_ARCH_CAPABILITIES: u32 = 1 << 29;
/// Leaves 0x8000_001d and 0x8000_001e exist.
const CPUID_80000001_ECX_TOPOEXT: u32 = 1 << 22;
const BRAND: &str = "AMD EPYC";

pub(super) fn normalise(leaves: &mut Leaves, vcpu: &Vcpu<'_>) {
    if let Some(leaf) = leaves.get_mut(7, 0) {
        set_bits(&mut leaf.edx, CPUID_07_EDX_ARCH_CAPABILITIES, false);
    }
    leaves.reach(0x8000_001e);
    leaves.leaf_mut(0x8000_0001).ecx |= CPUID_80000001_ECX_TOPOEXT;
    set_core_count(leaves, vcpu);
    set_caches(leaves, vcpu);
    set_ids(leaves, vcpu);
    leaves.set_brand(BRAND);
}

/// Leaf 0x8000_0008 ECX: threads in the package - 1, and the width of an APIC id.
fn set_core_count(leaves: &mut Leaves, vcpu: &Vcpu<'_>) {
    let leaf = leaves.leaf_mut(0x8000_0008);
    set_field(&mut leaf.ecx, 7, 0, u32::from(vcpu.topology.count) - 1);
    set_field(&mut leaf.ecx, 15, 12, APIC_ID_BITS);
}

/// Leaf 0x8000_001d: who shares each cache.
fn set_caches(leaves: &mut Leaves, vcpu: &Vcpu<'_>) {
    for leaf in leaves.each_mut(0x8000_001d) {
        let cache_type = leaf.eax & 0x1f;
        if cache_type == 0 {
            continue;
        }
        let level = leaf.eax >> 5 & 7;
        set_field(&mut leaf.eax, 25, 14, vcpu.topology.sharing(level) - 1);
    }
}

/// Leaf 0x8000_001e: APIC id, core, and the one node.
fn set_ids(leaves: &mut Leaves, vcpu: &Vcpu<'_>) {
    let topology = &vcpu.topology;
    let threads = topology.threads_per_core();
    let leaf = leaves.leaf_mut(0x8000_001e);
    leaf.eax = topology.apic_id();
    leaf.ebx = ((threads - 1) << 8) | (topology.apic_id() / threads);
    leaf.ecx = 0;
    leaf.edx = 0;
}
