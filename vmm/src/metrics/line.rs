//! One line of the metrics file: a JSON object of every group.
//!
//! It is made in memory that is there already, because a signal handler makes one too.

use std::io::{self, Cursor, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use devices::metrics::{About, Kind, Unit};

use super::registry::{Numbers, Registry, Section, Show};

/// The most characters of a number, and of the punctuation around it.
const NUMBER: usize = 24;
/// The most characters of what stands around the groups.
const FRAME: usize = 64;

/// Writes the line for what `registry` read last; `head` stands behind the time. Gives its length.
///
/// # Errors
/// When it does not fit: `into` has less than [`max_len`].
pub(super) fn write(registry: &Registry, head: &str, into: &mut [u8]) -> io::Result<usize> {
    let mut line = Cursor::new(into);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ms = now.unwrap_or_default().as_millis();
    write!(line, "{{\"utc_timestamp_ms\":{now_ms}{head}")?;
    for section in &registry.sections {
        let about = section.shape.about;
        if section.shape.show != Show::Sum {
            for source in &section.sources {
                write_group(&mut line, &source.key, about, &source.numbers)?;
            }
        }
        if section.shape.show != Show::Each {
            write_group(&mut line, &section.key, about, &section.sum)?;
        }
    }
    line.write_all(b"}\n")?;
    // A slice is no longer than that.
    Ok(usize::try_from(line.position()).unwrap_or(usize::MAX))
}

fn write_group(
    line: &mut impl Write,
    key: &str,
    about: &About,
    numbers: &Numbers,
) -> io::Result<()> {
    write!(line, ",{key}:{{")?;
    let mut values = numbers.now.iter().zip(&numbers.sent);
    let mut comma = "";
    for field in about.fields {
        write!(line, "{comma}\"{}\":", field.key)?;
        comma = ",";
        let mut start = "{";
        for (part, (now, sent)) in field.parts.iter().zip(values.by_ref()) {
            let value = shown(part.kind, field.unit, *now, *sent);
            match part.key {
                None => write!(line, "{value}")?,
                Some(key) => write!(line, "{start}\"{key}\":{value}")?,
            }
            start = ",";
        }
        if field.parts.iter().any(|part| part.key.is_some()) {
            line.write_all(b"}")?;
        }
    }
    line.write_all(b"}")
}

/// A number as a line has it.
fn shown(kind: Kind, unit: Unit, now: u64, sent: u64) -> u64 {
    let scaled = |number: u64| match unit {
        Unit::Nanos => number / 1000,
        Unit::Count | Unit::Bytes | Unit::Micros => number,
    };
    match kind {
        Kind::Counter => scaled(now).wrapping_sub(scaled(sent)),
        Kind::Total | Kind::Store | Kind::Min | Kind::Max => scaled(now),
    }
}

/// The length that no line of `registry` exceeds.
pub(super) fn max_len(registry: &Registry, head: &str) -> usize {
    let groups = registry.sections.iter().map(section_len);
    FRAME + head.len() + groups.sum::<usize>()
}

fn section_len(section: &Section) -> usize {
    let about = section.shape.about;
    let fields = about.fields.iter().map(|field| {
        let parts = field
            .parts
            .iter()
            .map(|part| part.key.map_or(0, str::len) + NUMBER);
        field.key.len() + NUMBER + parts.sum::<usize>()
    });
    let numbers = fields.sum::<usize>() + NUMBER;
    let keys = section
        .sources
        .iter()
        .map(|source| source.key.len() + numbers);
    keys.sum::<usize>() + section.key.len() + numbers
}
