//! Signals that end the process, each with its exit code.
//!
//! A handler only writes one line, cleans up and ends the process: it takes no lock that it could find taken
//! and allocates nothing.

use std::panic::PanicHookInfo;

use libc::{c_int, c_void, siginfo_t};
use signal_hook::low_level::emulate_default_handler;
use tracing::error;
use vmm_sys_util::signal::register_signal_handler;

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
        register_signal_handler(signal, on_fatal)?;
    }
    for signal in REQUESTS {
        register_signal_handler(signal, on_request)?;
    }
    std::panic::set_hook(Box::new(on_panic));
    Ok(())
}

extern "C" fn on_fatal(signal: c_int, _: *mut siginfo_t, _: *mut c_void) {
    let known = FATAL.iter().find(|(number, _)| *number == signal);
    let code = known.map_or(1, |(_, code)| *code);
    logger::write_from_signal(format_args!(
        "Shutting down VM after intercepting signal {signal}."
    ));
    exit::clean_up();
    logger::write_from_signal(format_args!(
        "Firecracker exiting with error. exit_code={code}"
    ));
    vmm::process::exit(code);
}

/// Cleans up, then lets the signal do what it does by default, so that a parent sees its usual status.
extern "C" fn on_request(signal: c_int, _: *mut siginfo_t, _: *mut c_void) {
    exit::clean_up();
    let _ = emulate_default_handler(signal);
    // Only if that failed.
    vmm::process::exit(1);
}

fn on_panic(panic: &PanicHookInfo<'_>) {
    error!("Firecracker {panic}");
    eprintln!("{panic}");
    exit::clean_up();
}
