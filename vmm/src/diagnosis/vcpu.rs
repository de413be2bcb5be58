//! Where a vCPU is, in words.

use devices::GuestMemory;
use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_UNINITIALIZED, kvm_sregs,
};

use super::report::{Activity, CpuMode, ExitCount, LastExit, VcpuPlace, VcpuReport};
use super::symbols::Query;
use crate::arch::x86_64::paging::{PageTables, PagingMode, PagingRegisters, Walk};
use crate::kvm::{Exit, ExitLog, VcpuState};

const CR0_PE: u64 = 1 << 0;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_VM: u64 = 1 << 17;
/// Where a processor starts (Intel SDM vol. 3, "First Instruction Executed").
const RESET_VECTOR: u64 = 0xffff_fff0;

/// What is known of one vCPU.
pub(super) struct VcpuFacts {
    pub(super) index: u8,
    pub(super) place: Option<Place>,
    pub(super) counts: Vec<ExitCount>,
    /// Oldest first.
    pub(super) last: Vec<Exit>,
}

/// Where it is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) activity: Activity,
    pub(super) mode: CpuMode,
    paging: PagingMode,
    pub(super) ring: u8,
    pub(super) interrupts_enabled: bool,
    /// Linear address of the next instruction.
    pub(super) instruction: u64,
    pub(super) walk: Walk,
    state: VcpuState,
}

impl VcpuFacts {
    pub(super) fn new(index: u8, exits: &ExitLog, place: Option<Place>) -> Self {
        let counts = exits
            .counts()
            .map(|(kind, count)| ExitCount { kind, count });
        Self {
            index,
            place,
            counts: counts.collect(),
            last: exits.last().collect(),
        }
    }

    /// How often it left the guest at its own wish.
    pub(super) fn accesses(&self) -> u64 {
        use crate::kvm::ExitKind::{MmioRead, MmioWrite, PortRead, PortWrite};
        let is_access =
            |exit: &&ExitCount| matches!(exit.kind, PortRead | PortWrite | MmioRead | MmioWrite);
        let counts = self.counts.iter().filter(is_access);
        counts.fold(0, |sum, exit| sum.saturating_add(exit.count))
    }

    pub(super) fn report(&self, symbol: Option<String>) -> VcpuReport {
        VcpuReport {
            index: self.index,
            place: self.place.as_ref().map(|place| place.report(symbol)),
            exits: self.counts.clone(),
            last_exits: self.last_exits(),
        }
    }

    /// Equal ones in a row are one.
    pub(super) fn last_exits(&self) -> Vec<LastExit> {
        let runs = self.last.chunk_by(|one, next| one == next);
        let told = runs.filter_map(|run| {
            let exit = run.first()?;
            Some(LastExit {
                kind: exit.kind,
                address: (exit.size > 0).then(|| hex(exit.address)),
                size: exit.size,
                times: u32::try_from(run.len()).unwrap_or(u32::MAX),
            })
        });
        told.collect()
    }
}

impl Place {
    /// What `state` means for a guest with `memory`.
    pub(super) fn of(state: &VcpuState, memory: &GuestMemory) -> Self {
        let VcpuState {
            general, system, ..
        } = state;
        let mode = mode(system, general.rflags);
        let instruction = match mode {
            CpuMode::Long => general.rip,
            _ => system.cs.base.wrapping_add(general.rip),
        };
        let registers = PagingRegisters {
            cr0: system.cr0,
            cr3: system.cr3,
            cr4: system.cr4,
            efer: system.efer,
        };
        let tables = PageTables::new(memory, &registers, state.physical_bits);
        Self {
            activity: activity(state.activity),
            mode,
            paging: PagingMode::of(&registers),
            ring: if mode == CpuMode::Real {
                0
            } else {
                system.ss.dpl
            },
            interrupts_enabled: general.rflags & RFLAGS_IF != 0,
            instruction,
            walk: tables.walk(instruction),
            state: *state,
        }
    }

    /// It never ran, or KVM reset it: AMD's `SHUTDOWN` leaves nothing of where a vCPU was (Linux
    /// `arch/x86/kvm/svm/svm.c`, `shutdown_interception`).
    pub(super) fn is_reset(&self) -> bool {
        self.mode == CpuMode::Real && self.instruction == RESET_VECTOR
    }

    /// The next instruction is in guest memory.
    pub(super) fn is_in_memory(&self) -> bool {
        matches!(self.walk, Walk::Mapped(mapping) if mapping.is_memory)
    }

    /// What to ask the kernel's symbols. Where a user's program lies is no business of theirs.
    pub(super) fn query(&self) -> Query {
        let physical = match self.walk {
            Walk::Mapped(mapping) if self.ring == 0 => Some(mapping.address.0),
            _ => None,
        };
        Query {
            linear: self.instruction,
            physical,
        }
    }

    fn report(&self, symbol: Option<String>) -> VcpuPlace {
        let VcpuState {
            general, system, ..
        } = &self.state;
        VcpuPlace {
            activity: self.activity,
            mode: self.mode,
            paging: match self.paging {
                PagingMode::Off => "off",
                PagingMode::Bits32 => "32-bit",
                PagingMode::Pae => "PAE",
                PagingMode::FourLevel => "4-level",
                PagingMode::FiveLevel => "5-level",
            },
            ring: self.ring,
            interrupts_enabled: self.interrupts_enabled,
            instruction: hex(self.instruction),
            symbol,
            walk: self.walk.to_string(),
            is_memory: self.is_in_memory(),
            rsp: hex(general.rsp),
            rflags: hex(general.rflags),
            cr0: hex(system.cr0),
            cr2: hex(system.cr2),
            cr3: hex(system.cr3),
            cr4: hex(system.cr4),
            efer: hex(system.efer),
        }
    }
}

/// Intel SDM vol. 3, "Modes of Operation" and "IA-32e Mode".
fn mode(system: &kvm_sregs, rflags: u64) -> CpuMode {
    let is_long = system.efer & EFER_LMA != 0;
    if system.cr0 & CR0_PE == 0 {
        CpuMode::Real
    } else if is_long && system.cs.l != 0 {
        CpuMode::Long
    } else if is_long {
        CpuMode::Compatibility
    } else if rflags & RFLAGS_VM != 0 {
        CpuMode::Virtual8086
    } else {
        CpuMode::Protected
    }
}

fn activity(state: u32) -> Activity {
    match state {
        KVM_MP_STATE_RUNNABLE => Activity::Runs,
        KVM_MP_STATE_HALTED => Activity::Halted,
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => Activity::NotStarted,
        _ => Activity::Other,
    }
}

fn hex(value: u64) -> String {
    format!("{value:#x}")
}
