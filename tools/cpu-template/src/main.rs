//! `cloister-cpu-template`: CPU templates for a fleet of different machines.
//!
//! The monitor prints what a guest of its host would find (`--print-cpu-template`); this program works on such files: what
//! differs between hosts, the template that makes them alike, whether a template does what it says, and whether a host
//! is still the one it was made for. `docs/cpu-templates.md` shows the way from hosts to a template.

mod files;
mod fingerprint;
mod kinds;
mod monitor;
mod registers;
mod shared_features;
mod strip;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::fingerprint::Field;

/// Makes, compares and checks CPU templates.
#[derive(Parser)]
#[command(name = "cloister-cpu-template", version)]
enum Cli {
    /// Templates.
    #[command(subcommand)]
    Template(TemplateVerb),
    /// What a template depends on.
    #[command(subcommand)]
    Fingerprint(FingerprintVerb),
}

#[derive(Subcommand)]
enum TemplateVerb {
    /// Writes all that a guest of this host finds, as a template.
    Dump {
        /// The monitor.
        #[arg(long, default_value = "cloister-vmm")]
        monitor: PathBuf,
        /// Path or name of a template that the guest has.
        #[arg(long)]
        template: Option<String>,
        /// File to write.
        #[arg(long, default_value = "cpu_config.json")]
        output: PathBuf,
    },
    /// Leaves out of dumps what is the same in all of them.
    Strip {
        /// Dumps of different hosts.
        #[arg(long, num_args = 2.., required = true)]
        paths: Vec<PathBuf>,
        /// What the names of the files that are written end with.
        #[arg(long, default_value = "_stripped")]
        suffix: String,
    },
    /// Writes the template with which guests of all hosts find the same features.
    Common {
        /// Dumps of different hosts, made without a template; the first one's processor gives its model.
        #[arg(long, num_args = 2.., required = true)]
        paths: Vec<PathBuf>,
        /// File to write.
        #[arg(long, default_value = "cpu_template.json")]
        output: PathBuf,
    },
    /// Says whether a guest of this host with the template finds what it says.
    Verify {
        /// The monitor.
        #[arg(long, default_value = "cloister-vmm")]
        monitor: PathBuf,
        /// The template's file.
        #[arg(long)]
        template: PathBuf,
    },
}

#[derive(Subcommand)]
enum FingerprintVerb {
    /// Writes what a template depends on: monitor, kernel, firmware, microcode, and what a guest finds.
    Dump {
        /// The monitor.
        #[arg(long, default_value = "cloister-vmm")]
        monitor: PathBuf,
        /// Path or name of a template that the guest has.
        #[arg(long)]
        template: Option<String>,
        /// File to write.
        #[arg(long, default_value = "fingerprint.json")]
        output: PathBuf,
    },
    /// Says what differs between two of them.
    Compare {
        /// The one of the template's making.
        #[arg(long)]
        prev: PathBuf,
        /// The one of today.
        #[arg(long)]
        curr: PathBuf,
        /// What to compare; all by default.
        #[arg(long, num_args = 1.., value_enum)]
        filters: Vec<Field>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli {
        Cli::Template(TemplateVerb::Dump {
            monitor,
            template,
            output,
        }) => files::write(&output, &monitor::dump(&monitor, template.as_deref())?),
        Cli::Template(TemplateVerb::Strip { paths, suffix }) => strip::run(&paths, &suffix),
        Cli::Template(TemplateVerb::Common { paths, output }) => {
            shared_features::run(&paths, &output)
        }
        Cli::Template(TemplateVerb::Verify { monitor, template }) => {
            verify::run(&monitor, &template)
        }
        Cli::Fingerprint(FingerprintVerb::Dump {
            monitor,
            template,
            output,
        }) => files::write(&output, &fingerprint::take(&monitor, template.as_deref())?),
        Cli::Fingerprint(FingerprintVerb::Compare {
            prev,
            curr,
            filters,
        }) => fingerprint::compare(&prev, &curr, &filters),
    }
}
