//! When a diagnosis is logged without anybody asking: a start that fails, a guest that ends badly or panics, and one that shows
//! no sign of life.

use std::error::Error;
use std::time::{Duration, Instant};

use super::StartFailure;
use super::causes::{SIGN_OF_LIFE, code_of};
use super::report::Diagnosis;
use crate::builder::StartError;
use crate::machine::RunningMachine;
use crate::{ExitReason, Lifecycle, Vm};

/// Lines of a diagnosis in the log, at most.
const LOG_LINES: usize = 80;
/// Between the two looks at a silent guest.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
/// What a kernel says that gives up.
const PANIC: &[u8] = b"Kernel panic";

/// Logs why a start failed.
pub(crate) fn on_start_failure(vm: &mut Vm, error: &StartError) {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    vm.doctor.start_failure = Some(StartFailure {
        code: code_of(error),
        message,
    });
    log_error(&vm.examine().diagnose(None));
}

/// The machine runs from now on: looks once for a sign of life, after a while.
pub(crate) fn on_start(vm: &mut Vm) {
    vm.doctor.started = Some(Instant::now());
    vm.doctor.start_failure = None;
    wait_for_life(vm);
}

/// Goes on waiting where a pause cut the wait short.
pub(crate) fn on_resume(vm: &mut Vm) {
    if std::mem::take(&mut vm.doctor.is_wait_open) {
        wait_for_life(vm);
    }
}

/// The one timer of an idle machine, and it fires once.
fn wait_for_life(vm: &mut Vm) {
    vm.event_loop.after(SIGN_OF_LIFE, Box::new(look_for_life));
}

fn look_for_life(vm: &mut Vm) {
    if vm.lifecycle == Lifecycle::Paused {
        vm.doctor.is_wait_open = true;
        return;
    }
    if !is_lifeless(vm) {
        return;
    }
    let first = vm.examine();
    let second = Box::new(move |vm: &mut Vm| {
        if !is_lifeless(vm) || vm.lifecycle == Lifecycle::Paused {
            return;
        }
        let diagnosis = vm.examine().diagnose(Some(&first));
        for line in diagnosis.text.lines().take(LOG_LINES) {
            tracing::warn!("{line}");
        }
    });
    vm.event_loop.after(BETWEEN_LOOKS, second);
}

/// No byte came out of the guest, and no driver runs a device.
fn is_lifeless(vm: &Vm) -> bool {
    vm.machine.as_ref().is_some_and(|machine| {
        let has_driver = |machine: &RunningMachine| {
            let mut devices = machine.virtio().iter();
            devices.any(|device| device.transport.slot().has_driver())
        };
        machine.serial().written().count == 0 && !has_driver(machine)
    })
}

/// The guest said that it panicked: logs why, while it is still there.
pub(crate) fn on_panic(vm: &mut Vm) {
    if !vm.doctor.has_reported {
        vm.doctor.has_reported = true;
        log_error(&vm.examine().diagnose(None));
    }
}

/// Logs why the machine ended, unless that is how a guest ends that is done.
pub(crate) fn on_end(vm: &mut Vm, reason: &ExitReason) {
    vm.doctor.end = Some(reason.clone());
    let is_news = match reason {
        ExitReason::TripleFault { .. }
        | ExitReason::InternalError { .. }
        | ExitReason::Vcpu { .. } => true,
        ExitReason::Reset | ExitReason::PowerOff => !vm.doctor.has_reported && looks_failed(vm),
        ExitReason::EventLoop(_) => false,
        #[cfg(feature = "gdb")]
        ExitReason::Killed => false,
    };
    if is_news {
        log_error(&vm.examine().diagnose(None));
    }
}

/// Whether a guest that ended in order had failed before. Each orderly end asks, so it looks at no vCPU.
fn looks_failed(vm: &Vm) -> bool {
    let Some(machine) = &vm.machine else {
        return false;
    };
    let serial = machine.serial().written();
    let is_early = vm
        .doctor
        .started
        .is_some_and(|started| started.elapsed() < SIGN_OF_LIFE);
    let devices = || {
        machine
            .virtio()
            .iter()
            .map(|device| device.transport.slot())
    };
    let is_untouched = devices().next().is_some() && !devices().any(|slot| slot.is_claimed());
    machine.panic_notice().is_told()
        || serial.tail.windows(PANIC.len()).any(|text| text == PANIC)
        || (is_early && serial.count == 0 && is_untouched)
}

fn log_error(diagnosis: &Diagnosis) {
    for line in diagnosis.text.lines().take(LOG_LINES) {
        tracing::error!("{line}");
    }
}
