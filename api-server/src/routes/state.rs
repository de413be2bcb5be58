//! `PATCH /vm` and `GET /vm/config`: the state of the microVM, and all that was configured.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tracing::info;
use vm_config::{
    BalloonConfig, BlockEngine, BootSource, ConsoleConfig, Drive, Entropy, Machine,
    MemoryHotplugConfig, MmdsConfig, NetworkInterface, PmemConfig, RateLimiter, Vsock,
};
use vmm::control::{Pause, Resume, VmConfig};
use vmm::metrics::PROCESS;

use super::machine;
use crate::answer::Answer;
use crate::error::ApiError;
#[cfg(feature = "openapi")]
use crate::error::Fault;
use crate::router::{Api, Request, Vmm};

/// The state a client can ask for.
#[derive(Clone, Copy, Debug, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
enum VmState {
    /// The vCPUs and the devices stand still.
    Paused,
    /// They go on.
    Resumed,
}

/// `PATCH /vm`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct VmPatch {
    /// The state to be in.
    state: VmState,
}

/// What is never told.
type Unset = Option<()>;

/// All that was configured, in the order clients have always seen.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct FullConfig {
    /// The balloon, with its present target.
    balloon: Option<BalloonConfig>,
    /// Drives, root first.
    drives: Vec<Drive>,
    /// What it boots.
    boot_source: BootSource,
    /// Always null: a custom template is not told.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    cpu_config: Unset,
    /// Always null: the logger is not told.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    logger: Unset,
    /// vCPUs and memory.
    machine_config: Machine,
    /// Always null: the metrics are not told.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    metrics: Unset,
    /// How the guest reaches its metadata.
    mmds_config: Option<MmdsConfig>,
    /// Network interfaces.
    network_interfaces: Vec<NetworkInterface>,
    /// The vsock device.
    vsock: Option<Vsock>,
    /// The entropy device.
    entropy: Option<Entropy>,
    /// Persistent memory, in the guest's order.
    pmem: Vec<PmemConfig>,
    /// Memory that is plugged while it runs.
    memory_hotplug: Option<MemoryHotplugConfig>,
    /// The virtio console; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    console: Option<ConsoleConfig>,
}

impl From<VmConfig> for FullConfig {
    fn from(config: VmConfig) -> Self {
        Self {
            balloon: config.balloon,
            drives: config.drives.into_iter().map(reported_drive).collect(),
            boot_source: config.boot_source.unwrap_or_default(),
            cpu_config: None,
            logger: None,
            machine_config: machine::reported(config.machine),
            metrics: None,
            mmds_config: config.mmds,
            network_interfaces: config
                .network_interfaces
                .into_iter()
                .map(reported_interface)
                .collect(),
            vsock: config.vsock,
            entropy: config.entropy.map(reported_entropy),
            console: config.console.map(reported_console),
            pmem: config.pmem.into_iter().map(reported_pmem).collect(),
            memory_hotplug: config.memory_hotplug,
        }
    }
}

/// The drive as it is told: with the defaults that apply to it.
fn reported_drive(drive: Drive) -> Drive {
    if drive.socket.is_some() {
        return drive;
    }
    Drive {
        is_read_only: Some(drive.is_read_only.unwrap_or(false)),
        io_engine: Some(drive.io_engine.unwrap_or(BlockEngine::Sync)),
        rate_limiter: drive.rate_limiter.and_then(RateLimiter::normalised),
        ..drive
    }
}

/// The interface as it is told: without limits that do not limit.
fn reported_interface(interface: NetworkInterface) -> NetworkInterface {
    let reported = |limiter: Option<_>| limiter.and_then(RateLimiter::normalised);
    NetworkInterface {
        rx_rate_limiter: reported(interface.rx_rate_limiter),
        tx_rate_limiter: reported(interface.tx_rate_limiter),
        ..interface
    }
}

/// The console as it is told: without a limit that does not limit.
fn reported_console(console: ConsoleConfig) -> ConsoleConfig {
    let limits = RateLimiter {
        bandwidth: console.rate_limiter,
        ops: None,
    };
    ConsoleConfig {
        rate_limiter: limits.normalised().and_then(|limits| limits.bandwidth),
        ..console
    }
}

/// The entropy device as it is told: without limits that do not limit.
fn reported_entropy(entropy: Entropy) -> Entropy {
    Entropy {
        rate_limiter: entropy.rate_limiter.and_then(RateLimiter::normalised),
    }
}

/// Persistent memory as it is told: without limits that do not limit.
fn reported_pmem(pmem: PmemConfig) -> PmemConfig {
    PmemConfig {
        rate_limiter: pmem.rate_limiter.and_then(RateLimiter::normalised),
        ..pmem
    }
}

/// Pauses or resumes the microVM; being in that state already is no mistake.
#[cfg_attr(feature = "openapi", utoipa::path(
    patch, path = "/vm", request_body = VmPatch,
    responses((status = 204, description = "Done"), (status = 400, description = "Refused", body = Fault))
))]
pub(super) async fn patch_vm<V: Vmm>(request: &Request, api: &Api<V>) -> Result<Answer, ApiError> {
    let patch: VmPatch = request.json()?;
    let start = Instant::now();
    let latencies = &PROCESS.latencies_us;
    let (name, latency, result) = match patch.state {
        VmState::Paused => ("pause vm", &latencies.pause_vm, api.ask(Pause).await),
        VmState::Resumed => ("resume vm", &latencies.resume_vm, api.ask(Resume).await),
    };
    if result.is_ok() {
        let took = start.elapsed();
        latency.set_us(took);
        info!("'{name}' API request took {} us.", took.as_micros());
    }
    Ok(result.into())
}

/// Tells all that was configured.
#[cfg_attr(feature = "openapi", utoipa::path(
    get, path = "/vm/config",
    responses((status = 200, description = "The configuration; a part that is unset is null", body = FullConfig))
))]
pub(super) async fn get_vm_config<V: Vmm>(_: &Request, api: &Api<V>) -> Result<Answer, ApiError> {
    let config = api.state().config.clone();
    Ok(Answer::json(&FullConfig::from(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_configuration_has_every_key_in_the_promised_order() {
        let config = FullConfig::from(VmConfig::default());
        assert_eq!(
            serde_json::to_string(&config).unwrap(),
            concat!(
                r#"{"balloon":null,"drives":[],"#,
                r#""boot-source":{"kernel_image_path":"","initrd_path":null,"boot_args":null},"#,
                r#""cpu-config":null,"logger":null,"#,
                r#""machine-config":{"vcpu_count":1,"mem_size_mib":128,"smt":false,"#,
                r#""track_dirty_pages":false,"huge_pages":"None"},"#,
                r#""metrics":null,"mmds-config":null,"network-interfaces":[],"vsock":null,"#,
                r#""entropy":null,"pmem":[],"memory-hotplug":null}"#,
            )
        );
    }

    #[test]
    fn a_drive_is_told_with_its_defaults() {
        let drive = serde_json::json!({
            "drive_id": "a", "is_root_device": true, "path_on_host": "/a",
            "rate_limiter": {"ops": {"size": 1, "refill_time": 2}},
        });
        let drive = reported_drive(serde_json::from_value(drive).unwrap());
        assert_eq!(
            serde_json::to_string(&drive).unwrap(),
            concat!(
                r#"{"drive_id":"a","partuuid":null,"is_root_device":true,"cache_type":"Unsafe","#,
                r#""is_read_only":false,"path_on_host":"/a","rate_limiter":{"bandwidth":null,"#,
                r#""ops":{"size":1,"one_time_burst":null,"refill_time":2}},"#,
                r#""io_engine":"Sync","socket":null}"#,
            )
        );
    }
}
