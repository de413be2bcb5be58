//! What a debugger needs of a vCPU: its registers, its view of memory, and stops (KVM API 4.87 `KVM_SET_GUEST_DEBUG`).

use kvm_bindings::{
    KVM_CAP_SET_GUEST_DEBUG2, KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_BP,
    KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP, kvm_debug_exit_arch,
    kvm_fpu, kvm_guest_debug, kvm_regs, kvm_sregs,
};
use vm_memory::GuestAddress;

use super::{KvmError, KvmVm, Vcpu};

/// Breakpoints and watchpoints that a processor has (Intel SDM vol. 3 §18.2).
pub const MAX_HARDWARE_BREAKS: usize = 4;

/// Vector of `#BP`.
const BREAKPOINT: u32 = 3;
/// DR6: a single step.
const DR6_BS: u64 = 1 << 14;
/// DR7: the bit that is always 1.
const DR7_FIXED: u64 = 1 << 10;

/// Why a vCPU stopped for a debugger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugExit {
    /// It is at a breakpoint instruction.
    Instruction {
        /// Its linear address.
        at: u64,
    },
    /// It hit the breakpoint or watchpoint of this number.
    Hardware(usize),
    /// It made a step.
    Step,
}

impl From<kvm_debug_exit_arch> for DebugExit {
    fn from(exit: kvm_debug_exit_arch) -> Self {
        if exit.exception == BREAKPOINT {
            return Self::Instruction { at: exit.pc };
        }
        let hit = (0..MAX_HARDWARE_BREAKS).find(|number| exit.dr6 >> number & 1 != 0);
        match hit {
            Some(number) if exit.dr6 & DR6_BS == 0 => Self::Hardware(number),
            _ => Self::Step,
        }
    }
}

/// What a hardware breakpoint waits for (DR7 R/W field).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HardwareKind {
    /// The instruction there.
    Execute,
    /// A write.
    Write,
    /// A read or a write: the processor has no way to wait for reads alone.
    Access,
}

/// One hardware breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardwareBreak {
    /// Linear address, a multiple of `len`.
    pub at: u64,
    /// 1, 2, 4 or 8 bytes.
    pub len: u64,
    /// What it waits for.
    pub kind: HardwareKind,
}

/// All that stops a vCPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traps {
    /// The next instruction.
    pub step: bool,
    /// Every breakpoint instruction.
    pub instructions: bool,
    /// Debug registers.
    pub hardware: [Option<HardwareBreak>; MAX_HARDWARE_BREAKS],
    /// Nothing: the guest gets the breakpoint exception that the vCPU stopped for.
    pub reflect: bool,
}

impl Traps {
    fn to_kvm(self, can_block_interrupts: bool) -> kvm_guest_debug {
        let mut debug = kvm_guest_debug::default();
        let mut dr7 = DR7_FIXED;
        for (number, stop) in self.hardware.iter().enumerate() {
            let Some(stop) = stop else { continue };
            debug.arch.debugreg[number] = stop.at;
            dr7 |= dr7_of(number, stop);
        }
        debug.arch.debugreg[7] = dr7;
        let has_hardware = self.hardware.iter().any(Option::is_some);
        for (is_on, flag) in [
            (self.step, KVM_GUESTDBG_SINGLESTEP),
            // A step goes to the next instruction, not into the handler of an interrupt.
            (self.step && can_block_interrupts, KVM_GUESTDBG_BLOCKIRQ),
            (self.instructions, KVM_GUESTDBG_USE_SW_BP),
            (has_hardware, KVM_GUESTDBG_USE_HW_BP),
            (self.reflect, KVM_GUESTDBG_INJECT_BP),
        ] {
            if is_on {
                debug.control |= KVM_GUESTDBG_ENABLE | flag;
            }
        }
        debug
    }
}

/// Enables breakpoint `number` (Intel SDM vol. 3 §18.2.4).
fn dr7_of(number: usize, stop: &HardwareBreak) -> u64 {
    let kind = match stop.kind {
        HardwareKind::Execute => 0b00,
        HardwareKind::Write => 0b01,
        HardwareKind::Access => 0b11,
    };
    let len = match stop.len {
        2 => 0b01,
        4 => 0b11,
        8 => 0b10,
        _ => 0b00,
    };
    0b10 << (2 * number) | (len << 2 | kind) << (16 + 4 * number)
}

impl KvmVm {
    /// Whether a step can keep interrupts away.
    #[must_use]
    pub fn can_block_interrupts(&self) -> bool {
        let flags = (self.vm).check_extension_raw(KVM_CAP_SET_GUEST_DEBUG2.into());
        flags & KVM_GUESTDBG_BLOCKIRQ.cast_signed() != 0
    }
}

impl Vcpu {
    /// General, system and floating-point registers.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn registers(&self) -> Result<(kvm_regs, kvm_sregs, kvm_fpu), KvmError> {
        let regs = (self.fd.get_regs()).map_err(KvmError::call("KVM_GET_REGS"))?;
        let sregs = (self.fd.get_sregs()).map_err(KvmError::call("KVM_GET_SREGS"))?;
        let fpu = (self.fd.get_fpu()).map_err(KvmError::call("KVM_GET_FPU"))?;
        Ok((regs, sregs, fpu))
    }

    /// Sets general and floating-point registers.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn set_registers(&self, regs: &kvm_regs, fpu: &kvm_fpu) -> Result<(), KvmError> {
        (self.fd.set_regs(regs)).map_err(KvmError::call("KVM_SET_REGS"))?;
        (self.fd.set_fpu(fpu)).map_err(KvmError::call("KVM_SET_FPU"))
    }

    /// Where the vCPU finds `linear` in memory; `None` where it is not mapped.
    #[must_use]
    pub fn translate(&self, linear: u64) -> Option<GuestAddress> {
        let found = self.fd.translate_gva(linear).ok()?;
        (found.valid != 0).then_some(GuestAddress(found.physical_address))
    }

    /// Sets what stops it.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn set_traps(&self, traps: Traps, can_block_interrupts: bool) -> Result<(), KvmError> {
        self.fd
            .set_guest_debug(&traps.to_kvm(can_block_interrupts))
            .map_err(KvmError::call("KVM_SET_GUEST_DEBUG"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(at: u64, len: u64, kind: HardwareKind) -> Option<HardwareBreak> {
        Some(HardwareBreak { at, len, kind })
    }

    #[test]
    fn nothing_to_stop_for_is_no_debugging() {
        let debug = Traps::default().to_kvm(true);
        assert_eq!(debug.control, 0);
        assert_eq!(debug.arch.debugreg[7], 1 << 10);
    }

    /// Intel SDM vol. 3 §18.2.4: G0 to G3 are bits 1, 3, 5 and 7, R/W0 bits 17..16, LEN0 bits 19..18, and so on.
    #[test]
    fn debug_registers_say_where_how_much_and_what_for() {
        let traps = Traps {
            hardware: [
                stop(0x1001, 1, HardwareKind::Execute),
                None,
                stop(0x2000, 8, HardwareKind::Write),
                stop(0x3004, 4, HardwareKind::Access),
            ],
            ..Traps::default()
        };
        let debug = traps.to_kvm(true);
        assert_eq!(debug.control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP);
        assert_eq!(debug.arch.debugreg[..4], [0x1001, 0, 0x2000, 0x3004]);
        let enabled = 1 << 1 | 1 << 5 | 1 << 7;
        let second = 0b10_01 << 24;
        let third = 0b11_11 << 28;
        assert_eq!(debug.arch.debugreg[7], enabled | 1 << 10 | second | third);
    }

    #[test]
    fn a_step_keeps_interrupts_away_where_kvm_can() {
        let traps = Traps {
            step: true,
            instructions: true,
            ..Traps::default()
        };
        let control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_SW_BP;
        assert_eq!(traps.to_kvm(false).control, control);
        assert_eq!(traps.to_kvm(true).control, control | KVM_GUESTDBG_BLOCKIRQ);
    }

    #[test]
    fn an_exit_tells_why() {
        let exit = |exception, dr6| {
            DebugExit::from(kvm_debug_exit_arch {
                exception,
                dr6,
                pc: 0x1234,
                ..kvm_debug_exit_arch::default()
            })
        };
        // DR6 has bits that are always 1 (Intel SDM vol. 3 §18.2.3).
        let fixed = 0xffff_0ff0;
        assert_eq!(exit(3, fixed), DebugExit::Instruction { at: 0x1234 });
        assert_eq!(exit(1, fixed | 1 << 2), DebugExit::Hardware(2));
        assert_eq!(exit(1, fixed | 1 << 14), DebugExit::Step);
        assert_eq!(exit(1, fixed | 1 << 14 | 1), DebugExit::Step);
    }
}
