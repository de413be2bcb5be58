//! Leaves of Intel processors.

use std::arch::x86_64::__cpuid;

use super::topology::extended_topology;
use super::{BRAND_LEAF, Leaves, Vcpu, set_bits, set_field};

const CPUID_06_EAX_TURBO: u32 = 1 << 1;
const CPUID_06_ECX_ENERGY_BIAS: u32 = 1 << 3;
/// FPU data pointer updated on exceptions only.
const CPUID_07_EBX_FDP_EXCPTN_ONLY: u32 = 1 << 6;
/// FPU CS and DS always 0.
const CPUID_07_EBX_ZERO_FCS_FDS: u32 = 1 << 13;
const CPUID_07_ECX_WAITPKG: u32 = 1 << 5;
const BRAND: &str = "Intel(R) Xeon(R) Processor";

pub(super) fn normalise(leaves: &mut Leaves, vcpu: &Vcpu<'_>) {
    set_caches(leaves, vcpu);
    if let Some(leaf) = leaves.get_mut(6, 0) {
        set_bits(&mut leaf.eax, CPUID_06_EAX_TURBO, false);
        set_bits(&mut leaf.ecx, CPUID_06_ECX_ENERGY_BIAS, false);
    }
    if let Some(leaf) = leaves.get_mut(7, 0) {
        leaf.ebx |= CPUID_07_EBX_FDP_EXCPTN_ONLY | CPUID_07_EBX_ZERO_FCS_FDS;
        set_bits(&mut leaf.ecx, CPUID_07_ECX_WAITPKG, false);
    }
    // No performance counters.
    for leaf in leaves.each_mut(0xa) {
        (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0);
    }
    if leaves.get_mut(0x1f, 0).is_some() {
        leaves.set_subleaves(0x1f, &extended_topology(&vcpu.topology));
    }
    leaves.set_brand(&brand(vcpu.host_brand));
}

/// Leaf 4: who shares each cache, and how many cores there are.
fn set_caches(leaves: &mut Leaves, vcpu: &Vcpu<'_>) {
    let topology = &vcpu.topology;
    for leaf in leaves.each_mut(4) {
        let cache_type = leaf.eax & 0x1f;
        if cache_type == 0 {
            continue;
        }
        let level = leaf.eax >> 5 & 7;
        set_field(&mut leaf.eax, 25, 14, topology.sharing(level) - 1);
        set_field(&mut leaf.eax, 31, 26, topology.cores() - 1);
    }
}

/// A generic name at the host's frequency.
fn brand(host: &str) -> String {
    match host.rsplit_once('@') {
        Some((_, frequency)) => format!("{BRAND} @ {}", frequency.trim()),
        None => BRAND.to_owned(),
    }
}

/// The host processor's brand string.
#[must_use]
pub fn host_brand() -> String {
    if __cpuid(0x8000_0000).eax < BRAND_LEAF + 2 {
        return String::new();
    }
    let bytes: Vec<u8> = (BRAND_LEAF..BRAND_LEAF + 3)
        .map(__cpuid)
        .flat_map(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx])
        .flat_map(u32::to_le_bytes)
        .take_while(|byte| *byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brand_keeps_the_frequency_only() {
        let host = "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz";
        assert_eq!(brand(host), "Intel(R) Xeon(R) Processor @ 2.90GHz");
        assert_eq!(brand("INTEL(R) XEON(R) PLATINUM 8581C"), BRAND);
    }
}
