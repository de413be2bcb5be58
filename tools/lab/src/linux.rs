//! `lab linux`: shows stock Linux as a guest of the monitor, on the machine itself where its
//! processor has virtualization, else in the lab.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::outer::Outer;
use crate::programs::Programs;
use crate::protocol::{Event, Request};
use crate::run::Logs;
use crate::setup::Images;

/// The test program's demonstration: no test, but it needs the same things.
const DEMO: &str = "demo";
const TIMEOUT_S: u64 = 240;

/// Runs the demonstration and prints all it says.
pub fn show(images: &Images, programs: &Programs, logs: &Path) -> Result<()> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    if has_virtualization(&cpuinfo) {
        println!("this processor has hardware virtualization: booting Linux on /dev/kvm");
        return on_this_machine(images, programs, logs);
    }
    println!("this processor has no hardware virtualization (neither vmx nor svm)");
    println!("starting an outer machine that emulates one: QEMU with Debian's kernel");
    in_the_lab(images, programs, logs)
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

fn on_this_machine(images: &Images, programs: &Programs, logs: &Path) -> Result<()> {
    fs::create_dir_all(logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let mut demo = Command::new(&programs.tests);
    demo.arg(DEMO).arg("--monitor").arg(&programs.monitor);
    demo.arg("--images")
        .arg(images.guest())
        .arg("--logs")
        .arg(logs)
        .stdin(Stdio::null());
    let status = demo
        .status()
        .with_context(|| format!("cannot run {}", programs.tests.display()))?;
    ensure!(status.success(), "the demonstration failed: {status}");
    Ok(())
}

fn in_the_lab(images: &Images, programs: &Programs, logs: &Path) -> Result<()> {
    let started = Instant::now();
    let logs = Logs::at(logs)?;
    let kept = logs.start(DEMO)?;
    let initramfs = programs.append_to(&images.outer_initramfs())?;
    let mut outer = Outer::boot(images, &initramfs, logs.console(0))?;
    println!(
        "outer machine up after {:.1} s; its /dev/kvm is complete",
        started.elapsed().as_secs_f64()
    );

    let request = Request::Run {
        arguments: vec![DEMO.to_owned()],
        timeout_s: TIMEOUT_S,
    };
    let failure = outer.run(&request, |frame| {
        if frame.message == Event::Output {
            io::stdout().write_all(&frame.bytes)?;
            io::stdout().flush()?;
        }
        kept.keep(frame)
    })?;
    if let Some(failure) = failure {
        bail!(
            "the demonstration failed: {failure}; its logs are beside {}",
            logs.output(DEMO).display()
        );
    }
    println!(
        "stock Linux booted, worked and shut down in {:.1} s",
        started.elapsed().as_secs_f64()
    );
    Ok(())
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
