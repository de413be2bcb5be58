//! The microVM process: reads the command line, listens, and becomes the microVM's event loop.
//!
//! ```text
//! main thread   command line, socket, metadata, configuration file, then vmm::run until the microVM ends
//! api thread    server -> router -> routes: a request becomes a command to the event loop (not with --no-api)
//! ```

mod answer;
mod cli;
mod config_file;
mod counts;
mod cpu_template;
mod error;
mod event_stream;
mod exit;
mod logger;
mod metadata;
#[cfg(all(test, feature = "openapi"))]
mod openapi;
mod parse_failure;
mod router;
mod routes;
mod server;
mod signals;
mod start_times;
mod version;
mod whole_file;

use std::io::Write;

use cli::{Invocation, Options};
use exit::leave;
use server::{ApiThread, Opening, Patience, Settings};
use tracing::{error, info};
use vm_config::MetricsConfig;
use vmm::Beginning;
use vmm::control::{Control, Mailbox};
use vmm::metrics::METRICS;

/// Exit code of a failure that has no code of its own.
const EXIT_GENERIC: u8 = 1;

fn main() {
    // Not UTF-8 is not one of ours: what cannot be read shows as such in the message.
    let arguments = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned());
    match cli::parse(arguments) {
        Ok(Invocation::Run(options)) => run(*options),
        Ok(Invocation::Help) => print(&cli::help_text()),
        Ok(Invocation::Version) => print(&cli::version_text()),
        Ok(Invocation::PrintCpuTemplate(applied)) => match cpu_template::dump(applied.as_deref()) {
            Ok(template) => print(&template),
            Err(why) => {
                eprintln!("Error: {why}");
                leave(EXIT_GENERIC);
            }
        },
        Err(mistake) => {
            logger::install();
            error!("{}", mistake.report());
            eprintln!("Error: {mistake}");
            leave(mistake.exit_code());
        }
    }
}

/// Prints what was asked for; a reader that went away is no failure.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn run(options: Options) -> ! {
    // First of all, so that a client that waits for the socket waits as little as possible.
    let bound = options
        .api_socket
        .as_deref()
        .map(|path| (path, exit::bind(path)));
    logger::install();
    logger::set_id(options.id.clone());
    if let Err(failure) = logger::configure(&options.logger) {
        fail(format_args!(
            "Logger error: Failed to open target file: {failure}"
        ));
    }
    if let Some(path) = &options.metrics {
        let config = MetricsConfig {
            metrics_path: path.clone(),
            emit_id: false,
            properties: None,
        };
        if let Err(failure) = METRICS.configure(&config, &options.id) {
            fail(format_args!("Metrics error: {}", error::chain(&failure)));
        }
    }
    info!("Running Firecracker v{}", version::API_LEVEL);
    if let Err(failure) = signals::install() {
        fail(format_args!("cannot handle signals: {failure}"));
    }
    let listener = match bound {
        None => None,
        Some((path, Ok(listener))) => {
            info!("Listening on API socket ({path:?}).");
            Some(listener)
        }
        Some((path, Err(failure))) => fail(format_args!(
            "Failed to open the API socket at: {}. Check that it is not already used. ({failure})",
            path.display()
        )),
    };
    let (control, mailbox) = match Mailbox::new() {
        Ok(pair) => pair,
        Err(failure) => fail(format_args!("cannot make an eventfd: {failure}")),
    };
    let mmds = match metadata::load(&options) {
        Ok(mmds) => mmds,
        Err(failure) => fail(format_args!("{failure}")),
    };
    if let Some(path) = &options.config_file {
        config_file::apply(path, &options.id, &control);
    }
    options.start.count();
    let beginning = Beginning {
        transport: options.transport,
        has_boot_timer: options.has_boot_timer,
        mmds,
    };
    let (api, _unused_control) = match listener {
        Some(listener) => (Some(start_api(listener, control, options)), None),
        None => (None, Some(control)),
    };
    let reason = vmm::run(mailbox, beginning);
    end(&reason, api)
}

fn start_api(
    listener: std::os::unix::net::UnixListener,
    control: Control,
    options: Options,
) -> ApiThread {
    let api = router::Api::new(control, options.id);
    let settings = Settings {
        max_payload: options.max_payload,
        patience: Patience::default(),
        opening: match options.config_file {
            Some(_) => Opening::AfterEarlierCommands,
            None => Opening::Now,
        },
    };
    match server::start(listener, api, settings) {
        Ok(thread) => thread,
        Err(failure) => fail(format_args!("cannot start the API thread: {failure}")),
    }
}

/// Lets the API thread finish its answers, then leaves.
fn end(reason: &vmm::ExitReason, api: Option<ApiThread>) -> ! {
    info!("Vmm is stopping.");
    if let Some(api) = api {
        api.finish();
    }
    match reason.code() {
        0 => info!("{reason}"),
        _ => error!("{reason}"),
    }
    leave(reason.code());
}

/// Logs why the process cannot go on, and leaves.
fn fail(why: std::fmt::Arguments<'_>) -> ! {
    error!("{why}");
    eprintln!("Error: {why}");
    leave(EXIT_GENERIC);
}
