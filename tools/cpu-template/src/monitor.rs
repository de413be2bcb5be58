//! The monitor of this host: what its guests find.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use vm_config::CpuConfig;

/// What a guest of this host finds, with the template `applied`: the path of one, or a name.
pub(crate) fn dump(monitor: &Path, applied: Option<&str>) -> Result<CpuConfig> {
    let mut arguments = vec!["--print-cpu-template"];
    if let Some(applied) = applied {
        arguments.extend(["--cpu-template", applied]);
    }
    let text = output(monitor, &arguments)?;
    serde_json::from_str(&text).with_context(|| format!("{monitor:?} printed no CPU template"))
}

/// What the monitor says it is.
pub(crate) fn version(monitor: &Path) -> Result<String> {
    let text = output(monitor, &["--version"])?;
    let line = text.lines().find(|line| line.starts_with("Cloister "));
    Ok(line.or(text.lines().next()).unwrap_or_default().to_owned())
}

fn output(monitor: &Path, arguments: &[&str]) -> Result<String> {
    let ran = Command::new(monitor).args(arguments).output();
    let ran = ran.with_context(|| {
        format!("cannot run {monitor:?}; name the monitor's program with --monitor")
    })?;
    if !ran.status.success() {
        let why = String::from_utf8_lossy(&ran.stderr);
        bail!("{monitor:?}: {}", why.trim().trim_start_matches("Error: "));
    }
    String::from_utf8(ran.stdout).with_context(|| format!("{monitor:?} printed no text"))
}
