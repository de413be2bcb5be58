//! The local APIC's two interrupt pins.
//!
//! LINT1 carries NMI. LINT0 carries ExtINT, as in a PC's virtual wire mode, although no interrupt controller drives it
//! here: it is what KVM resets it to, and a kernel that uses the I/O APIC masks or ignores it.
//!
//! Spec: Intel SDM vol. 3 §11.5.1, "Local Vector Table".

use kvm_bindings::kvm_lapic_state;

const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const DELIVERY_MODE: u32 = 0x700;
const MODE_NMI: u32 = 0x400;
const MODE_EXTINT: u32 = 0x700;

/// Sets the delivery modes of LINT0 and LINT1, for every vCPU.
pub fn set_lint(lapic: &mut kvm_lapic_state) {
    set_delivery_mode(lapic, LVT_LINT0, MODE_EXTINT);
    set_delivery_mode(lapic, LVT_LINT1, MODE_NMI);
}

fn set_delivery_mode(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    let bytes = lapic.regs[register..]
        .first_chunk_mut::<4>()
        .expect("the registers are 1 KiB");
    let value = u32::from_le_bytes(bytes.map(i8::cast_unsigned));
    let value = value & !DELIVERY_MODE | mode;
    *bytes = value.to_le_bytes().map(u8::cast_signed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_delivery_modes_change() {
        let mut lapic = kvm_lapic_state { regs: [-1; 1024] };
        set_lint(&mut lapic);
        let register = |at: usize| {
            let bytes = lapic.regs[at..].first_chunk::<4>().unwrap();
            u32::from_le_bytes(bytes.map(i8::cast_unsigned))
        };
        assert_eq!(register(LVT_LINT0), 0xffff_ffff);
        assert_eq!(register(LVT_LINT1), 0xffff_fcff);
        assert_eq!(register(0x340), u32::MAX);
        assert_eq!(register(0x370), u32::MAX);
    }
}
