//! `--config-file`: a whole microVM described in one JSON file, applied through the same commands as requests.

use std::path::Path;

use serde::Deserialize;
use tracing::{error, info};
use vm_config::{
    BalloonConfig, BootSource, ConsoleConfig, Drive, Entropy, InstanceId, LoggerConfig, Machine,
    MemoryHotplugConfig, MetricsConfig, MmdsConfig, NetworkInterface, PmemConfig, SerialConfig,
    Vsock,
};
use vmm::control::{
    Command, CommandError, Control, GetLifecycle, InstanceStart, PutBalloon, PutBootSource,
    PutConsole, PutCpuConfig, PutDrive, PutEntropy, PutMachine, PutMemoryHotplug, PutMetrics,
    PutMmdsConfig, PutNetworkInterface, PutPmem, PutSerial, PutVsock,
};

use crate::cpu_template::CpuConfigSource;
use crate::error::chain;
use crate::exit::leave;
use crate::{EXIT_GENERIC, logger, whole_file};

/// Far more than a description of everything, which is some 300 KiB with a CPU template.
const MAX_BYTES: u64 = 16 << 20;

/// The file. Unknown keys at this level are ignored; inside the objects they are mistakes.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ConfigFile {
    boot_source: BootSource,
    drives: Vec<Drive>,
    machine_config: Option<Machine>,
    #[serde(default)]
    network_interfaces: Vec<NetworkInterface>,
    logger: Option<LoggerConfig>,
    serial: Option<SerialConfig>,
    #[serde(default)]
    pmem: Vec<PmemConfig>,
    balloon: Option<BalloonConfig>,
    cpu_config: Option<CpuConfigSource>,
    entropy: Option<Entropy>,
    console: Option<ConsoleConfig>,
    memory_hotplug: Option<MemoryHotplugConfig>,
    metrics: Option<MetricsConfig>,
    mmds_config: Option<MmdsConfig>,
    vsock: Option<Vsock>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
enum ConfigFileError {
    #[error("cannot read {path:?}; check --config-file: {source}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error("Invalid JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("Logger error: Failed to open target file: {0}")]
    Logger(std::io::Error),
}

/// Reads the file at `path` and queues all it says, ending with the start of the microVM, before any request
/// of a client can be queued. A failure ends the process, here or later on the event loop.
pub(crate) fn apply(path: &Path, id: &InstanceId, control: &Control) {
    let file = match read(path) {
        Ok(file) => file,
        Err(why) => give_up(&why.to_string()),
    };
    if let Some(config) = file.metrics {
        let id = id.clone();
        queue(control, PutMetrics { config, id });
    }
    if let Some(machine) = file.machine_config {
        queue(control, PutMachine(machine));
    }
    if let Some(template) = file.cpu_config {
        match template.read() {
            Ok(template) => queue(control, PutCpuConfig(template)),
            Err(why) => {
                let why = format!("Configure CPU error: {why}");
                // Not before what is to be applied before it: that may be wrong too.
                control.submit(GetLifecycle, move |_| give_up(&why));
                return;
            }
        }
    }
    queue(control, PutBootSource(file.boot_source));
    for drive in file.drives {
        queue(control, PutDrive(drive));
    }
    for interface in file.network_interfaces {
        queue(control, PutNetworkInterface(interface));
    }
    if let Some(vsock) = file.vsock {
        queue(control, PutVsock(vsock));
    }
    if let Some(balloon) = file.balloon {
        queue(control, PutBalloon(balloon));
    }
    if let Some(mmds) = file.mmds_config {
        queue(control, PutMmdsConfig(mmds));
    }
    if let Some(entropy) = file.entropy {
        queue(control, PutEntropy(entropy));
    }
    if let Some(console) = file.console {
        queue(control, PutConsole(console));
    }
    for pmem in file.pmem {
        queue(control, PutPmem(pmem));
    }
    if let Some(hotplug) = file.memory_hotplug {
        queue(control, PutMemoryHotplug(hotplug));
    }
    if let Some(serial) = file.serial {
        queue(control, PutSerial(serial));
    }
    control.submit(InstanceStart, |result| {
        check(result);
        info!("Successfully started microvm that was configured from one single json");
    });
}

fn read(path: &Path) -> Result<ConfigFile, ConfigFileError> {
    let text = whole_file::read(path, MAX_BYTES).map_err(|source| ConfigFileError::Read {
        path: path.display().to_string(),
        source,
    })?;
    let file: ConfigFile = serde_json::from_slice(&text)?;
    if let Some(config) = &file.logger {
        logger::configure(config).map_err(ConfigFileError::Logger)?;
    }
    Ok(file)
}

/// Whether `text` is a configuration.
#[cfg(feature = "testing")]
#[must_use]
pub fn is_taken(text: &[u8]) -> bool {
    serde_json::from_slice::<ConfigFile>(text).is_ok()
}

fn queue<C: Command>(control: &Control, command: C) {
    control.submit(command, |result| {
        check(result);
    });
}

fn check<R>(result: Result<R, CommandError>) -> R {
    match result {
        Ok(reply) => reply,
        Err(why) => give_up(&chain(&why)),
    }
}

fn give_up(why: &str) -> ! {
    error!("Failed to build MicroVM from Json: {why}");
    eprintln!("Error: Failed to build MicroVM from Json: {why}");
    leave(EXIT_GENERIC);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &str) -> Result<ConfigFile, serde_json::Error> {
        let boot = r#""boot-source": {"kernel_image_path": "vmlinux"}"#;
        serde_json::from_str(&format!("{{{boot}{extra}}}"))
    }

    #[test]
    fn drives_are_required_and_may_be_none() {
        let refused = parse("").err().unwrap().to_string();
        assert!(refused.starts_with("missing field `drives`"), "{refused}");
        assert!(parse(r#", "drives": []"#).is_ok());
    }

    #[test]
    fn unknown_keys_are_ignored_outside_and_refused_inside() {
        assert!(parse(r#", "drives": [], "zebra": 1"#).is_ok());
        let machine = r#", "drives": [], "machine-config": {"zebra": 1}"#;
        assert!(
            parse(machine)
                .err()
                .unwrap()
                .to_string()
                .contains("unknown field `zebra`")
        );
    }

    #[test]
    fn unset_parts_are_null_and_a_metrics_file_has_a_path() {
        assert!(parse(r#", "drives": [], "metrics": null, "balloon": null"#).is_ok());
        let refused = parse(r#", "drives": [], "metrics": {}"#).err().unwrap();
        let refused = refused.to_string();
        assert!(
            refused.starts_with("missing field `metrics_path`"),
            "{refused}"
        );
        let properties =
            r#", "drives": [], "metrics": {"metrics_path": "m", "properties": null, "x": 1}"#;
        let file = parse(properties).unwrap();
        assert!(file.metrics.is_some_and(|metrics| !metrics.emit_id));
    }
}
