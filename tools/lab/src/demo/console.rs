//! The guest's serial console: the monitor's standard output, as lines.

use std::io::Read;
use std::process::ChildStdout;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A line, and when its first byte came.
pub struct Line {
    pub at: Instant,
    pub text: String,
}

impl Line {
    /// The value of the word `key=value`.
    pub fn value(&self, key: &str) -> Result<&str> {
        self.text
            .split_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
            .with_context(|| format!("the guest said no {key}=: {:?}", self.text))
    }
}

/// Lines read by a thread of their own, so that their times are right.
pub struct Console {
    lines: Receiver<Line>,
}

impl Console {
    /// Reads until the other end closes.
    pub fn new(output: ChildStdout) -> Self {
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || forward(output, &sender));
        Self { lines }
    }

    /// The next line.
    pub fn next(&self, limit: Duration) -> Result<Line> {
        self.lines
            .recv_timeout(limit)
            .context("the guest says nothing more")
    }
}

fn forward(mut output: impl Read, lines: &Sender<Line>) {
    let mut chunk = [0; 4096];
    let mut line: Option<(Instant, Vec<u8>)> = None;
    while let Ok(count @ 1..) = output.read(&mut chunk) {
        let at = Instant::now();
        for &byte in &chunk[..count] {
            let (_, bytes) = line.get_or_insert_with(|| (at, Vec::new()));
            if byte != b'\n' {
                bytes.push(byte);
            } else if let Some((at, bytes)) = line.take() {
                let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                if lines.send(Line { at, text }).is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_values_found() {
        let (sender, lines) = mpsc::channel();
        forward(&b"one\r\ntwo a=1 b=x\nunfinished"[..], &sender);
        drop(sender);
        let lines: Vec<_> = lines.iter().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].text, "one");
        assert_eq!(lines[1].value("b").unwrap(), "x");
        assert!(lines[1].value("c").is_err());
    }
}
