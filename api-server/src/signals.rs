//! Signals that end the process, each with its exit code.
//!
//! A handler only writes one line, cleans up and ends the process: it takes no lock that it could find taken
//! and allocates nothing.

use std::panic::PanicHookInfo;

use libc::c_int;
use signal_hook::low_level::emulate_default_handler;
use tracing::error;
use vmm::process::{Cause, OnSignal, on_signal};

use crate::{exit, logger};

/// Signals after which the process cannot go on, and their exit codes.
const FATAL: [(c_int, u8); 7] = [
    (libc::SIGSYS, 148),
    (libc::SIGBUS, 149),
    (libc::SIGSEGV, 150),
    (libc::SIGXFSZ, 151),
    (libc::SIGXCPU, 154),
    (libc::SIGHUP, 156),
    (libc::SIGILL, 157),
];

/// Signals by which a user ends the process.
const REQUESTS: [c_int; 2] = [libc::SIGTERM, libc::SIGINT];

/// Handles signals and panics from here on.
///
/// # Errors
/// When the host refuses a handler.
pub(crate) fn install() -> Result<(), vmm_sys_util::errno::Error> {
    for (signal, _) in FATAL {
        on_signal::<Fatal>(signal)?;
    }
    for signal in REQUESTS {
        on_signal::<AskedToEnd>(signal)?;
    }
    std::panic::set_hook(Box::new(on_panic));
    Ok(())
}

/// The process cannot go on.
struct Fatal;

impl OnSignal for Fatal {
    fn handle(signal: c_int, cause: Cause) {
        let known = FATAL.iter().find(|(number, _)| *number == signal);
        let exit_code = known.map_or(1, |(_, code)| *code);
        let Cause { code, system_call } = cause;
        logger::write_from_signal(format_args!(
            "Shutting down VM after intercepting signal {signal}, code {code}."
        ));
        if let Some(number) = system_call {
            logger::write_from_signal(format_args!(
                "Shutting down VM after intercepting a bad syscall ({number})."
            ));
        }
        exit::clean_up();
        logger::write_from_signal(format_args!(
            "Firecracker exiting with error. exit_code={exit_code}"
        ));
        vmm::process::exit(exit_code);
    }
}

/// Cleans up, then lets the signal do what it does by default, so that a parent sees its usual status.
struct AskedToEnd;

impl OnSignal for AskedToEnd {
    fn handle(signal: c_int, _: Cause) {
        exit::clean_up();
        let _ = emulate_default_handler(signal);
        // Only if that failed.
        vmm::process::exit(1);
    }
}

fn on_panic(panic: &PanicHookInfo<'_>) {
    error!("Firecracker {panic}");
    eprintln!("{panic}");
    exit::clean_up();
}
