//! The form of a line: `<time> [<id>:<thread>[:<LEVEL>][:<file>:<line>]] <message>`.

use std::fmt::{self, Write};

use tracing::Event;
use tracing::field::{Field, Visit};
use vm_config::InstanceId;

use super::{Rules, clock};

/// The line for `event`, with its line end. Whatever the message contains, it is one line.
pub(super) fn make(event: &Event<'_>, rules: &Rules, id: Option<&InstanceId>) -> String {
    let mut line = String::with_capacity(160);
    // Writing to a `String` cannot fail.
    let _ = write_head(&mut line, event, rules, id);
    event.record(&mut Message(&mut line));
    line.push('\n');
    line
}

fn write_head(
    line: &mut String,
    event: &Event<'_>,
    rules: &Rules,
    id: Option<&InstanceId>,
) -> fmt::Result {
    let metadata = event.metadata();
    let id = id.map_or("anonymous-instance", InstanceId::as_str);
    let thread = std::thread::current();
    write!(
        line,
        "{} [{id}:{}",
        clock::now(),
        thread.name().unwrap_or("-")
    )?;
    if rules.has_level {
        write!(line, ":{}", metadata.level())?;
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

/// Escapes line ends.
struct OneLine<'a>(&'a mut String);

impl Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut pieces = text.split('\n');
        self.0.push_str(pieces.next().unwrap_or_default());
        for piece in pieces {
            self.0.push_str("\\n");
            self.0.push_str(piece);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_are_escaped() {
        let mut line = String::new();
        OneLine(&mut line).write_str("a\n\nb\nc").unwrap();
        assert_eq!(line, "a\\n\\nb\\nc");
    }
}
