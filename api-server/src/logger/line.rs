//! The form of a line: `<time> [<id>:<thread>[:<LEVEL>][:<file>:<line>]] <message>`.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata};
use vm_config::InstanceId;

use super::{Rules, clock};

/// The line for `event`, with its line end. Whatever the message contains, it is one line.
pub(super) fn make(event: &Event<'_>, rules: &Rules, id: Option<&InstanceId>) -> String {
    let mut line = String::with_capacity(160);
    let metadata = event.metadata();
    // Writing to a `String` cannot fail.
    let _ = write_head(&mut line, *metadata.level(), metadata, rules, id);
    event.record(&mut Message(&mut line));
    line.push('\n');
    line
}

/// The line that tells of `count` lines which were left out, of those that come from where `metadata` says.
pub(super) fn suppressed(
    count: u64,
    metadata: &Metadata<'_>,
    rules: &Rules,
    id: Option<&InstanceId>,
) -> String {
    let mut line = String::with_capacity(160);
    let _ = write_head(&mut line, Level::WARN, metadata, rules, id);
    let _ = writeln!(
        line,
        "{count} messages were suppressed due to rate limiting"
    );
    line
}

fn write_head(
    line: &mut String,
    level: Level,
    metadata: &Metadata<'_>,
    rules: &Rules,
    id: Option<&InstanceId>,
) -> fmt::Result {
    let id = id.map_or("anonymous-instance", InstanceId::as_str);
    let thread = std::thread::current();
    write!(
        line,
        "{} [{id}:{}",
        clock::now(),
        thread.name().unwrap_or("-")
    )?;
    if rules.has_level {
        write!(line, ":{level}")?;
    }
    if let (true, Some(file), Some(at)) = (rules.has_origin, metadata.file(), metadata.line()) {
        write!(line, ":{file}:{at}")?;
    }
    line.push_str("] ");
    Ok(())
}

/// Appends the message as it is and every other field as ` name=value`.
struct Message<'a>(&'a mut String);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = OneLine(self.0);
        let _ = match field.name() {
            "message" => write!(text, "{value:?}"),
            name => write!(text, " {name}={value:?}"),
        };
    }
}

/// Escapes line ends, and whatever else would move a terminal's cursor.
struct OneLine<'a>(&'a mut String);

impl Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let is_escaped = |c: char| c.is_control() && c != '\t';
        let mut rest = text;
        while let Some(at) = rest.find(is_escaped) {
            let (plain, from) = rest.split_at(at);
            self.0.push_str(plain);
            let mut chars = from.chars();
            let control = chars.next().into_iter();
            self.0.extend(control.flat_map(char::escape_default));
            rest = chars.as_str();
        }
        self.0.push_str(rest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_escaped() {
        for (text, written) in [
            ("a\n\nb\nc", "a\\n\\nb\\nc"),
            ("tab\tand ünïcode", "tab\tand ünïcode"),
            ("\r\x1b[2J\0\u{9b}", "\\r\\u{1b}[2J\\u{0}\\u{9b}"),
            ("", ""),
        ] {
            let mut line = String::new();
            OneLine(&mut line).write_str(text).unwrap();
            assert_eq!(line, written);
        }
    }
}
