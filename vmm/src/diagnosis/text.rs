//! A diagnosis for a person: bounded lines of printable text.

use std::fmt::Write;

use super::report::{
    Activity, Cause, Confidence, CpuMode, DeviceReport, Diagnosis, LastExit, Phase, Source,
    VcpuPlace, VcpuReport, WrittenReport,
};
use crate::kvm::ExitKind;

/// Lines of text, at most.
const MAX_LINES: usize = 150;
/// Characters of a line, at most.
const MAX_LINE: usize = 240;
/// Lines shown of what the guest wrote.
const TAIL_LINES: usize = 40;
/// vCPUs and devices shown of each.
const MAX_SHOWN: usize = 16;
/// Runs of exits shown of each vCPU.
const MAX_RUNS: usize = 6;

/// `diagnosis` as text; ends with a line feed.
pub(super) fn describe(diagnosis: &Diagnosis) -> String {
    let mut lines = vec![heading(diagnosis)];
    if diagnosis.causes.is_empty() && diagnosis.state != Phase::NotStarted {
        lines.push("Nothing speaks for a failure.".to_owned());
    }
    for missing in &diagnosis.missing {
        lines.push(format!("Missing: {missing}"));
    }
    for cause in &diagnosis.causes {
        tell_cause(cause, &mut lines);
    }
    for vcpu in diagnosis.vcpus.iter().take(MAX_SHOWN) {
        tell_vcpu(vcpu, diagnosis.state == Phase::Ended, &mut lines);
    }
    note_rest(diagnosis.vcpus.len(), "vCPUs", &mut lines);
    if let Some(why) = &diagnosis.no_symbols {
        lines.push(format!("No function names: {why}"));
    }
    for device in diagnosis.devices.iter().take(MAX_SHOWN) {
        lines.push(device_line(device));
    }
    note_rest(diagnosis.devices.len(), "devices", &mut lines);
    if let Some(line) = &diagnosis.command_line {
        lines.push(format!("Command line: {line}"));
    }
    if diagnosis.state != Phase::NotStarted {
        tell_written("serial port", &diagnosis.serial, &mut lines);
    }
    if let Some(console) = &diagnosis.console {
        tell_written("virtio console", console, &mut lines);
    }
    lines.truncate(MAX_LINES);
    lines.iter().fold(String::new(), |mut text, line| {
        text.push_str(&printable(line, MAX_LINE));
        text.push('\n');
        text
    })
}

fn heading(diagnosis: &Diagnosis) -> String {
    let state = match diagnosis.state {
        Phase::NotStarted => "not started",
        Phase::Running => "running",
        Phase::Paused => "paused",
        Phase::Ended => "ended",
    };
    let mut line = format!("Boot diagnosis: {state}");
    // Writing to text cannot fail.
    if let Some(ms) = diagnosis.uptime_ms {
        let _ = write!(line, ", {}.{:03} s after the start", ms / 1000, ms % 1000);
    }
    if let Some(end) = &diagnosis.end {
        let _ = write!(line, ": {end}");
    }
    if diagnosis.guest_panicked {
        line.push_str("; the guest told of a panic");
    }
    line
}

fn tell_cause(cause: &Cause, lines: &mut Vec<String>) {
    let confidence = match cause.confidence {
        Confidence::Certain => "Cause",
        Confidence::Likely => "Likely cause",
        Confidence::Possible => "Possible cause",
    };
    lines.push(format!("{confidence}, {}: {}", cause.code, cause.summary));
    for evidence in &cause.evidence {
        lines.push(match evidence.source {
            Source::Monitor => format!("  because: {}", evidence.text),
            Source::Guest => format!("  the guest says: {}", evidence.text),
        });
    }
    lines.push(format!("  remedy: {}", cause.remedy));
}

fn tell_vcpu(vcpu: &VcpuReport, is_over: bool, lines: &mut Vec<String>) {
    let index = vcpu.index;
    match &vcpu.place {
        None => lines.push(format!("vCPU {index}: did not say in time where it is")),
        Some(place) if place.activity == Activity::NotStarted => {
            lines.push(format!("vCPU {index}: waits for the guest to start it"));
        }
        Some(place) => tell_place(index, place, is_over, lines),
    }
    if vcpu.exits.is_empty() {
        return;
    }
    let counts: Vec<_> = vcpu
        .exits
        .iter()
        .map(|exit| format!("{} {}", exit.count, name(exit.kind)))
        .collect();
    lines.push(format!("  exits: {}", counts.join(", ")));
    let hidden = vcpu.last_exits.len().saturating_sub(MAX_RUNS);
    let last: Vec<_> = vcpu.last_exits.iter().skip(hidden).map(run).collect();
    if !last.is_empty() {
        lines.push(format!(
            "  last exits, newest at the end: {}",
            last.join(", ")
        ));
    }
}

fn tell_place(index: u8, place: &VcpuPlace, is_over: bool, lines: &mut Vec<String>) {
    let activity = match place.activity {
        Activity::Runs if is_over => "was",
        Activity::Runs => "runs",
        Activity::Halted => "halted",
        Activity::NotStarted => "not started",
        Activity::Other => "waits",
    };
    let mode = match place.mode {
        CpuMode::Real => "real mode",
        CpuMode::Protected => "protected mode",
        CpuMode::Virtual8086 => "virtual-8086 mode",
        CpuMode::Compatibility => "compatibility mode",
        CpuMode::Long => "64-bit mode",
    };
    let interrupts = if place.interrupts_enabled {
        "on"
    } else {
        "off"
    };
    let symbol = match &place.symbol {
        Some(symbol) => format!(" ({symbol})"),
        None => String::new(),
    };
    lines.push(format!(
        "vCPU {index}: {activity} at {}{symbol}, {mode}, ring {}, interrupts {interrupts}",
        place.instruction, place.ring
    ));
    lines.push(format!(
        "  that is {}; paging {}, cr3 {}, cr2 {}, rsp {}",
        place.walk, place.paging, place.cr3, place.cr2, place.rsp
    ));
}

fn run(exit: &LastExit) -> String {
    let kind = match exit.kind {
        ExitKind::PortRead => "read port",
        ExitKind::PortWrite => "write port",
        ExitKind::MmioRead => "read address",
        ExitKind::MmioWrite => "write address",
        other => name(other),
    };
    let mut text = kind.to_owned();
    // Writing to text cannot fail.
    if let Some(address) = &exit.address {
        let _ = write!(text, " {address} ({} bytes)", exit.size);
    }
    if exit.times > 1 {
        let _ = write!(text, " x{}", exit.times);
    }
    text
}

fn name(kind: ExitKind) -> &'static str {
    match kind {
        ExitKind::PortRead => "port reads",
        ExitKind::PortWrite => "port writes",
        ExitKind::MmioRead => "address reads",
        ExitKind::MmioWrite => "address writes",
        ExitKind::EndOfInterrupt => "ends of interrupts",
        ExitKind::Interrupted => "kicks",
        ExitKind::Shutdown => "shutdown",
        ExitKind::InternalError => "internal error",
        ExitKind::SystemEvent => "system event",
        ExitKind::Other => "others",
    }
}

fn device_line(device: &DeviceReport) -> String {
    let status = if device.status.is_empty() {
        "no driver has looked at it".to_owned()
    } else {
        device.status.join(", ")
    };
    let DeviceReport {
        id,
        kind,
        place,
        queues,
        queues_enabled,
        ..
    } = device;
    format!("Device {id} ({kind}, {place}): {status}; {queues_enabled} of {queues} queues")
}

fn tell_written(name: &str, written: &WrittenReport, lines: &mut Vec<String>) {
    let bytes = written.bytes;
    if bytes == 0 {
        lines.push(format!("Nothing came out of the {name}."));
        return;
    }
    let said = written
        .tail
        .split(['\n', '\r'])
        .filter(|line| !line.trim().is_empty());
    let said: Vec<_> = said.collect();
    let hidden = said.len().saturating_sub(TAIL_LINES);
    lines.push(format!(
        "The last of {bytes} bytes from the {name}, in the guest's own words:"
    ));
    for line in said.iter().skip(hidden) {
        lines.push(format!("  | {line}"));
    }
}

fn note_rest(count: usize, what: &str, lines: &mut Vec<String>) {
    if let Some(rest) = count.checked_sub(MAX_SHOWN).filter(|rest| *rest > 0) {
        lines.push(format!("and {rest} more {what}"));
    }
}

/// `line` with what a terminal could take for an order escaped, and cut to `max` characters.
pub(super) fn printable(line: &str, max: usize) -> String {
    let mut text = String::new();
    let mut count = 0;
    for c in line.chars() {
        let escaped = match c {
            ' '..='~' => None,
            '\t' => Some(" ".to_owned()),
            other => Some(other.escape_debug().to_string()),
        };
        let width = escaped
            .as_ref()
            .map_or(1, |escaped| escaped.chars().count());
        if count + width > max {
            text.push_str("...");
            break;
        }
        count += width;
        match escaped {
            None => text.push(c),
            Some(escaped) => text.push_str(&escaped),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        let text = printable("a\u{1b}[2J\u{9b}\u{202e}\u{7f}\"'\\\tb", 100);
        assert_eq!(text, "a\\u{1b}[2J\\u{9b}\\u{202e}\\u{7f}\"'\\ b");
        assert_eq!(printable("Café ●", 100), "Café ●");
        assert_eq!(printable("abcdef", 3), "abc...");
    }
}
