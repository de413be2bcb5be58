//! One vCPU's descriptor: its state, and how it runs and is stopped.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use devices::Registers;
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_sregs,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use vm_config::MsrModifier;

use super::exits::{Exit, ExitKind, ExitLog};
use super::over_memory::VmOverMemory;
use super::{KvmError, MsrChangeError};
use crate::ExitReason;

/// Register state of a vCPU that boots. Application processors wait for a start-up interrupt instead, so
/// only their CPUID, MSRs and local APIC are set.
pub struct BootState {
    /// What the CPUID instruction answers.
    pub cpuid: CpuId,
    /// What a CPU template changes of the model-specific registers that KVM made.
    pub msr_changes: Arc<[MsrModifier]>,
    /// Model-specific registers of the boot protocol, which have the last word.
    pub msrs: Vec<kvm_msr_entry>,
    /// Turns the local APIC that KVM made into the one the guest finds.
    pub lapic: fn(&mut kvm_lapic_state),
    /// The boot processor's entry registers.
    pub entry: Option<EntryState>,
}

/// A boot state that a vCPU does not take.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A part of this program's own.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A change of the CPU template's.
    #[error(transparent)]
    MsrChange(#[from] MsrChangeError),
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

/// Where a vCPU is, as far as KVM says.
#[derive(Clone, Copy, Debug)]
pub struct VcpuState {
    /// General registers.
    pub general: kvm_regs,
    /// System registers.
    pub system: kvm_sregs,
    /// `KVM_MP_STATE_*`.
    pub activity: u32,
    /// Bits of a physical address that its CPUID says.
    pub physical_bits: u32,
}

/// What came of one [`Vcpu::run`].
#[derive(Debug)]
pub enum Turn {
    /// The guest did something that was dealt with; run again.
    Handled,
    /// Somebody kicked it, or a signal came by.
    Interrupted,
    /// It came to what a debugger waits for.
    #[cfg(feature = "gdb")]
    Debug(super::DebugExit),
    /// It cannot go on.
    Ended(ExitReason),
}

/// One vCPU. Lives on its own thread.
pub struct Vcpu {
    index: u8,
    // Before `_vm`, so that it closes first.
    pub(super) fd: VcpuFd,
    access_size: AccessSize,
    immediate_exit: ImmediateExit,
    exits: Arc<ExitLog>,
    physical_bits: u32,
    /// Keeps mapped what the guest may touch.
    _vm: Arc<VmOverMemory>,
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

/// `kvm_run.immediate_exit`: while it is set, `KVM_RUN` returns at once (KVM API 5).
#[derive(Clone, Copy)]
struct ImmediateExit(*mut u8);

// SAFETY: The pointer leads into the `kvm_run` mapping of a `Vcpu`, wherever that one is, and is used for atomic
// accesses only.
unsafe impl Send for ImmediateExit {}
// SAFETY: As above: accesses are atomic, so two threads may make them at once.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    fn of(fd: &mut VcpuFd) -> Self {
        Self(&raw mut fd.get_kvm_run().immediate_exit)
    }

    fn set(self) {
        self.flag().store(1, Ordering::Release);
    }

    /// Reads what it replaces: whoever set it did something before, which this thread sees from now on.
    fn clear(self) {
        self.flag().swap(0, Ordering::AcqRel);
    }

    fn flag<'a>(self) -> &'a AtomicU8 {
        // SAFETY:
        // 1. The byte is in the vCPU's `kvm_run` mapping, which lives as long as its `Vcpu`: that one holds this, or
        //    a `Kick` does, whose owner keeps the vCPU's thread, and so the `Vcpu`, alive (see `vcpu::Handle`). No
        //    reference leaves the methods above.
        // 2. One byte is always aligned; all accesses of ours are atomic, and the kernel only reads it.
        unsafe { AtomicU8::from_ptr(self.0) }
    }
}

/// Makes a running vCPU leave the guest; used from other threads together with a signal.
pub struct Kick(ImmediateExit);

impl Kick {
    /// The next, or current, `KVM_RUN` returns at once. A signal must follow, for a vCPU that is already in the
    /// guest.
    ///
    /// The caller upholds what [`Vcpu::kick`] asks: the vCPU outlives the handle.
    pub fn request_exit(&self) {
        self.0.set();
    }
}

impl Vcpu {
    pub(super) fn new(index: u8, mut fd: VcpuFd, vm: Arc<VmOverMemory>) -> Self {
        Self {
            index,
            access_size: AccessSize::of(&mut fd),
            immediate_exit: ImmediateExit::of(&mut fd),
            exits: Arc::default(),
            physical_bits: 0,
            fd,
            _vm: vm,
        }
    }

    /// The way to stop it from another thread; must not be used after this vCPU is dropped.
    pub fn kick(&self) -> Kick {
        Kick(self.immediate_exit)
    }

    /// What it left the guest for. No other thread writes there.
    pub fn exits(&self) -> Arc<ExitLog> {
        Arc::clone(&self.exits)
    }

    /// Where it is. Not while it is in the guest; what an exit began may have to be finished first.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn state(&self) -> Result<VcpuState, KvmError> {
        let activity = self.fd.get_mp_state();
        Ok(VcpuState {
            general: self.fd.get_regs().map_err(KvmError::call("KVM_GET_REGS"))?,
            system: self
                .fd
                .get_sregs()
                .map_err(KvmError::call("KVM_GET_SREGS"))?,
            activity: activity
                .map_err(KvmError::call("KVM_GET_MP_STATE"))?
                .mp_state,
            physical_bits: self.physical_bits,
        })
    }

    /// Sets the state it boots with. CPUID comes first: since Linux 6.13 MSRs are checked against it.
    ///
    /// # Errors
    /// When KVM refuses a part.
    pub fn set_boot_state(&mut self, state: BootState) -> Result<(), BootError> {
        self.fd
            .set_cpuid2(&state.cpuid)
            .map_err(KvmError::call("KVM_SET_CPUID2"))?;
        self.physical_bits = physical_bits(&state.cpuid);
        self.change_msrs(&state.msr_changes)?;
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
            .map_err(KvmError::call("KVM_SET_FPU"))?;
        Ok(())
    }

    /// What the CPUID instruction answers, once the boot state is set.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn cpuid(&self) -> Result<CpuId, KvmError> {
        self.fd
            .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::call("KVM_GET_CPUID2"))
    }

    /// Runs the guest until it needs something. Port and memory accesses become accesses to `ports` and `mmio`.
    pub fn run(&mut self, ports: &dyn Registers, mmio: &dyn Registers) -> Turn {
        let outcome = match self.fd.run() {
            Ok(exit) => serve(exit, &self.access_size, &self.exits, ports, mmio),
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {
                self.exits.count(ExitKind::Interrupted);
                Outcome::Interrupted
            }
            Err(error) if error.errno() == libc::EFAULT => {
                Outcome::Ended(End::Other(no_memory("somewhere")))
            }
            Err(error) => Outcome::Ended(End::Other(format!(
                "KVM_RUN failed: {}",
                io::Error::from(error)
            ))),
        };
        match outcome {
            Outcome::Served => Turn::Handled,
            Outcome::Interrupted => {
                self.immediate_exit.clear();
                Turn::Interrupted
            }
            #[cfg(feature = "gdb")]
            Outcome::Debug(exit) => Turn::Debug(exit),
            Outcome::Ended(end) => {
                let is_failure = !matches!(end, End::Reset);
                self.exits.metrics().failures.add(is_failure.into());
                Turn::Ended(self.reason(end))
            }
        }
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
            End::Other(reason) => ExitReason::Vcpu { vcpu, reason },
        }
    }

    /// Lets KVM finish the instruction whose access the last exit was (KVM API 5, note on `KVM_EXIT_IO`), without
    /// running the guest. A wide or repeated access has more parts, each an exit of its own.
    pub fn finish_access(&mut self, ports: &dyn Registers, mmio: &dyn Registers) {
        self.immediate_exit.set();
        // It ends with EINTR by design; a real failure shows at the next run.
        while let Ok(exit) = self.fd.run()
            && matches!(
                serve(exit, &self.access_size, &self.exits, ports, mmio),
                Outcome::Served
            )
        {}
        self.immediate_exit.clear();
    }
}

/// What came of one exit.
enum Outcome {
    /// It was an access, and somebody answered it.
    Served,
    /// A signal came by.
    Interrupted,
    #[cfg(feature = "gdb")]
    Debug(super::DebugExit),
    Ended(End),
}

/// Why a vCPU cannot go on.
enum End {
    Reset,
    TripleFault,
    /// KVM says more in `kvm_run`.
    Internal,
    Other(String),
}

/// Turns an access into one of `ports` or `mmio`.
fn serve(
    exit: VcpuExit<'_>,
    access_size: &AccessSize,
    exits: &ExitLog,
    ports: &dyn Registers,
    mmio: &dyn Registers,
) -> Outcome {
    let noted = |kind, address, size: usize| Exit {
        kind,
        address,
        size: size as u64,
    };
    let ended = |kind| exits.record(noted(kind, 0, 0));
    let end = match exit {
        VcpuExit::IoIn(port, data) => {
            let size = access_size.get();
            exits.record_answer(noted(ExitKind::PortRead, port.into(), size), || {
                for access in data.chunks_mut(size) {
                    ports.read(port.into(), access);
                }
            });
            return Outcome::Served;
        }
        VcpuExit::IoOut(port, data) => {
            let size = access_size.get();
            exits.record_answer(noted(ExitKind::PortWrite, port.into(), size), || {
                for access in data.chunks(size) {
                    ports.write(port.into(), access);
                }
            });
            return Outcome::Served;
        }
        VcpuExit::MmioRead(address, data) => {
            let read = noted(ExitKind::MmioRead, address, data.len());
            exits.record_answer(read, || mmio.read(address, data));
            return Outcome::Served;
        }
        VcpuExit::MmioWrite(address, data) => {
            let write = noted(ExitKind::MmioWrite, address, data.len());
            exits.record_answer(write, || mmio.write(address, data));
            return Outcome::Served;
        }
        // The I/O APIC has edge-triggered pins only: nothing waits for an end of interrupt.
        VcpuExit::IoapicEoi(_) => {
            exits.count(ExitKind::EndOfInterrupt);
            return Outcome::Served;
        }
        VcpuExit::Intr => {
            exits.count(ExitKind::Interrupted);
            return Outcome::Interrupted;
        }
        #[cfg(feature = "gdb")]
        VcpuExit::Debug(exit) => {
            exits.count(ExitKind::Other);
            return Outcome::Debug(exit.into());
        }
        VcpuExit::Shutdown => {
            ended(ExitKind::Shutdown);
            End::TripleFault
        }
        VcpuExit::InternalError => {
            ended(ExitKind::InternalError);
            End::Internal
        }
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET | KVM_SYSTEM_EVENT_SHUTDOWN, _) => {
            ended(ExitKind::SystemEvent);
            End::Reset
        }
        other => {
            ended(ExitKind::Other);
            End::Other(unexpected(&other))
        }
    };
    Outcome::Ended(end)
}

/// An end that has no name of its own.
fn unexpected(exit: &VcpuExit<'_>) -> String {
    match exit {
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _) => "the guest reported a crash".to_owned(),
        VcpuExit::FailEntry(reason, cpu) => {
            format!("the CPU refused to enter the guest: hardware reason {reason:#x} on CPU {cpu}")
        }
        VcpuExit::MemoryFault { gpa, .. } => no_memory(&format!("at {gpa:#x}")),
        other => format!("unexpected exit {other:?}"),
    }
}

/// Bits of a physical address (CPUID 8000_0008H, EAX bits 7..0); 36 where nothing is said (Intel SDM vol. 3,
/// "Enumeration of Paging Features by CPUID").
fn physical_bits(cpuid: &CpuId) -> u32 {
    let leaf = cpuid
        .as_slice()
        .iter()
        .find(|entry| entry.function == 0x8000_0008);
    leaf.map_or(36, |entry| entry.eax & 0xff)
}

/// The guest touched memory that is not there any more.
fn no_memory(place: &str) -> String {
    format!(
        "the guest touched memory {place} that the host does not have any more; somebody may have cut a file of /pmem while it was in use"
    )
}
