//! The command line: a table of flags and the walk over the arguments.
//!
//! The rules are those clients and jails rely on (`--name value` and nothing else, `--help` and `--version`
//! win, what follows a bare `--` is ignored, one wording per mistake), which no general parser offers.

use std::fmt::Write;
use std::num::ParseIntError;
use std::path::PathBuf;
use std::str::FromStr;

use vm_config::{DeviceTransport, InstanceId, InstanceIdError, LogLevel, LoggerConfig};

use crate::start_times::StartTimes;
use crate::{EXIT_GENERIC, version};

/// Exit code: an argument is wrong.
const EXIT_ARGUMENTS: u8 = 153;
/// Exit code: a setting is wrong.
const EXIT_SETTING: u8 = 152;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// Print the flags.
    Help,
    /// Print the version.
    Version,
    /// Print a vCPU of this host as a CPU template, with the named or custom one applied.
    PrintCpuTemplate(Option<String>),
    /// Run a microVM.
    Run(Box<Options>),
}

/// How to run the microVM.
#[derive(Debug)]
pub(crate) struct Options {
    /// Where to listen; `None` with `--no-api`.
    pub(crate) api_socket: Option<PathBuf>,
    /// The microVM's name.
    pub(crate) id: InstanceId,
    /// What to configure and boot at once.
    pub(crate) config_file: Option<PathBuf>,
    /// A file with what the guest can read about itself.
    pub(crate) metadata: Option<PathBuf>,
    /// What to log, and where.
    pub(crate) logger: LoggerConfig,
    /// Where lines of metrics go.
    pub(crate) metrics: Option<PathBuf>,
    /// When whoever started this process did.
    pub(crate) start: StartTimes,
    /// Largest request body in bytes.
    pub(crate) max_payload: usize,
    /// Largest metadata in bytes of JSON.
    pub(crate) mmds_size_limit: usize,
    /// Where virtio devices are.
    pub(crate) transport: DeviceTransport,
    /// The guest can say that it has booted.
    pub(crate) has_boot_timer: bool,
}

/// A command line that cannot be served, in the words scripts look for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CliError {
    #[error("Found argument '{0}' which wasn't expected, or isn't valid in this context.")]
    Unexpected(String),
    #[error("The argument '{0}' requires a value, but none was supplied.")]
    MissingValue(&'static str),
    #[error("The argument '{0}' was provided more than once.")]
    Duplicate(&'static str),
    #[error("Argument '{0}' required, but not found.")]
    Required(&'static str),
    #[error("Argument '{1}' cannot be used together with argument '{0}'.")]
    Conflict(&'static str, &'static str),
    #[error("This build has no snapshots, so there is no version of them to tell.")]
    NoSnapshots,
    #[error("The argument '{0}' is not supported by this build; leave it out.")]
    Unsupported(&'static str),
    #[error("The argument '{name}' needs a whole number, not {value:?}.")]
    Number { name: &'static str, value: String },
    #[error("The argument 'id' is wrong: {0}.")]
    Id(#[from] InstanceIdError),
    #[error("invalid level {0:?}; use Off, Error, Warning, Info, Debug or Trace")]
    Level(String),
}

impl CliError {
    /// The exit code for it.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Level(_) => EXIT_SETTING,
            Self::NoSnapshots => EXIT_GENERIC,
            _ => EXIT_ARGUMENTS,
        }
    }

    /// The line that reports it.
    pub(crate) fn report(&self) -> String {
        match self {
            Self::Level(_) | Self::NoSnapshots => self.to_string(),
            _ => format!("Arguments parsing error: {self} \n\nFor more information try --help."),
        }
    }
}

/// What this build does with a flag.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Support {
    Full,
    /// Accepted without effect.
    Ignored,
    /// Part of the interface, refused by this build.
    Refused,
}

/// One row of the table.
struct Flag {
    name: &'static str,
    /// Help text.
    help: &'static str,
    takes_value: bool,
    default: Option<&'static str>,
    support: Support,
}

const fn value(name: &'static str, help: &'static str, default: Option<&'static str>) -> Flag {
    Flag {
        name,
        help,
        takes_value: true,
        default,
        support: Support::Full,
    }
}

const fn switch(name: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        help,
        takes_value: false,
        default: None,
        support: Support::Full,
    }
}

/// A flag without effect.
const fn ignored(flag: Flag) -> Flag {
    Flag {
        support: Support::Ignored,
        ..flag
    }
}

/// A flag that is refused.
const fn refused(flag: Flag) -> Flag {
    Flag {
        support: Support::Refused,
        ..flag
    }
}

const DEFAULT_SOCKET: &str = "/run/firecracker.socket";
const DEFAULT_MAX_PAYLOAD: usize = 51200;

/// Every flag of the interface, in the order `--help` shows them.
const FLAGS: &[Flag] = &[
    value("api-sock", "Path of the API socket.", Some(DEFAULT_SOCKET)),
    switch(
        "boot-timer",
        "Log how long the guest took to boot, once it says that it has.",
    ),
    value("config-file", "JSON file to configure and boot from.", None),
    value(
        "cpu-template",
        "Path or name of the template for --print-cpu-template.",
        None,
    ),
    value(
        "describe-snapshot",
        "Print the version of a snapshot file and exit; this build has no snapshots.",
        None,
    ),
    switch(
        "enable-pci",
        "Put virtio devices on a PCI bus instead of MMIO.",
    ),
    value(
        "http-api-max-payload-size",
        "Largest API request body in bytes.",
        Some("51200"),
    ),
    value(
        "id",
        "Name of the microVM: 1 to 64 letters, digits or '-'.",
        Some("anonymous-instance"),
    ),
    value(
        "level",
        "Log level: Off, Error, Warning, Info, Debug or Trace.",
        Some("Info"),
    ),
    value(
        "log-path",
        "File or FIFO for the log; standard output if absent.",
        None,
    ),
    value(
        "metadata",
        "JSON file with what the guest can read over MMDS.",
        None,
    ),
    value("metrics-path", "File or FIFO for lines of metrics.", None),
    value(
        "mmds-size-limit",
        "Largest MMDS data store in bytes of JSON; that of a request body if absent.",
        None,
    ),
    value(
        "module",
        "Log only modules whose path starts with this.",
        None,
    ),
    switch(
        "no-api",
        "Do not listen for API requests; needs --config-file.",
    ),
    ignored(switch(
        "no-seccomp",
        "Run without seccomp filters; this build has none.",
    )),
    value(
        "parent-cpu-time-us",
        "CPU time of the jailer in microseconds; the jailer says it.",
        None,
    ),
    switch(
        "print-cpu-template",
        "Print a vCPU of this host as a CPU template and exit.",
    ),
    refused(value(
        "seccomp-filter",
        "Seccomp filter to use; not in this build.",
        None,
    )),
    switch("show-level", "Write the level into each log line."),
    switch(
        "show-log-origin",
        "Write the source file and line into each log line.",
    ),
    switch(
        "snapshot-version",
        "Print the version of snapshots and exit; this build has none.",
    ),
    value(
        "start-time-cpu-us",
        "CPU time at the start in microseconds; the jailer says it.",
        None,
    ),
    value(
        "start-time-us",
        "Time of the start in microseconds; the jailer says it.",
        None,
    ),
    switch("version", "Print the version and exit."),
];

/// The flags given, with their values.
struct Given(Vec<(&'static Flag, String)>);

impl Given {
    fn text(&self, name: &str) -> Option<&str> {
        let given = self.0.iter().find(|(flag, _)| flag.name == name);
        given.map(|(_, value)| value.as_str())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    fn has(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    fn number<N: FromStr<Err = ParseIntError>>(
        &self,
        name: &'static str,
    ) -> Result<Option<N>, CliError> {
        let parse = |text: &str| {
            let wrong = |_| CliError::Number {
                name,
                value: text.to_owned(),
            };
            text.parse().map_err(wrong)
        };
        self.text(name).map(parse).transpose()
    }
}

/// Reads the arguments that follow the program's name.
///
/// # Errors
/// The first mistake, from left to right; then flags that need each other; then wrong values.
pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Invocation, CliError> {
    let arguments: Vec<String> = arguments.take_while(|argument| argument != "--").collect();
    if arguments
        .iter()
        .any(|argument| argument == "--help" || argument == "-h")
    {
        return Ok(Invocation::Help);
    }
    if arguments.iter().any(|argument| argument == "--version") {
        return Ok(Invocation::Version);
    }
    let given = collect(arguments)?;
    let template = given.text("cpu-template").map(str::to_owned);
    if given.has("print-cpu-template") {
        return Ok(Invocation::PrintCpuTemplate(template));
    }
    if template.is_some() {
        return Err(CliError::Required("print-cpu-template"));
    }
    if given.has("snapshot-version") || given.has("describe-snapshot") {
        return Err(CliError::NoSnapshots);
    }
    options(&given).map(|options| Invocation::Run(Box::new(options)))
}

fn collect(arguments: Vec<String>) -> Result<Given, CliError> {
    let mut given = Given(Vec::new());
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let Some(name) = argument.strip_prefix("--") else {
            return Err(CliError::Unexpected(argument));
        };
        let Some(flag) = FLAGS.iter().find(|flag| flag.name == name) else {
            return Err(CliError::Unexpected(name.to_owned()));
        };
        if given.has(flag.name) {
            return Err(CliError::Duplicate(flag.name));
        }
        let value = if flag.takes_value {
            let value = rest.next();
            let value = value.filter(|value| !value.is_empty() && !value.starts_with("--"));
            value.ok_or(CliError::MissingValue(flag.name))?
        } else {
            String::new()
        };
        given.0.push((flag, value));
    }
    Ok(given)
}

fn options(given: &Given) -> Result<Options, CliError> {
    if given.has("seccomp-filter") && given.has("no-seccomp") {
        return Err(CliError::Conflict("seccomp-filter", "no-seccomp"));
    }
    let refused = given
        .0
        .iter()
        .find(|(flag, _)| flag.support == Support::Refused);
    if let Some((flag, _)) = refused {
        return Err(CliError::Unsupported(flag.name));
    }
    let config_file = given.path("config-file");
    let is_silent = given.has("no-api");
    if is_silent && config_file.is_none() {
        return Err(CliError::Required("config-file"));
    }
    let socket = given
        .path("api-sock")
        .unwrap_or_else(|| DEFAULT_SOCKET.into());
    let max_payload = given
        .number("http-api-max-payload-size")?
        .unwrap_or(DEFAULT_MAX_PAYLOAD);
    Ok(Options {
        api_socket: (!is_silent).then_some(socket),
        id: given
            .text("id")
            .map(str::parse)
            .transpose()?
            .unwrap_or_default(),
        config_file,
        logger: logger(given)?,
        metadata: given.path("metadata"),
        metrics: given.path("metrics-path"),
        start: StartTimes {
            monotonic_us: given.number("start-time-us")?,
            cpu_us: given.number("start-time-cpu-us")?,
            parent_cpu_us: given.number("parent-cpu-time-us")?,
        },
        max_payload,
        mmds_size_limit: given.number("mmds-size-limit")?.unwrap_or(max_payload),
        transport: if given.has("enable-pci") {
            DeviceTransport::Pci
        } else {
            DeviceTransport::Mmio
        },
        has_boot_timer: given.has("boot-timer"),
    })
}

fn logger(given: &Given) -> Result<LoggerConfig, CliError> {
    let level = |text: &str| -> Result<LogLevel, CliError> {
        text.parse().map_err(|_| CliError::Level(text.to_owned()))
    };
    Ok(LoggerConfig {
        log_path: given.path("log-path"),
        level: given.text("level").map(level).transpose()?,
        show_level: Some(given.has("show-level")),
        show_log_origin: Some(given.has("show-log-origin")),
        module: given.text("module").map(str::to_owned),
    })
}

/// What `--version` prints: the level clients look for first, then who we are.
pub(crate) fn version_text() -> String {
    format!(
        "Firecracker v{}\nCloister v{}\n",
        version::API_LEVEL,
        version::CLOISTER
    )
}

/// What `--help` prints.
pub(crate) fn help_text() -> String {
    let mut text = version_text();
    text.push_str("\noptional arguments:\n");
    for flag in FLAGS {
        let mut usage = format!("--{}", flag.name);
        if flag.takes_value {
            let _ = write!(usage, " <{}>", flag.name);
        }
        let _ = write!(text, "  {usage:<55} {}", flag.help);
        if let Some(default) = flag.default {
            let _ = write!(text, " [default: {default:?}]");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests;
