//! Model-specific registers at boot.
//!
//! Numbers: Intel SDM vol. 4 table 2-2; Linux names them the same in `arch/x86/include/asm/msr-index.h`.

use kvm_bindings::kvm_msr_entry;

const MSR_IA32_TSC: u32 = 0x10;
const MSR_IA32_SYSENTER_CS: u32 = 0x174;
const MSR_IA32_SYSENTER_ESP: u32 = 0x175;
const MSR_IA32_SYSENTER_EIP: u32 = 0x176;
const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_CSTAR: u32 = 0xc000_0083;
const MSR_SYSCALL_MASK: u32 = 0xc000_0084;
const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;

/// `MISC_ENABLE`: fast strings.
const MISC_ENABLE_FAST_STRING: u64 = 1 << 0;
/// `MTRR_DEF_TYPE`: MTRRs on, memory write-back where none says otherwise (SDM vol. 3 §12.11.2.1).
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// What every vCPU's registers hold when it starts, for `KVM_SET_MSRS`.
#[must_use]
pub fn boot_msrs() -> Vec<kvm_msr_entry> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    };
    let zero = [
        MSR_IA32_SYSENTER_CS,
        MSR_IA32_SYSENTER_ESP,
        MSR_IA32_SYSENTER_EIP,
        MSR_STAR,
        MSR_CSTAR,
        MSR_LSTAR,
        MSR_KERNEL_GS_BASE,
        MSR_SYSCALL_MASK,
        MSR_IA32_TSC,
    ];
    let mut entries: Vec<_> = zero.into_iter().map(|index| entry(index, 0)).collect();
    entries.push(entry(MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING));
    entries.push(entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK));
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_write_back_and_nothing_else_is_left_over() {
        let entries = boot_msrs();
        let value = |index| entries.iter().find(|e| e.index == index).unwrap().data;
        assert_eq!(value(0x2ff), 0x806);
        assert_eq!(value(0x1a0), 1);
        assert_eq!(entries.iter().filter(|e| e.data == 0).count(), 9);
    }
}
