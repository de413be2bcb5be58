//! Gates into ring 0 for what ring 3 may not do. The other halves are in `entry.s`.
//!
//! A breakpoint runs the code at r10 in ring 0, on the stack of the TSS. Of the ways to call ring 0
//! this one asks for no set-up, and software-backed KVM has it (it has no `int n`).

use core::arch::asm;

unsafe extern "C" {
    fn gate_wait();
    fn gate_enable_interrupts();
    fn gate_disable_interrupts();
    fn gate_read_msr();
    fn gate_write_msr();
    fn gate_cpuid();
    fn gate_triple_fault();
    fn gate_run_nothing();
    fn gate_run_unmapped();
    fn gate_halt();
}

/// What `cpuid` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpuid {
    /// Register eax.
    pub eax: u32,
    /// Register ebx.
    pub ebx: u32,
    /// Register ecx.
    pub ecx: u32,
    /// Register edx.
    pub edx: u32,
}

/// Sleeps until an interrupt has been handled. Call with interrupts off: the gate lets them in and
/// sleeps in one step, so one that arrives after the caller's last look still wakes it.
pub fn wait_for_interrupt() {
    // SAFETY: the gate keeps all registers; an interrupt handler writes only the counters, which are atomic.
    unsafe { asm!("int3", in("r10") gate_wait) };
}

/// Lets interrupts arrive.
pub fn enable_interrupts() {
    // SAFETY: as for `wait_for_interrupt`.
    unsafe { asm!("int3", in("r10") gate_enable_interrupts) };
}

/// Holds interrupts back.
pub fn disable_interrupts() {
    // SAFETY: as for `wait_for_interrupt`.
    unsafe { asm!("int3", in("r10") gate_disable_interrupts) };
}

/// Reads a model-specific register. One that does not exist is a reported exception.
pub fn read_msr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading touches no memory.
    unsafe {
        asm!("int3", in("r10") gate_read_msr, in("ecx") msr, out("eax") low, out("edx") high)
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
///
/// The value must leave paging, segments and the local APIC's place as the runtime set them.
pub unsafe fn write_msr(msr: u32, value: u64) {
    let (low, high) = (value & 0xffff_ffff, value >> 32);
    // SAFETY: the caller vouches for the value.
    unsafe { asm!("int3", in("r10") gate_write_msr, in("ecx") msr, in("rax") low, in("rdx") high) };
}

/// Asks `cpuid` in ring 0, where a monitor's answer is always the one that counts.
pub fn cpuid(leaf: u32, subleaf: u32) -> Cpuid {
    let (eax, ebx, ecx, edx): (u32, u64, u32, u32);
    // SAFETY: the instruction touches no memory; rbx, which the compiler keeps for itself, is put back.
    unsafe {
        asm!(
            "mov {saved}, rbx",
            "int3",
            "xchg {saved}, rbx",
            in("r10") gate_cpuid,
            saved = out(reg) ebx,
            inout("eax") leaf => eax,
            inout("ecx") subleaf => ecx,
            out("edx") edx,
        );
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "cpuid clears the upper half of rbx"
    )]
    let ebx = ebx as u32;
    Cpuid { eax, ebx, ecx, edx }
}

/// Faults without an interrupt table.
pub fn triple_fault() -> ! {
    // SAFETY: nothing runs after it.
    unsafe { asm!("int3", in("r10") gate_triple_fault, options(noreturn)) }
}

/// Runs an instruction where no memory is, in ring 0.
pub fn run_nothing() -> ! {
    // SAFETY: nothing runs after it.
    unsafe { asm!("int3", in("r10") gate_run_nothing, options(noreturn)) }
}

/// Runs an instruction at an address without a translation, with no interrupt table: a triple fault.
pub fn run_unmapped() -> ! {
    // SAFETY: nothing runs after it.
    unsafe { asm!("int3", in("r10") gate_run_unmapped, options(noreturn)) }
}

/// Sleeps for good: interrupts are off.
pub fn halt() -> ! {
    // SAFETY: nothing runs after it.
    unsafe { asm!("int3", in("r10") gate_halt, options(noreturn)) }
}
