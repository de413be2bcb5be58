//! Signal handlers that hear why the signal came.

use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::register_signal_handler;

/// `si_code` of a `SIGSYS` that a seccomp filter raised (`SYS_SECCOMP`, `asm-generic/siginfo.h`).
const SYS_SECCOMP: c_int = 1;
/// Where `si_syscall` is in a `siginfo_t`, in `int`s: behind three of them, padding and a pointer.
const SYSTEM_CALL_AT: usize = 6;

/// Why a signal came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `si_code` (sigaction(2)): 0 when a process sent it.
    pub code: i32,
    /// The system call that a seccomp filter refused.
    pub system_call: Option<i32>,
}

/// What a signal does.
pub trait OnSignal {
    /// Called in a signal handler: it may wait for no lock and allocate nothing.
    fn handle(signal: i32, cause: Cause);
}

/// Has `H` called whenever `signal` comes.
///
/// # Errors
/// When the host refuses the handler.
pub fn on_signal<H: OnSignal>(signal: i32) -> Result<(), vmm_sys_util::errno::Error> {
    register_signal_handler(signal, hear::<H>)
}

extern "C" fn hear<H: OnSignal>(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: The handler was registered with SA_SIGINFO, so the kernel passes a whole `siginfo_t`, which stays until
    // the handler returns and which nobody else writes.
    let code = unsafe { (*info).si_code };
    let is_refused_call = signal == libc::SIGSYS && code == SYS_SECCOMP;
    let system_call = is_refused_call.then(|| {
        // SAFETY: As above; a `siginfo_t` has 128 bytes and the alignment of an `int` at least, so the seventh `int` lies
        // inside it, and for this code the kernel wrote `si_syscall` there.
        unsafe { info.cast::<c_int>().add(SYSTEM_CALL_AT).read() }
    });
    H::handle(signal, Cause { code, system_call });
}
