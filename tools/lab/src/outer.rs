//! One outer machine: Debian's kernel in QEMU, whose emulated processor has virtualization.
//!
//! QEMU's own stdin and stdout are the channel to the agent, as a virtio serial port; its serial
//! port goes to a file. `setpriv` makes the kernel kill QEMU with the thread that started it,
//! so no machine outlives this program, however it ends.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::protocol::{self, Event, Frame, Request};
use crate::setup::{Images, find_program};

/// All that QEMU emulates, but for 5-level page tables and XSAVE. A guest's XSETBV is not intercepted by the
/// emulated virtualization, so the kernel inside would take it back at the next exit and the guest lose its
/// registers; guests then use FXSAVE, as on a processor that never had XSAVE.
const CPU: &str = "max,la57=off,xsave=off";

/// Enough for four guests; pages never touched cost nothing.
const MEMORY_MIB: u32 = 4096;
/// Boots in 5 s on an idle machine.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);
/// The agent ends a test in time; this much later the machine itself must be stuck.
const GRACE: Duration = Duration::from_secs(20);

const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 loglevel=5 panic=-1 mitigations=off tsc=reliable random.trust_cpu=on";

/// A running outer machine. Dropping it ends it.
pub struct Outer {
    qemu: Child,
    requests: ChildStdin,
    events: Receiver<Frame<Event>>,
    console: PathBuf,
}

impl Outer {
    /// Boots a machine and waits until its agent is ready.
    ///
    /// # Errors
    /// When QEMU does not start or the machine does not get that far; then with the end of
    /// what it wrote to its console.
    pub fn boot(images: &Images, initramfs: &File, console: PathBuf) -> Result<Self> {
        let mut qemu = qemu(images, initramfs, &console)?
            .spawn()
            .context("cannot start setpriv, which starts QEMU")?;
        let (Some(requests), Some(stdout)) = (qemu.stdin.take(), qemu.stdout.take()) else {
            bail!("QEMU was started without pipes");
        };
        let events = forward_events(stdout);
        let outer = Self {
            qemu,
            requests,
            events,
            console,
        };
        match outer.next_event(Instant::now() + BOOT_TIMEOUT)?.message {
            Event::Ready => Ok(outer),
            other => bail!("the agent said {other:?} before it was ready"),
        }
    }

    /// Runs the test program once and hands each event to `on_event`.
    /// Returns why the test failed, if it did.
    ///
    /// # Errors
    /// When the machine dies or hangs; it is of no further use.
    pub fn run(
        &mut self,
        request: &Request,
        mut on_event: impl FnMut(&Frame<Event>) -> Result<()>,
    ) -> Result<Option<String>> {
        let Request::Run { timeout_s, .. } = request;
        let deadline = Instant::now() + Duration::from_secs(*timeout_s) + GRACE;
        protocol::send(&mut self.requests, request, b"").context("the outer machine is gone")?;
        loop {
            let frame = self.next_event(deadline)?;
            on_event(&frame)?;
            if let Event::Finished { failure } = frame.message {
                return Ok(failure);
            }
        }
    }

    fn next_event(&self, deadline: Instant) -> Result<Frame<Event>> {
        let left = deadline.saturating_duration_since(Instant::now());
        let reason = match self.events.recv_timeout(left) {
            Ok(frame) => return Ok(frame),
            Err(RecvTimeoutError::Timeout) => "the outer machine hangs",
            Err(RecvTimeoutError::Disconnected) => "the outer machine died",
        };
        bail!(
            "{reason}; its console ends with:\n{}",
            tail(&self.console, 30)
        )
    }
}

impl Drop for Outer {
    fn drop(&mut self) {
        // It has no state worth a shutdown. Errors mean that it is gone already.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// The last lines of a text file, as far as it can be read.
pub fn tail(path: &Path, lines: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).replace('\r', "");
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Reads frames until QEMU ends or the channel breaks; both show as a disconnected receiver.
fn forward_events(mut stdout: ChildStdout) -> Receiver<Frame<Event>> {
    let (sender, events) = mpsc::channel();
    thread::spawn(move || {
        while let Ok(Some(frame)) = protocol::receive(&mut stdout) {
            if sender.send(frame).is_err() {
                break;
            }
        }
    });
    events
}

fn qemu(images: &Images, initramfs: &File, console: &Path) -> Result<Command> {
    let program = find_program("qemu-system-x86_64").context("qemu-system-x86_64 is missing")?;
    ensure!(
        find_program("setpriv").is_some(),
        "setpriv is missing; install util-linux"
    );
    let with_path = |before: &str, path: &Path, after: &str| {
        let mut option = OsString::from(before);
        option.push(path);
        option.push(after);
        option
    };
    // The file has no name; QEMU reaches it through this process.
    let initramfs = format!("/proc/{}/fd/{}", std::process::id(), initramfs.as_raw_fd());

    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    // One CPU: with more, the emulation of nested guests was seen to fail now and then.
    command.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-smp", "1"]);
    command.args(["-cpu", CPU, "-m", &format!("{MEMORY_MIB}M")]);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot"]);
    command.args(["-display", "none", "-monitor", "none"]);
    command.arg("-serial").arg(with_path("file:", console, ""));
    command
        .arg("-kernel")
        .arg(images.outer_kernel())
        .arg("-initrd")
        .arg(initramfs);
    command.args(["-append", KERNEL_ARGUMENTS]);
    command.args([
        "-device",
        "virtio-serial-pci",
        "-chardev",
        "stdio,id=agent,signal=off",
    ]);
    command.args(["-device", "virtserialport,chardev=agent"]);
    let disk = with_path(
        "if=none,id=images,format=raw,read-only=on,file=",
        &images.images_disk(),
        "",
    );
    command
        .arg("-drive")
        .arg(disk)
        .args(["-device", "virtio-blk-pci,drive=images"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_short_file_is_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "a\r\nb\r\nc\r\n").unwrap();
        assert_eq!(tail(file.path(), 2), "b\nc");
        assert_eq!(tail(file.path(), 9), "a\nb\nc");
        assert_eq!(tail(Path::new("/nonexistent"), 9), "");
    }
}
