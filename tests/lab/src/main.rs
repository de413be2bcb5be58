//! `lab-tests`: tests with stock Linux guests, through the monitor's public API only.
//!
//! `lab run` starts this program inside the outer machine, once for each test. It also runs by
//! hand, as root, wherever `/dev/kvm` can boot Linux.

mod console;
mod demo;
mod host;
mod kernel_log;
mod process;
mod tests;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

/// Tests with stock Linux guests.
#[derive(Parser)]
#[command(name = "lab-tests")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Prints each test's name and how many seconds it may take.
    List,
    /// Runs one test.
    Run {
        /// Its name.
        name: String,
        #[command(flatten)]
        bench: Bench,
    },
    /// Boots stock Linux and says what it does meanwhile.
    Demo {
        #[command(flatten)]
        bench: Bench,
    },
}

/// What a test works with.
#[derive(Args)]
pub struct Bench {
    /// The monitor under test.
    #[arg(long)]
    monitor: PathBuf,
    /// What guests boot: `vmlinux`, `bzImage`, `initramfs.cpio`, `root.ext4`, `tools.ext4`.
    #[arg(long)]
    images: PathBuf,
    /// Files left here come back to whoever started the test.
    #[arg(long)]
    logs: PathBuf,
}

fn main() -> ExitCode {
    match execute(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(verb: Verb) -> Result<()> {
    match verb {
        Verb::List => {
            for test in tests::ALL {
                println!("{} {}", test.name, test.timeout_s);
            }
            Ok(())
        }
        Verb::Run { name, bench } => {
            let test = tests::ALL.iter().find(|test| test.name == name);
            (test
                .with_context(|| format!("no test is called `{name}`"))?
                .run)(&bench)
        }
        Verb::Demo { bench } => demo::show(&bench),
    }
}
