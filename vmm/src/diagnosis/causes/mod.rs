//! What is probably wrong: rules over what the monitor saw, and over what the guest wrote.
//!
//! Rules are asked in the order in which a person would want to hear of them; each that applies adds a cause with its
//! evidence. A more particular one leaves a general one out.

mod console;
pub(super) mod drivers;
mod machine;

use std::time::Duration;

use super::facts::Facts;
use super::report::{Cause, CauseCode, Confidence, Evidence, Phase, Source};
use crate::boot::bzimage::BzImageError;
use crate::boot::elf::ElfError;
use crate::boot::initrd::InitrdError;
use crate::boot::kernel::KernelError;
use crate::builder::StartError;
use crate::kvm::KvmError;

/// A guest that shows no sign of life for so long has a problem.
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// All causes that something speaks for, most probable first.
pub(super) fn find(facts: &Facts, earlier: Option<&Facts>) -> Vec<Cause> {
    if facts.phase == Phase::NotStarted {
        return before_start(facts);
    }
    let lines = console::lines(facts);
    let root = console::lost_root(&lines);
    let mut causes = Vec::new();
    causes.extend(drivers::hidden(facts));
    causes.extend(drivers::no_driver(facts, root.as_ref()));
    causes.extend(console::particular(facts, &lines));
    causes.extend(machine::end(facts));
    if !causes.iter().any(is_from_guest) {
        causes.extend(console::general(facts, &lines));
    }
    if causes.is_empty() {
        causes.extend(machine::early_reset(facts));
    }
    causes.extend(machine::asleep(facts));
    if causes.is_empty() {
        causes.extend(machine::spinning(facts, earlier));
        causes.extend(machine::silent(facts));
    }
    causes
}

fn is_from_guest(cause: &Cause) -> bool {
    let mut evidence = cause.evidence.iter();
    evidence.any(|evidence| evidence.source == Source::Guest)
}

fn before_start(facts: &Facts) -> Vec<Cause> {
    let mut causes = Vec::new();
    if let Some(failure) = &facts.start_failure {
        causes.push(Cause {
            code: failure.code,
            confidence: Confidence::Certain,
            summary: "the last start failed".to_owned(),
            remedy: remedy_of_start(failure.code).to_owned(),
            evidence: vec![seen(failure.message.clone())],
        });
    }
    if !facts.missing.is_empty() {
        causes.push(Cause {
            code: CauseCode::NotConfigured,
            confidence: Confidence::Certain,
            summary: "a start needs more than is configured".to_owned(),
            remedy: "configure what is missing, then PUT /actions InstanceStart".to_owned(),
            evidence: facts.missing.iter().cloned().map(seen).collect(),
        });
    }
    causes
}

fn remedy_of_start(code: CauseCode) -> &'static str {
    match code {
        CauseCode::WrongKernelFormat => {
            "point kernel_image_path at an x86_64 vmlinux (ELF) or bzImage; `file` says what it is"
        }
        CauseCode::OutOfMemory => {
            "raise mem_size_mib, or use a smaller kernel or initrd, or free memory on the host"
        }
        CauseCode::KvmUnavailable => {
            "see that /dev/kvm exists and this user may open it (`ls -l /dev/kvm`)"
        }
        CauseCode::NotConfigured => "PUT /boot-source with kernel_image_path",
        _ => "correct what the message names, and start again; the configuration is as before",
    }
}

/// What kind of failure `error` is.
pub(super) fn code_of(error: &StartError) -> CauseCode {
    match error {
        StartError::NoKernel => CauseCode::NotConfigured,
        StartError::Kvm(
            KvmError::NoDevice(_) | KvmError::NoPermission { .. } | KvmError::Open(_),
        ) => CauseCode::KvmUnavailable,
        StartError::Memory(_)
        | StartError::Tables(_)
        | StartError::Initrd(InitrdError::DoesNotFit { .. }) => CauseCode::OutOfMemory,
        StartError::Kernel(
            KernelError::Elf(ElfError::SegmentAddress { .. })
            | KernelError::BzImage(
                BzImageError::DoesNotFit { .. }
                | BzImageError::Elf(ElfError::SegmentAddress { .. }),
            ),
        ) => CauseCode::OutOfMemory,
        StartError::Kernel(_) => CauseCode::WrongKernelFormat,
        _ => CauseCode::StartFailed,
    }
}

/// What the monitor saw.
fn seen(text: impl Into<String>) -> Evidence {
    Evidence {
        source: Source::Monitor,
        text: text.into(),
    }
}

/// Whether `word` is one of the words of `line`.
fn has_word(line: &str, word: &str) -> bool {
    line.split_ascii_whitespace().any(|other| other == word)
}

#[cfg(test)]
mod tests;
