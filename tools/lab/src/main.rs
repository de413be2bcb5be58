//! `lab`: runs stock Linux guests on any machine, also where the processor has no virtualization.
//!
//! QEMU emulates a processor that has it and boots Debian's kernel, the *outer machine*. Inside,
//! the monitor under test finds a complete `/dev/kvm` and boots the same stock kernel as its
//! *guest*. Everything but the programs under test comes from Debian packages.

mod setup;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Runs stock Linux guests on any machine: QEMU outside, the monitor under test inside.
#[derive(Parser)]
#[command(name = "lab", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Installs, downloads and builds what the lab boots; does nothing when all is there.
    Setup,
}

fn main() -> ExitCode {
    match execute(&Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(verb: &Verb) -> Result<()> {
    match verb {
        Verb::Setup => {
            let images = setup::images(&cache())?;
            println!("the lab is set up: {}", images.guest().display());
            Ok(())
        }
    }
}

/// Where the lab keeps what it made. It survives everything but `cargo clean`.
fn cache() -> PathBuf {
    env::var_os("CLOISTER_LAB_CACHE").map_or_else(|| target_directory().join("lab"), PathBuf::from)
}

/// Cargo's target directory: the one that this program lies in, else `target`.
fn target_directory() -> PathBuf {
    env::current_exe()
        .ok()
        .and_then(|own| {
            // Cargo marks the target directory and each architecture's inside it.
            own.ancestors()
                .filter(|path| path.join("CACHEDIR.TAG").is_file())
                .last()
                .map(Path::to_owned)
        })
        .unwrap_or_else(|| PathBuf::from("target"))
}
