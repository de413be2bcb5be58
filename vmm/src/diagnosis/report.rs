//! What a diagnosis says: facts with names, and causes with what speaks for them. [`super::text`] makes prose of it.

use std::fmt;

use serde::Serialize;

use crate::kvm::ExitKind;

/// All that is known of a boot.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Diagnosis {
    /// Where the microVM is in its life.
    pub state: Phase,
    /// Time since the start, milliseconds; null before.
    pub uptime_ms: Option<u64>,
    /// Why it ended, if it did.
    pub end: Option<String>,
    /// Why the last start failed, if it did.
    pub start_failure: Option<String>,
    /// The guest said that its kernel panicked.
    pub guest_panicked: bool,
    /// What still has to be configured before a start.
    pub missing: Vec<String>,
    /// What is probably wrong, most probable first; empty when nothing speaks for a failure.
    pub causes: Vec<Cause>,
    /// The vCPUs; none before the start.
    pub vcpus: Vec<VcpuReport>,
    /// The virtio devices of the running machine, in attach order.
    pub devices: Vec<DeviceReport>,
    /// What came out of the serial port, even where it goes nowhere.
    pub serial: WrittenReport,
    /// What came out of the virtio console, if there is one.
    pub console: Option<WrittenReport>,
    /// The kernel's command line as the guest was given it; null before the start.
    pub command_line: Option<String>,
    /// The file of the kernel.
    pub kernel_image_path: Option<String>,
    /// Why no vCPU's place has a name, if so.
    pub no_symbols: Option<String>,
    /// All of this for a person: lines of at most 240 characters, at most 150 of them, printable.
    pub text: String,
}

/// Where the microVM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Phase {
    /// Being described; nothing runs.
    #[serde(rename = "Not started")]
    NotStarted,
    /// The vCPUs run.
    Running,
    /// The vCPUs and the devices stand still.
    Paused,
    /// It is over; the log has this.
    Ended,
}

/// Something that may be wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Cause {
    /// Its name, for programs.
    pub code: CauseCode,
    /// How much speaks for it.
    pub confidence: Confidence,
    /// What is wrong.
    pub summary: String,
    /// What to do.
    pub remedy: String,
    /// What led to it.
    pub evidence: Vec<Evidence>,
}

/// A fact that speaks for a cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Evidence {
    /// Who says so.
    pub source: Source,
    /// What it is; printable.
    pub text: String,
}

/// Who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Source {
    /// The monitor saw it.
    Monitor,
    /// The guest wrote it: its word, which a hostile guest chooses.
    Guest,
}

/// How much speaks for a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Confidence {
    /// The monitor saw it happen.
    Certain,
    /// The guest says so, or several facts agree.
    Likely,
    /// One fact fits.
    Possible,
}

/// The causes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CauseCode {
    /// Nothing to boot was configured.
    NotConfigured,
    /// The kernel file is not one that boots here.
    WrongKernelFormat,
    /// KVM refuses.
    KvmUnavailable,
    /// The start failed for another reason.
    StartFailed,
    /// Too little memory, for the guest or for what it boots.
    OutOfMemory,
    /// The kernel found no disk for its root.
    NoRootDevice,
    /// The root is there, and no file system on it that the kernel can read.
    BadRootFilesystem,
    /// No driver took a device.
    NoVirtioDriver,
    /// The command line hides the devices.
    DevicesHidden,
    /// The first program is missing or no program.
    WrongInit,
    /// The first program ended or crashed.
    InitDied,
    /// The initrd is damaged.
    DamagedInitrd,
    /// The guest stopped in its rescue shell.
    EmergencyShell,
    /// The guest needs a processor feature that it does not have.
    MissingCpuFeature,
    /// Interrupts do not arrive.
    NoInterrupts,
    /// The kernel panicked.
    KernelPanic,
    /// The kernel found a mistake of its own.
    KernelOops,
    /// A vCPU jumped to where there is no memory.
    JumpedOutsideMemory,
    /// A fault, while there was no way to handle faults.
    TripleFault,
    /// KVM can neither run nor emulate an instruction.
    KvmInternalError,
    /// A vCPU cannot go on for another reason.
    VcpuStopped,
    /// It reset the machine before it used anything.
    EarlyReset,
    /// All vCPUs sleep and nothing can wake them.
    HaltedForever,
    /// A vCPU does not get on.
    Spinning,
    /// It runs, and its console goes nowhere.
    NoConsole,
    /// Nothing was heard of it.
    Silent,
}

/// Its name, as programs get it.
impl fmt::Display for CauseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

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

/// How far a driver came with a virtio device.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeviceReport {
    /// The user's name for it, or that of its kind.
    pub id: String,
    /// What it is.
    pub kind: &'static str,
    /// Where the guest finds it.
    pub place: String,
    /// Status bits that its driver has reached (virtio 1.2 §2.1), in lower case.
    pub status: Vec<&'static str>,
    /// The driver runs it.
    pub driver_ok: bool,
    /// Its queues.
    pub queues: usize,
    /// Those that the driver enabled.
    pub queues_enabled: usize,
}

/// What a guest wrote.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WrittenReport {
    /// Bytes in all.
    pub bytes: u64,
    /// The last 8 KiB of them as the guest wrote them; what is no UTF-8 is replaced.
    pub tail: String,
}
