//! Why a request was refused.

use vm_config::MachineError;

/// Why a request was refused. Printed with its chain of sources, joined by `: `, this is the API's
/// `fault_message`; the wording is what existing clients look for.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Asked too early.
    #[error("The requested operation is not supported before starting the microVM.")]
    BeforeStart,
    /// Asked too late.
    #[error("The requested operation is not supported after starting the microVM.")]
    AfterStart,
    /// `PUT`, `PATCH /machine-config`.
    #[error("Machine config error")]
    Machine(#[source] MachineError),
    /// `PUT /logger`.
    #[error("Logger error")]
    Logger(#[source] std::io::Error),
    /// Part of the interface that this build does not have.
    #[error("{0} is not supported by this build; remove it from the request")]
    NotSupported(&'static str),
}
