//! Signals that end the process, each with its exit code.
//!
//! A handler only writes one line, cleans up and ends the process: it takes no lock that it could find taken
//! and allocates nothing.

use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};

use libc::c_int;
use rustix::time::{ClockId, clock_gettime};
use signal_hook::low_level::emulate_default_handler;
use tracing::error;
use vmm::metrics::{METRICS, PROCESS, Tally};
use vmm::process::{Cause, OnSignal, on_signal};

use crate::{exit, logger};

/// Signals after which the process cannot go on, their exit codes, and where they are counted.
static FATAL: [(c_int, u8, &Tally); 7] = [
    (libc::SIGSYS, 148, &PROCESS.seccomp.num_faults),
    (libc::SIGBUS, 149, &PROCESS.signals.sigbus),
    (libc::SIGSEGV, 150, &PROCESS.signals.sigsegv),
    (libc::SIGXFSZ, 151, &PROCESS.signals.sigxfsz),
    (libc::SIGXCPU, 154, &PROCESS.signals.sigxcpu),
    (libc::SIGHUP, 156, &PROCESS.signals.sighup),
    (libc::SIGILL, 157, &PROCESS.signals.sigill),
];

/// Signals by which a user ends the process.
const REQUESTS: [c_int; 2] = [libc::SIGTERM, libc::SIGINT];

/// Handles signals and panics from here on.
///
/// # Errors
/// When the host refuses a handler.
pub(crate) fn install() -> Result<(), vmm_sys_util::errno::Error> {
    for (signal, ..) in &FATAL {
        on_signal::<Fatal>(*signal)?;
    }
    on_signal::<BrokenPipe>(libc::SIGPIPE)?;
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
        let known = FATAL.iter().find(|(number, ..)| *number == signal);
        let exit_code = known.map_or(1, |(_, code, count)| {
            count.increment();
            *code
        });
        let Cause { code, system_call } = cause;
        logger::write_from_signal(format_args!(
            "Shutting down VM after intercepting signal {signal}, code {code}."
        ));
        if let Some(number) = system_call {
            logger::write_from_signal(format_args!(
                "Shutting down VM after intercepting a bad syscall ({number})."
            ));
        }
        METRICS.flush_at_end();
        exit::clean_up();
        logger::write_from_signal(format_args!(
            "Firecracker exiting with error. exit_code={exit_code}"
        ));
        vmm::process::exit(exit_code);
    }
}

/// Somebody closed the other end of a pipe or socket: whoever wrote there hears of it, so the process goes on.
struct BrokenPipe;

impl OnSignal for BrokenPipe {
    fn handle(signal: c_int, _: Cause) {
        /// The second of the last line, counted from 1.
        static LAST: AtomicU64 = AtomicU64::new(0);
        PROCESS.signals.sigpipe.increment();
        // A guest may cause many, and a log that goes to a closed pipe one for each line: one line a second.
        let now = clock_gettime(ClockId::Monotonic).tv_sec.unsigned_abs() + 1;
        if LAST.swap(now, Ordering::Relaxed) != now {
            logger::write_from_signal(format_args!("Received signal {signal}"));
        }
    }
}

/// Cleans up, then lets the signal do what it does by default, so that a parent sees its usual status.
struct AskedToEnd;

impl OnSignal for AskedToEnd {
    fn handle(signal: c_int, _: Cause) {
        METRICS.flush_at_end();
        exit::clean_up();
        let _ = emulate_default_handler(signal);
        // Only if that failed.
        vmm::process::exit(1);
    }
}

fn on_panic(panic: &PanicHookInfo<'_>) {
    error!("Firecracker {panic}");
    eprintln!("{panic}");
    PROCESS.vmm.panic_count.increment();
    METRICS.flush_at_end();
    exit::clean_up();
}

#[cfg(test)]
mod tests {
    use std::panic;

    use super::*;

    /// The only test that configures the metrics of this process.
    #[test]
    fn a_panic_is_counted_in_a_last_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics");
        let config = serde_json::json!({ "metrics_path": path });
        let config = serde_json::from_value(config).unwrap();
        METRICS
            .configure(&config, &vm_config::InstanceId::default())
            .unwrap();
        let before = panic::take_hook();
        panic::set_hook(Box::new(on_panic));
        let panicked = panic::catch_unwind(|| panic!("as asked"));
        panic::set_hook(before);
        assert!(panicked.is_err());
        let line = std::fs::read_to_string(&path).unwrap();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["vmm"]["panic_count"], 1);
    }
}
