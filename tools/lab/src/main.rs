//! `lab`: runs stock Linux guests on any machine, also where the processor has no virtualization.
//!
//! QEMU emulates a processor that has it and boots Debian's kernel, the *outer machine*. Inside,
//! the monitor under test finds a complete `/dev/kvm` and boots the same stock kernel as its
//! *guest*. Everything but the programs under test comes from Debian packages.
//!
//! ```text
//! lab demo           a test kernel, then stock Linux           demo/, linux.rs
//! lab run            queue of tests, report, logs              run/
//!   QEMU             one outer machine per lab                 outer.rs
//!     lab agent      PID 1's successor; starts one test        agent.rs, protocol.rs
//!       lab-tests    one test: drives the monitor's API        tests/lab
//!         cloister-vmm
//!           guest    stock kernel, busybox                     setup/guest.rs, images/
//! ```

mod agent;
mod demo;
mod leftovers;
mod linux;
mod outer;
mod programs;
mod protocol;
mod run;
mod screen;
mod setup;
mod transcript;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use demo::Demo;
use leftovers::Leftovers;
use programs::{Programs, target_directory};
use run::{Plan, Selection};
use screen::{Screen, time};

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
    /// Lists the tests.
    List {
        #[command(flatten)]
        under_test: UnderTest,
    },
    /// Runs tests, each with its own guest, in outer machines.
    Run {
        /// Outer machines side by side. Each has one CPU.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Runs only tests whose name contains this.
        #[arg(long)]
        filter: Option<String>,
        #[command(flatten)]
        under_test: UnderTest,
        /// Runs only tests with these names.
        names: Vec<String>,
    },
    /// Shows a test kernel and stock Linux as guests: requests and answers, disk, network, times.
    Demo {
        /// Leaves stock Linux out.
        #[arg(long)]
        no_linux: bool,
        /// The directory of the test kernels [default: where `make guests` puts them].
        #[arg(long)]
        guests: Option<PathBuf>,
        #[command(flatten)]
        under_test: UnderTest,
    },
    /// Boots stock Linux as a guest, runs a command in it, and shuts it down.
    Linux {
        #[command(flatten)]
        under_test: UnderTest,
    },
    /// The other end of the lab's channel, inside the outer machine.
    #[command(hide = true)]
    Agent {
        /// The channel's device.
        port: PathBuf,
    },
}

#[derive(Args)]
struct UnderTest {
    /// The monitor [default: the newer of cargo's release and debug builds].
    #[arg(long)]
    monitor: Option<PathBuf>,
    /// The test program [default: the newer of cargo's release and debug builds].
    #[arg(long)]
    tests: Option<PathBuf>,
    /// Where logs go [default: target/lab/logs].
    #[arg(long)]
    logs: Option<PathBuf>,
}

impl UnderTest {
    fn logs(&self) -> PathBuf {
        self.logs
            .clone()
            .unwrap_or_else(|| target_directory().join("lab/logs"))
    }

    fn programs(self) -> Result<Programs> {
        Programs::find(self.monitor, self.tests)
    }
}

fn main() -> ExitCode {
    match execute(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Setup => {
            let images = setup::images(&cache())?;
            println!("the lab is set up: {}", images.guest().display());
        }
        Verb::List { under_test } => {
            for test in run::list(&under_test.programs()?.tests)? {
                println!("{}", test.name);
            }
        }
        Verb::Run {
            jobs,
            filter,
            under_test,
            names,
        } => {
            let logs = under_test.logs();
            let programs = under_test.programs()?;
            let images = setup::images(&cache())?;
            let selection = Selection { filter, names };
            if !run::run(&Plan {
                jobs,
                selection,
                programs,
                images,
                logs,
            })? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Verb::Demo {
            no_linux,
            guests,
            under_test,
        } => {
            let begin = Instant::now();
            let logs = under_test.logs();
            let programs = under_test.programs()?;
            let leftovers = Leftovers::new()?;
            let mut screen = Screen::new();
            Demo {
                monitor: &programs.monitor,
                guests: guests.unwrap_or_else(built_guests),
                leftovers: &leftovers,
                screen: &mut screen,
            }
            .run()?;
            if !no_linux {
                show_linux(&programs, &logs, &leftovers, &mut screen)?;
            }
            drop(leftovers);
            println!("\nThat was it, after {}.", time(begin.elapsed()));
        }
        Verb::Linux { under_test } => {
            let logs = under_test.logs();
            let programs = under_test.programs()?;
            let leftovers = Leftovers::new()?;
            show_linux(&programs, &logs, &leftovers, &mut Screen::new())?;
        }
        Verb::Agent { port } => agent::serve(&port)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show_linux(
    programs: &Programs,
    logs: &Path,
    leftovers: &Leftovers,
    screen: &mut Screen,
) -> Result<()> {
    screen.heading("Stock Linux");
    let images = setup::images(&cache())?;
    linux::Demo {
        images: &images,
        programs,
        logs,
        leftovers,
        screen,
    }
    .show()
}

/// Where `make guests` puts the test kernels.
fn built_guests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/guest/target/x86_64-unknown-linux-gnu/release")
}

/// Where the lab keeps what it made. It survives everything but `cargo clean`.
fn cache() -> PathBuf {
    env::var_os("CLOISTER_LAB_CACHE").map_or_else(|| target_directory().join("lab"), PathBuf::from)
}
