//! What tests ask of the machine around the microVM. Needs root.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Runs a program that must succeed; returns what it printed.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The SHA-256 of a file, in hexadecimal.
pub fn sha256(path: &Path) -> Result<String> {
    let line = run("sha256sum", &[text(path)?])?;
    Ok(line
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned())
}

/// Mounts a file system image, read-only, while `look` looks at it.
pub fn with_mounted<T>(image: &Path, look: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let at = tempfile::tempdir()?;
    run("mount", &["-o", "loop,ro", text(image)?, text(at.path())?])?;
    let result = look(at.path());
    run("umount", &[text(at.path())?])?;
    result
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
