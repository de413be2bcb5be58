//! Where the vCPUs are, and what they left the guest for.

use serde::Serialize;

use crate::kvm::ExitKind;

/// One vCPU.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VcpuReport {
    /// Which, from 0.
    pub index: u8,
    /// Where it is; null when it did not say so in time.
    pub place: Option<VcpuPlace>,
    /// What it left the guest for, and how often.
    pub exits: Vec<ExitCount>,
    /// The last exits, oldest first; equal ones in a row are one.
    pub last_exits: Vec<LastExit>,
}

/// Where a vCPU is. Numbers are text in base 16.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VcpuPlace {
    /// What it does.
    pub activity: Activity,
    /// The processor's mode.
    pub mode: CpuMode,
    /// How addresses are translated.
    pub paging: &'static str,
    /// Privilege: 0 is the kernel's.
    pub ring: u8,
    /// Interrupts are on.
    pub interrupts_enabled: bool,
    /// The next instruction; with the base of its segment outside of 64-bit mode.
    pub instruction: String,
    /// The function there, as `name+offset`, when the kernel's file has symbols.
    pub symbol: Option<String>,
    /// Where that address leads through the guest's page tables.
    pub walk: String,
    /// That leads to guest memory.
    pub is_memory: bool,
    /// RSP.
    pub rsp: String,
    /// RFLAGS.
    pub rflags: String,
    /// CR0.
    pub cr0: String,
    /// CR2: the address of the last page fault.
    pub cr2: String,
    /// CR3.
    pub cr3: String,
    /// CR4.
    pub cr4: String,
    /// IA32_EFER.
    pub efer: String,
}

/// What a vCPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Activity {
    /// It runs.
    Runs,
    /// It sleeps until an interrupt.
    Halted,
    /// It waits for the guest to start it.
    NotStarted,
    /// Something else.
    Other,
}

/// A processor's mode (Intel SDM vol. 3, "Modes of Operation").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CpuMode {
    /// As at power-on.
    Real,
    /// 32 bits.
    Protected,
    /// Real mode's programs within protected mode.
    Virtual8086,
    /// 32-bit code in long mode.
    Compatibility,
    /// 64 bits.
    Long,
}

/// How often a vCPU left the guest for one reason.
#[derive(Clone, Copy, Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExitCount {
    /// The reason.
    pub kind: ExitKind,
    /// How often.
    pub count: u64,
}

/// Exits of one kind in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LastExit {
    /// The reason.
    pub kind: ExitKind,
    /// The port or guest-physical address, base 16; null for what is no access.
    pub address: Option<String>,
    /// Bytes of the access; 0 for what is none.
    pub size: u64,
    /// How many in a row.
    pub times: u32,
}
