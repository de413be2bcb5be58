//! The terminal on standard input: raw while a guest has the console, as it was on every way out.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use rustix::process::getpgrp;
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

/// The settings to go back to, once they were changed.
static ORIGINAL: OnceLock<Termios> = OnceLock::new();

/// Whether standard input is the terminal of this process's session, and another process group has it now: a shell
/// started this one with `&`. A terminal of no session or of another one stops nobody.
pub fn is_in_background() -> bool {
    tcgetpgrp(stdin()).is_ok_and(|foreground| foreground != getpgrp())
}

/// Puts the terminal on standard input, if it is one, into raw mode: every key goes to the guest.
///
/// # Errors
/// When the terminal refuses.
pub fn make_raw() -> io::Result<()> {
    if !io::stdin().is_terminal() {
        return Ok(());
    }
    let original = tcgetattr(stdin())?;
    let mut raw = original.clone();
    raw.make_raw();
    // Output stays processed: the log shares the terminal and ends its lines with `\n` alone.
    raw.output_modes = original.output_modes;
    ORIGINAL.get_or_init(|| original);
    tcsetattr(stdin(), OptionalActions::Now, &raw)?;
    Ok(())
}

/// Puts the terminal back as it was. Does nothing when it was never changed. Safe in a signal handler: it takes
/// no lock and allocates nothing.
pub fn restore() {
    if let Some(original) = ORIGINAL.get() {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(stdin(), OptionalActions::Now, original);
    }
}
