//! What is probably wrong, and what speaks for it.

use std::fmt;

use serde::Serialize;

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
