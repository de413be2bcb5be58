//! The Linux demonstration's output, with the guest's kernel log cut down to its landmarks.

use crate::screen::Screen;

/// What the test program puts before a line of the guest's console, and before a command for the guest.
const GUEST: &str = "guest| ";
const COMMAND: &str = "guest> ";
/// The guest's driver ends each answer with it (images/guest-driver.sh).
const MARK: &str = "@@ ";

/// Lines of a kernel log worth seeing.
const LANDMARKS: [&str; 11] = [
    "Linux version",
    "] Command line:",
    "Hypervisor detected",
    "] Memory:",
    "smpboot: CPU0:",
    "smp: Brought up",
    "] 00:00: ttyS0",
    "Run /init",
    "logical blocks",
    "EXT4-fs",
    "reboot:",
];
/// Longer lines of a kernel log are cut.
const WIDTH: usize = 110;

/// Shows output as it comes.
pub struct Transcript<'a> {
    screen: &'a Screen,
    unfinished: Vec<u8>,
    left_out: u32,
}

impl<'a> Transcript<'a> {
    /// Shows on this screen.
    pub fn new(screen: &'a Screen) -> Self {
        Self {
            screen,
            unfinished: Vec::new(),
            left_out: 0,
        }
    }

    /// Takes more output, cut anywhere.
    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte != b'\n' {
                self.unfinished.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.unfinished);
            self.line(String::from_utf8_lossy(&line).trim_end());
        }
    }

    fn line(&mut self, line: &str) {
        let Some(text) = line.strip_prefix(GUEST) else {
            self.tell_left_out();
            match line.strip_prefix(COMMAND) {
                Some(command) => self.screen.command(&format!("(in the guest) {command}")),
                None => self.screen.note(line),
            }
            return;
        };
        if text.starts_with(MARK) {
            self.tell_left_out();
        } else if is_kernel_log(text) && !LANDMARKS.iter().any(|mark| text.contains(mark)) {
            self.left_out += 1;
        } else if is_kernel_log(text) {
            let end = text
                .char_indices()
                .nth(WIDTH)
                .map_or(text.len(), |(at, _)| at);
            self.screen.guest(&text[..end]);
        } else {
            self.screen.guest(text);
        }
    }

    fn tell_left_out(&mut self) {
        match std::mem::take(&mut self.left_out) {
            0 => {}
            count => self.screen.note(&format!(
                "({count} more lines of its kernel log are not shown)"
            )),
        }
    }
}

/// Whether a line starts with a kernel's time stamp.
fn is_kernel_log(line: &str) -> bool {
    line.strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
        .is_some_and(|(stamp, _)| stamp.trim().parse::<f64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_log_is_told_from_other_output() {
        assert!(is_kernel_log("[    0.000000] Linux version 6.1"));
        assert!(is_kernel_log("[   12.5] x"));
        assert!(!is_kernel_log("[info] x"));
        assert!(!is_kernel_log("Mem: 219"));
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let screen = Screen::new();
        let mut transcript = Transcript::new(&screen);
        transcript.add(b"guest| [    0.1] one\nguest| [    0.2] two\nguest| [    0.3] Run /in");
        assert_eq!(transcript.left_out, 2);
        transcript.add(b"it\nguest| @@ 0 0\n");
        assert_eq!(transcript.left_out, 0);
    }
}
