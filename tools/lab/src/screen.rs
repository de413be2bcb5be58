//! What people see: headings, commands, requests and answers, the guest's console, results.

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use serde_json::Value;

/// A body longer than this is spread over lines of about this length.
const LONG: usize = 96;
/// Width of the name of a figure.
const NAME: usize = 36;

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const CYAN: &str = "36";

/// Prints in colour where that is wanted: on a terminal, without `NO_COLOR`.
pub struct Screen {
    has_colour: bool,
    sections: u32,
}

impl Screen {
    /// Looks at where the output goes.
    pub fn new() -> Self {
        Self {
            has_colour: stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            sections: 0,
        }
    }

    /// Begins the next part.
    pub fn heading(&mut self, title: &str) {
        self.sections += 1;
        let text = format!("{}. {title}", self.sections);
        println!("\n{}", self.in_style(BOLD, &text));
    }

    /// A command that is run on the host.
    pub fn command(&self, line: &str) {
        println!("  $ {line}");
    }

    /// A request, as it is sent.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) {
        let line = self.in_style(CYAN, &format!("> {method} {path}"));
        let body = body.map(|body| format!(" {}", shown(body)));
        println!("  {line}{}", body.unwrap_or_default());
    }

    /// Its answer.
    pub fn answer(&self, status: u16, body: Option<&Value>, took: Duration) {
        let status = self.in_style(CYAN, &format!("< {status}"));
        let took = self.in_style(DIM, &format!("({})", time(took)));
        let body = body.map(|body| format!(" {}", shown(body)));
        println!("  {status}{} {took}", body.unwrap_or_default());
    }

    /// A line of the guest's console.
    pub fn guest(&self, line: &str) {
        println!("  {} {line}", self.in_style(DIM, "guest |"));
    }

    /// What happens, or was left out.
    pub fn note(&self, text: &str) {
        println!("  {}", self.in_style(DIM, text));
    }

    /// Something that was measured or compared, and is as it should be.
    pub fn done(&self, text: &str) {
        println!("  {} {text}", self.in_style(GREEN, "ok"));
    }

    /// A figure.
    pub fn figure(&self, name: &str, value: &str, how: &str) {
        let value = self.in_style(BOLD, &format!("{value:>10}"));
        println!("  {name:<NAME$}{value}   {}", self.in_style(DIM, how));
    }

    fn in_style(&self, style: &str, text: &str) -> String {
        if self.has_colour {
            format!("\x1b[{style}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// A duration with three digits that mean something.
pub fn time(duration: Duration) -> String {
    let us = duration.as_secs_f64() * 1e6;
    let (value, unit) = match us {
        ..1e3 => (us, "us"),
        ..1e6 => (us / 1e3, "ms"),
        _ => (us / 1e6, "s"),
    };
    let digits = match value {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// JSON on one line, or its fields over several where that would be too long.
fn shown(body: &Value) -> String {
    let line = body.to_string();
    let Some(fields) = body.as_object().filter(|_| line.len() > LONG) else {
        return line;
    };
    let mut text = "{".to_owned();
    let mut room = 0;
    for (index, (key, value)) in fields.iter().enumerate() {
        let comma = if index + 1 < fields.len() { "," } else { "" };
        let field = format!("\"{key}\": {value}{comma}");
        if room < field.len() {
            text += "\n     ";
            room = LONG;
        }
        text += " ";
        text += &field;
        room = room.saturating_sub(field.len() + 1);
    }
    text + "\n    }"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_have_a_fitting_unit() {
        assert_eq!(time(Duration::from_nanos(61_400)), "61.4 us");
        assert_eq!(time(Duration::from_micros(3_141)), "3.14 ms");
        assert_eq!(time(Duration::from_millis(300)), "300 ms");
        assert_eq!(time(Duration::from_millis(21_400)), "21.4 s");
    }

    #[test]
    fn long_bodies_are_spread_over_lines() {
        assert_eq!(shown(&json!({"a": 1})), r#"{"a":1}"#);
        let long = json!({"a": "x".repeat(LONG), "b": 2, "c": 3});
        assert!(shown(&long).ends_with("\n      \"b\": 2, \"c\": 3\n    }"));
    }
}
