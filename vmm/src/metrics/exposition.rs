//! `GET /metrics`: everything counted so far, in the text format of OpenMetrics 1.0.
//!
//! A metric `key` of the group `group` is the family `cloister_<group>_<key>`, with these changes: `_count`, `_us` and
//! `_agg` at the end of a key go; a family in bytes ends in `_bytes`, one in time in `_seconds`. Of a latency, the sum
//! is a counter, and the extremes are gauges with `_min` and `_max`.

use std::borrow::Cow;
use std::fmt::{self, Write};

use devices::metrics::{About, Field, Kind, Part, Unit};

use super::gauges::Gauges;
use super::registry::{Registry, Section};
use crate::Lifecycle;

/// The format's name (OpenMetrics 1.0, "Protocol Negotiation").
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Who answers.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The microVM's name.
    pub id: String,
    /// The monitor's version.
    pub version: &'static str,
    /// The level of the interface.
    pub api_level: &'static str,
}

/// All of it. Reads the numbers of `registry` anew.
pub(super) fn text(
    registry: &mut Registry,
    instance: &Instance,
    lifecycle: Lifecycle,
    gauges: &Gauges,
) -> String {
    registry.read();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_all(&mut text, registry, instance, lifecycle, gauges);
    text
}

fn write_all(
    text: &mut String,
    registry: &Registry,
    instance: &Instance,
    lifecycle: Lifecycle,
    gauges: &Gauges,
) -> fmt::Result {
    write_instance(text, instance)?;
    write_state(text, lifecycle)?;
    for group in gauges.groups() {
        let about = group.about();
        let mut numbers = vec![0; about.len()];
        group.read(&mut numbers);
        write_group(text, about, &[(None, &numbers)])?;
    }
    for section in &registry.sections {
        write_section(text, section)?;
    }
    text.write_str("# EOF\n")
}

fn write_instance(text: &mut String, instance: &Instance) -> fmt::Result {
    let Instance {
        id,
        version,
        api_level,
    } = instance;
    writeln!(text, "# TYPE cloister_vm info")?;
    writeln!(
        text,
        "# HELP cloister_vm The microVM's name, the monitor's version and the level of its interface."
    )?;
    let (id, version, api_level) = (escaped(id), escaped(version), escaped(api_level));
    writeln!(
        text,
        "cloister_vm_info{{id=\"{id}\",version=\"{version}\",api_level=\"{api_level}\"}} 1"
    )
}

fn write_state(text: &mut String, lifecycle: Lifecycle) -> fmt::Result {
    writeln!(text, "# TYPE cloister_vm_state stateset")?;
    writeln!(text, "# HELP cloister_vm_state What the microVM is doing.")?;
    for (state, name) in [
        (Lifecycle::NotStarted, "not_started"),
        (Lifecycle::Running, "running"),
        (Lifecycle::Paused, "paused"),
    ] {
        let is_so = u8::from(state == lifecycle);
        writeln!(
            text,
            "cloister_vm_state{{cloister_vm_state=\"{name}\"}} {is_so}"
        )?;
    }
    Ok(())
}

fn write_section(text: &mut String, section: &Section) -> fmt::Result {
    let about = section.shape.about;
    let Some(label) = section.shape.label else {
        return write_group(text, about, &[(None, &section.sum.now)]);
    };
    let sources = section.sources.iter().map(|source| {
        let name = source.name.as_str();
        (Some((label, name)), &*source.numbers.now)
    });
    write_group(text, about, &sources.collect::<Vec<_>>())
}

/// A source's label and its numbers.
type Labelled<'a> = (Option<(&'a str, &'a str)>, &'a [u64]);

fn write_group(text: &mut String, about: &About, sources: &[Labelled<'_>]) -> fmt::Result {
    if sources.is_empty() {
        return Ok(());
    }
    let parts = about
        .fields
        .iter()
        .flat_map(|field| field.parts.iter().map(move |part| (field, part)));
    for (index, (field, part)) in parts.enumerate() {
        let family = write_head(text, about, field, part)?;
        let total = if is_counter(part.kind) { "_total" } else { "" };
        for (label, numbers) in sources {
            write!(text, "{family}{total}")?;
            if let Some((name, value)) = label {
                write!(text, "{{{name}=\"{}\"}}", escaped(value))?;
            }
            writeln!(text, " {}", Value(numbers[index], field.unit))?;
        }
    }
    Ok(())
}

/// Writes the lines that describe a family; gives its name.
fn write_head(
    text: &mut String,
    about: &About,
    field: &Field,
    part: &Part,
) -> Result<String, fmt::Error> {
    let family = family(about, field, part);
    let kind = if is_counter(part.kind) {
        "counter"
    } else {
        "gauge"
    };
    writeln!(text, "# TYPE {family} {kind}")?;
    if let Some(unit) = unit(field.unit) {
        writeln!(text, "# UNIT {family} {unit}")?;
    }
    let which = match part.kind {
        Kind::Min => "Shortest so far. ",
        Kind::Max => "Longest so far. ",
        Kind::Counter | Kind::Total | Kind::Store => "",
    };
    writeln!(
        text,
        "# HELP {family} {which}{}",
        escaped(field.help.trim())
    )?;
    Ok(family)
}

/// The name of a family.
pub(super) fn family(about: &About, field: &Field, part: &Part) -> String {
    let group = without(about.key, "_us");
    let key = without(without(without(field.key, "_count"), "_us"), "_agg");
    let which = match part.kind {
        Kind::Min => "_min",
        Kind::Max => "_max",
        Kind::Counter | Kind::Total | Kind::Store => "",
    };
    let unit = match unit(field.unit) {
        Some(unit) if !key.ends_with(unit) => format!("_{unit}"),
        _ => String::new(),
    };
    format!("cloister_{group}_{key}{which}{unit}")
}

fn without<'a>(text: &'a str, suffix: &str) -> &'a str {
    text.strip_suffix(suffix).unwrap_or(text)
}

fn is_counter(kind: Kind) -> bool {
    matches!(kind, Kind::Counter | Kind::Total)
}

/// Base units only (OpenMetrics 1.0, "Units and Base Units").
fn unit(unit: Unit) -> Option<&'static str> {
    match unit {
        Unit::Count => None,
        Unit::Bytes => Some("bytes"),
        Unit::Micros | Unit::Nanos => Some("seconds"),
    }
}

/// A number in its base unit.
struct Value(u64, Unit);

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0;
        match self.1 {
            Unit::Count | Unit::Bytes => write!(f, "{number}"),
            Unit::Micros => write!(f, "{}.{:06}", number / 1_000_000, number % 1_000_000),
            Unit::Nanos => write!(
                f,
                "{}.{:09}",
                number / 1_000_000_000,
                number % 1_000_000_000
            ),
        }
    }
}

/// For quotes and for help (OpenMetrics 1.0, "ABNF", `escaped-char`).
fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['\\', '"', '\n']) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 2);
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            other => escaped.push(other),
        }
    }
    escaped.into()
}
