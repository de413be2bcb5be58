//! `lab linux`: shows stock Linux as a guest of the monitor, on the machine itself where its
//! processor has virtualization, else in the lab.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::leftovers::Leftovers;
use crate::outer::Outer;
use crate::programs::Programs;
use crate::protocol::{Event, Request};
use crate::run::Logs;
use crate::screen::{Screen, time};
use crate::setup::Images;
use crate::transcript::Transcript;

/// The test program's demonstration: no test, but it needs the same things.
const DEMO: &str = "demo";
const TIMEOUT_S: u64 = 240;

/// What the demonstration works with.
pub struct Demo<'a> {
    /// What it boots.
    pub images: &'a Images,
    /// The monitor, and the program that drives it.
    pub programs: &'a Programs,
    /// Where everything is kept that it prints.
    pub logs: &'a Path,
    /// What must be gone in the end.
    pub leftovers: &'a Leftovers,
    /// Where it is shown.
    pub screen: &'a Screen,
}

impl Demo<'_> {
    /// Boots stock Linux, runs commands in it, and shuts it down.
    ///
    /// # Errors
    /// When anything is not as it should be.
    pub fn show(&self) -> Result<()> {
        let started = Instant::now();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
        if has_virtualization(&cpuinfo) {
            self.screen
                .note("this processor has hardware virtualization: Linux boots on /dev/kvm");
            self.on_this_machine()?;
        } else {
            self.screen
                .note("this processor has no hardware virtualization (neither vmx nor svm):");
            self.screen
                .note("QEMU emulates one that has; inside, the monitor finds a complete /dev/kvm");
            self.in_the_lab()?;
        }
        self.screen.done(&format!(
            "stock Linux booted, worked and shut down in {}; all it printed is in {}",
            time(started.elapsed()),
            self.logs.display()
        ));
        Ok(())
    }

    fn on_this_machine(&self) -> Result<()> {
        fs::create_dir_all(self.logs)
            .with_context(|| format!("cannot create {}", self.logs.display()))?;
        let mut command = Command::new(&self.programs.tests);
        command
            .arg(DEMO)
            .arg("--monitor")
            .arg(&self.programs.monitor);
        command.arg("--images").arg(self.images.guest());
        command.arg("--logs").arg(self.logs);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = self.leftovers.spawn(&mut command)?;
        let output = process.child().stdout.take();
        let mut output = output.context("the test program was started without a pipe")?;
        let mut transcript = Transcript::new(self.screen);
        let mut chunk = [0; 4096];
        while let count @ 1.. = output.read(&mut chunk)? {
            transcript.add(&chunk[..count]);
        }
        let status = process.wait(Duration::from_secs(TIMEOUT_S))?;
        ensure!(status.success(), "the demonstration failed: {status}");
        Ok(())
    }

    fn in_the_lab(&self) -> Result<()> {
        let started = Instant::now();
        let logs = Logs::at(self.logs)?;
        let kept = logs.start(DEMO)?;
        let initramfs = self.programs.append_to(&self.images.outer_initramfs())?;
        let mut outer = Outer::boot(self.images, &initramfs, logs.console(0))?;
        self.screen.done(&format!(
            "the emulated machine is up after {}",
            time(started.elapsed())
        ));

        let request = Request::Run {
            arguments: vec![DEMO.to_owned()],
            timeout_s: TIMEOUT_S,
        };
        let mut transcript = Transcript::new(self.screen);
        let failure = outer.run(&request, |frame| {
            if frame.message == Event::Output {
                transcript.add(&frame.bytes);
            }
            kept.keep(frame)
        })?;
        if let Some(failure) = failure {
            bail!(
                "the demonstration failed: {failure}; its logs are beside {}",
                logs.output(DEMO).display()
            );
        }
        Ok(())
    }
}

/// Whether `/proc/cpuinfo` shows Intel's or AMD's virtualization.
fn has_virtualization(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("flags")?.split_once(':'))
        .any(|(_, flags)| {
            flags
                .split_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_flag_counts() {
        assert!(has_virtualization(
            "processor\t: 0\nflags\t\t: fpu vmx sse\n"
        ));
        assert!(has_virtualization("flags\t\t: svm\n"));
        assert!(!has_virtualization(
            "flags\t\t: fpu svm_lock\nvmx flags\t: ept\n"
        ));
    }
}
