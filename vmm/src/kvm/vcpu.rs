//! One vCPU's descriptor: its state, and how it runs and is stopped.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};

use devices::Registers;
use kvm_bindings::{
    CpuId, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, Msrs,
    kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_sregs,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::KvmError;
use crate::ExitReason;

/// Register state of a vCPU that boots. Application processors wait for a start-up interrupt instead, so
/// only their CPUID, MSRs and local APIC are set.
pub struct BootState {
    /// What the CPUID instruction answers.
    pub cpuid: CpuId,
    /// Model-specific registers.
    pub msrs: Vec<kvm_msr_entry>,
    /// Turns the local APIC that KVM made into the one the guest finds.
    pub lapic: fn(&mut kvm_lapic_state),
    /// The boot processor's entry registers.
    pub entry: Option<EntryState>,
}

/// Where and how the boot processor enters the kernel.
pub struct EntryState {
    /// General registers.
    pub regs: kvm_regs,
    /// Turns the system registers that KVM made into those of the boot protocol.
    pub sregs: Box<dyn FnOnce(&mut kvm_sregs) + Send>,
    /// Floating-point unit.
    pub fpu: kvm_fpu,
}

/// What came of one [`Vcpu::run`].
#[derive(Debug)]
pub enum Turn {
    /// The guest did something that was dealt with; run again.
    Handled,
    /// Somebody kicked it, or a signal came by.
    Interrupted,
    /// It cannot go on.
    Ended(ExitReason),
}

/// One vCPU. Lives on its own thread.
pub struct Vcpu {
    index: u8,
    fd: VcpuFd,
    access_size: AccessSize,
}

/// Where KVM says how wide the accesses of a port exit are: a string instruction makes many in one exit
/// (KVM API 5, `kvm_run.io`).
struct AccessSize(*const u8);

// SAFETY: The pointer leads into the `kvm_run` mapping of the `Vcpu` that holds it, and moves with that one.
unsafe impl Send for AccessSize {}

impl AccessSize {
    fn of(fd: &mut VcpuFd) -> Self {
        // SAFETY: Only the address of a field is taken, of the union that `fd`'s mapping holds.
        Self(unsafe { &raw const fd.get_kvm_run().__bindgen_anon_1.io.size })
    }

    /// Bytes; means something after a port exit only.
    fn get(&self) -> usize {
        // SAFETY:
        // 1. The byte is in the `kvm_run` mapping, which lives as long as the `Vcpu` that holds this.
        // 2. KVM writes it during `KVM_RUN` only, which this thread calls and has returned from. The data of
        //    an exit, which may be borrowed mutably now, lie in another page of the mapping.
        let size = unsafe { self.0.read_volatile() };
        usize::from(size.max(1))
    }
}

/// Makes a running vCPU leave the guest; used from other threads together with a signal.
pub struct Kick {
    immediate_exit: *mut u8,
}

// SAFETY: The pointer is only used for atomic stores to one byte of a page shared with the kernel.
unsafe impl Send for Kick {}
// SAFETY: As above: stores are atomic, so two threads may store at once.
unsafe impl Sync for Kick {}

impl Kick {
    /// The next, or current, `KVM_RUN` returns at once (KVM API 5 `kvm_run.immediate_exit`). A signal must
    /// follow, for a vCPU that is already in the guest.
    ///
    /// The caller upholds what [`Vcpu::kick`] asks: the vCPU outlives the handle.
    pub fn request_exit(&self) {
        // SAFETY:
        // 1. The byte is in the vCPU's `kvm_run` mapping, which lives as long as its `Vcpu`; the owner of
        //    the handle keeps the vCPU's thread, and so the `Vcpu`, alive (see `vcpu::Handle`).
        // 2. One byte is always aligned; all accesses of ours from other threads are atomic.
        let flag = unsafe { AtomicU8::from_ptr(self.immediate_exit) };
        flag.store(1, Ordering::Release);
    }
}

impl Vcpu {
    pub(super) fn new(index: u8, mut fd: VcpuFd) -> Self {
        Self {
            index,
            access_size: AccessSize::of(&mut fd),
            fd,
        }
    }

    /// The way to stop it from another thread; must not be used after this vCPU is dropped.
    pub fn kick(&mut self) -> Kick {
        Kick {
            immediate_exit: &raw mut self.fd.get_kvm_run().immediate_exit,
        }
    }

    /// Sets the state it boots with. CPUID comes first: since Linux 6.13 MSRs are checked against it.
    ///
    /// # Errors
    /// When KVM refuses a part.
    pub fn set_boot_state(&mut self, state: BootState) -> Result<(), KvmError> {
        self.fd
            .set_cpuid2(&state.cpuid)
            .map_err(KvmError::call("KVM_SET_CPUID2"))?;
        self.set_msrs(&state.msrs)?;
        let mut lapic = self
            .fd
            .get_lapic()
            .map_err(KvmError::call("KVM_GET_LAPIC"))?;
        (state.lapic)(&mut lapic);
        self.fd
            .set_lapic(&lapic)
            .map_err(KvmError::call("KVM_SET_LAPIC"))?;
        let Some(entry) = state.entry else {
            return Ok(());
        };
        let mut sregs = self
            .fd
            .get_sregs()
            .map_err(KvmError::call("KVM_GET_SREGS"))?;
        (entry.sregs)(&mut sregs);
        self.fd
            .set_sregs(&sregs)
            .map_err(KvmError::call("KVM_SET_SREGS"))?;
        self.fd
            .set_regs(&entry.regs)
            .map_err(KvmError::call("KVM_SET_REGS"))?;
        self.fd
            .set_fpu(&entry.fpu)
            .map_err(KvmError::call("KVM_SET_FPU"))
    }

    fn set_msrs(&self, entries: &[kvm_msr_entry]) -> Result<(), KvmError> {
        let msrs = Msrs::from_entries(entries).expect("a dozen MSRs fit the list");
        let count = self
            .fd
            .set_msrs(&msrs)
            .map_err(KvmError::call("KVM_SET_MSRS"))?;
        match entries.get(count) {
            None => Ok(()),
            Some(refused) => Err(KvmError::Msr {
                index: refused.index,
            }),
        }
    }

    /// Runs the guest until it needs something. Port and memory accesses become accesses to `ports` and `mmio`.
    pub fn run(&mut self, ports: &dyn Registers, mmio: &dyn Registers) -> Turn {
        let end = match self.fd.run() {
            Ok(exit) => match serve(exit, &self.access_size, ports, mmio) {
                None => return Turn::Handled,
                Some(End::Signal) => return self.interrupted(),
                Some(end) => end,
            },
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {
                return self.interrupted();
            }
            Err(error) => End::Other(format!("KVM_RUN failed: {}", io::Error::from(error))),
        };
        Turn::Ended(self.reason(end))
    }

    fn interrupted(&mut self) -> Turn {
        self.fd.set_kvm_immediate_exit(0);
        Turn::Interrupted
    }

    fn reason(&mut self, end: End) -> ExitReason {
        let vcpu = self.index;
        match end {
            End::Reset => ExitReason::Reset,
            End::TripleFault => ExitReason::TripleFault { vcpu },
            End::Internal => {
                // SAFETY: KVM filled `internal` of the union: the exit reason is KVM_EXIT_INTERNAL_ERROR.
                let internal = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal };
                let count = usize::try_from(internal.ndata).unwrap_or(usize::MAX);
                ExitReason::InternalError {
                    vcpu,
                    suberror: internal.suberror,
                    data: internal.data.iter().copied().take(count).collect(),
                }
            }
            End::Signal => ExitReason::Vcpu {
                vcpu,
                reason: "interrupted".to_owned(),
            },
            End::Other(reason) => ExitReason::Vcpu { vcpu, reason },
        }
    }

    /// Lets KVM finish the instruction whose access the last exit was (KVM API 5, note on `KVM_EXIT_IO`), without
    /// running the guest. A wide or repeated access has more parts, each an exit of its own.
    pub fn finish_access(&mut self, ports: &dyn Registers, mmio: &dyn Registers) {
        self.fd.set_kvm_immediate_exit(1);
        // It ends with EINTR by design; a real failure shows at the next run.
        while let Ok(exit) = self.fd.run() {
            if serve(exit, &self.access_size, ports, mmio).is_some() {
                break;
            }
        }
        self.fd.set_kvm_immediate_exit(0);
    }
}

/// What else than an access an exit can be.
enum End {
    Reset,
    TripleFault,
    Internal,
    Signal,
    Other(String),
}

/// Turns an access into one of `ports` or `mmio`; gives any other exit back.
fn serve(
    exit: VcpuExit<'_>,
    access_size: &AccessSize,
    ports: &dyn Registers,
    mmio: &dyn Registers,
) -> Option<End> {
    match exit {
        VcpuExit::IoIn(port, data) => {
            for access in data.chunks_mut(access_size.get()) {
                ports.read(port.into(), access);
            }
        }
        VcpuExit::IoOut(port, data) => {
            for access in data.chunks(access_size.get()) {
                ports.write(port.into(), access);
            }
        }
        VcpuExit::MmioRead(address, data) => mmio.read(address, data),
        VcpuExit::MmioWrite(address, data) => mmio.write(address, data),
        // The I/O APIC has edge-triggered pins only: nothing waits for an end of interrupt.
        VcpuExit::IoapicEoi(_) => {}
        VcpuExit::Intr => return Some(End::Signal),
        VcpuExit::Shutdown => return Some(End::TripleFault),
        VcpuExit::InternalError => return Some(End::Internal),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET | KVM_SYSTEM_EVENT_SHUTDOWN, _) => {
            return Some(End::Reset);
        }
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _) => {
            return Some(End::Other("the guest reported a crash".to_owned()));
        }
        VcpuExit::FailEntry(reason, cpu) => {
            return Some(End::Other(format!(
                "the CPU refused to enter the guest: hardware reason {reason:#x} on CPU {cpu}"
            )));
        }
        other => return Some(End::Other(format!("unexpected exit {other:?}"))),
    }
    None
}
