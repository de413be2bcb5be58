//! The boot doctor: what a guest that does not boot did last, and what is probably wrong with it.
//!
//! ```text
//!  Vm::examine, on the event loop ----> Facts ----> Facts::diagnose, on any thread ----> Diagnosis ----> JSON, text, log
//!   vcpu: where each is, its exits       |           symbols: names from the kernel's file
//!   serial and console: 8 KiB tails      |           causes: rules over facts and over what the guest wrote
//!   devices: how far drivers came        +--earlier: what does not move between two looks
//! ```
//!
//! All of it is asked for, and bounded whatever the guest does: a few dozen reads of guest memory, 16 KiB of text, a part of one
//! file. What the guest wrote is its word and nothing more; a diagnosis says so, and shows it with control characters escaped.

mod causes;
mod facts;
mod log;
mod report;
pub mod symbols;
mod text;
mod vcpu;

use std::fs::File;
use std::time::Instant;

pub use facts::Facts;
pub(crate) use log::{on_end, on_panic, on_resume, on_start, on_start_failure};
pub use report::{
    Activity, Cause, CauseCode, Confidence, CpuMode, DeviceReport, Diagnosis, Evidence, ExitCount,
    LastExit, Phase, Source, VcpuPlace, VcpuReport, WrittenReport,
};

use devices::tail::Written;
use symbols::{NoSymbols, Query, Symbol};

use crate::control::{ANY_STATE, Command, CommandError};
use crate::{ExitReason, Lifecycle, Vm, boot};

/// `GET /vm/diagnosis`: what is known now.
pub struct Examine;

impl Command for Examine {
    type Reply = Facts;
    const ALLOWED: &'static [Lifecycle] = ANY_STATE;
    const CHANGES: bool = false;

    fn run(self, vm: &mut Vm) -> Result<Facts, CommandError> {
        Ok(vm.examine())
    }
}

/// What is remembered for a diagnosis.
#[derive(Default)]
pub(crate) struct Doctor {
    started: Option<Instant>,
    start_failure: Option<StartFailure>,
    end: Option<ExitReason>,
    /// Questions that vCPUs were asked.
    questions: u32,
    /// The log has a diagnosis of a failure.
    has_reported: bool,
    /// The time for a first sign of life was up while the machine was paused.
    is_wait_open: bool,
}

/// Why a start failed.
#[derive(Clone, Debug)]
struct StartFailure {
    code: CauseCode,
    /// The error with all that led to it.
    message: String,
}

impl Facts {
    /// What they say; `earlier` are those of a moment before, while it ran. Reads the kernel's file.
    #[must_use]
    pub fn diagnose(&self, earlier: Option<&Self>) -> Diagnosis {
        let (names, no_symbols) = match self.names() {
            Ok(names) => (names, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let mut names = names.into_iter();
        let vcpus = self.vcpus.iter().map(|vcpu| {
            let name = vcpu.place.as_ref().and_then(|_| names.next().flatten());
            vcpu.report(name.map(|name| told(&name)))
        });
        let vcpus = vcpus.collect();
        let mut diagnosis = Diagnosis {
            state: self.phase,
            uptime_ms: self
                .uptime
                .map(|uptime| u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX)),
            end: self.end.as_ref().map(ToString::to_string),
            start_failure: self.start_failure.as_ref().map(|f| f.message.clone()),
            guest_panicked: self.has_panicked,
            missing: self.missing.clone(),
            causes: causes::find(self, earlier),
            vcpus,
            devices: self.devices.iter().map(causes::drivers::report).collect(),
            serial: written(&self.serial),
            console: self.console.as_ref().map(written),
            command_line: self.command_line.clone(),
            kernel_image_path: self.kernel.as_ref().map(|path| path.display().to_string()),
            no_symbols: no_symbols.filter(|_| !self.vcpus.is_empty()),
            text: String::new(),
        };
        diagnosis.text = text::describe(&diagnosis);
        diagnosis
    }

    /// The names of the places of the vCPUs that have one.
    fn names(&self) -> Result<Vec<Option<Symbol>>, NoSymbols> {
        let places = self.vcpus.iter().filter_map(|vcpu| vcpu.place.as_ref());
        let queries: Vec<Query> = places.map(vcpu::Place::query).collect();
        let Some(path) = self.kernel.as_ref().filter(|_| !queries.is_empty()) else {
            return Ok(Vec::new());
        };
        let image: File = boot::open(path)?;
        boot::check_regular(&image)?;
        symbols::find(image, &queries)
    }
}

fn told(symbol: &Symbol) -> String {
    let moved = if symbol.is_moved {
        " (not at its linked address)"
    } else {
        ""
    };
    format!("{}+{:#x}{moved}", symbol.name, symbol.offset)
}

fn written(text: &Written) -> WrittenReport {
    WrittenReport {
        bytes: text.count,
        tail: String::from_utf8_lossy(&text.tail).into_owned(),
    }
}
