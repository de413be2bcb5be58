//! Registers in the form of KVM and in that of the protocol (GDB `features/i386/64bit-core.xml`, `64bit-sse.xml`).

use gdbstub_arch::x86::reg::X86_64CoreRegs;
use kvm_bindings::{kvm_fpu, kvm_regs, kvm_sregs};

/// What the debugger sees.
pub(super) fn to_gdb(regs: &kvm_regs, sregs: &kvm_sregs, fpu: &kvm_fpu) -> X86_64CoreRegs {
    let mut seen = X86_64CoreRegs {
        regs: [
            regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp, regs.rsp,
            regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ],
        eflags: low_half(regs.rflags),
        rip: regs.rip,
        mxcsr: fpu.mxcsr,
        ..X86_64CoreRegs::default()
    };
    seen.segments.cs = sregs.cs.selector.into();
    seen.segments.ss = sregs.ss.selector.into();
    seen.segments.ds = sregs.ds.selector.into();
    seen.segments.es = sregs.es.selector.into();
    seen.segments.fs = sregs.fs.selector.into();
    seen.segments.gs = sregs.gs.selector.into();
    for (seen, st) in seen.st.iter_mut().zip(&fpu.fpr) {
        seen.copy_from_slice(&st[..10]);
    }
    for (seen, xmm) in seen.xmm.iter_mut().zip(&fpu.xmm) {
        *seen = u128::from_le_bytes(*xmm);
    }
    seen.fpu.fctrl = fpu.fcw.into();
    seen.fpu.fstat = fpu.fsw.into();
    seen.fpu.ftag = fpu.ftwx.into();
    seen.fpu.fop = fpu.last_opcode.into();
    seen.fpu.fioff = low_half(fpu.last_ip);
    seen.fpu.fooff = low_half(fpu.last_dp);
    seen
}

/// Takes what the debugger set. Segments stay: a selector alone would not make one.
pub(super) fn from_gdb(set: &X86_64CoreRegs, regs: &mut kvm_regs, fpu: &mut kvm_fpu) {
    [
        regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp, regs.rsp, regs.r8,
        regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ] = set.regs;
    regs.rip = set.rip;
    regs.rflags = set.eflags.into();
    for (st, set) in fpu.fpr.iter_mut().zip(&set.st) {
        st[..10].copy_from_slice(set);
    }
    for (xmm, set) in fpu.xmm.iter_mut().zip(&set.xmm) {
        *xmm = set.to_le_bytes();
    }
    fpu.mxcsr = set.mxcsr;
    if let Ok(control) = u16::try_from(set.fpu.fctrl) {
        fpu.fcw = control;
    }
    if let Ok(status) = u16::try_from(set.fpu.fstat) {
        fpu.fsw = status;
    }
}

fn low_half(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).expect("the upper half is masked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_can_be_written_back() {
        let mut fpu = kvm_fpu {
            mxcsr: 0x1f80,
            fcw: 0x37f,
            ..kvm_fpu::default()
        };
        fpu.xmm[15] = [7; 16];
        fpu.fpr[7][9] = 5;
        let regs = kvm_regs {
            rax: 1,
            rsp: 2,
            r15: 3,
            rip: 4,
            rflags: 0x202,
            ..kvm_regs::default()
        };
        let seen = to_gdb(&regs, &kvm_sregs::default(), &fpu);
        assert_eq!((seen.regs[0], seen.regs[7], seen.regs[15]), (1, 2, 3));
        assert_eq!((seen.rip, seen.eflags), (4, 0x202));
        let (mut new_regs, mut new_fpu) = (kvm_regs::default(), kvm_fpu::default());
        from_gdb(&seen, &mut new_regs, &mut new_fpu);
        assert_eq!((new_regs, new_fpu), (regs, fpu));
    }
}
