//! What the process counts outside of devices. One microVM a process, so there is one of each; except that each vCPU has
//! its own, which no other thread writes.

use devices::metric_groups;
use devices::metrics::Group;

/// What the process counts, besides its devices and vCPUs.
#[derive(Debug, Default)]
pub struct ProcessMetrics {
    /// How the process started.
    pub api_server: StartMetrics,
    /// Requests that use what will go away.
    pub deprecated_api: DeprecatedMetrics,
    /// `GET` requests.
    pub get_api_requests: GetMetrics,
    /// How long requests took.
    pub latencies_us: LatencyMetrics,
    /// The log and the metrics file.
    pub logger: LoggerMetrics,
    /// `PATCH` requests.
    pub patch_api_requests: PatchMetrics,
    /// `PUT` requests.
    pub put_api_requests: PutMetrics,
    /// System calls that a filter refused.
    pub seccomp: SeccompMetrics,
    /// The process itself.
    pub vmm: VmmMetrics,
    /// Signals.
    pub signals: SignalMetrics,
}

impl ProcessMetrics {
    /// Nothing counted yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            api_server: StartMetrics::new(),
            deprecated_api: DeprecatedMetrics::new(),
            get_api_requests: GetMetrics::new(),
            latencies_us: LatencyMetrics::new(),
            logger: LoggerMetrics::new(),
            patch_api_requests: PatchMetrics::new(),
            put_api_requests: PutMetrics::new(),
            seccomp: SeccompMetrics::new(),
            vmm: VmmMetrics::new(),
            signals: SignalMetrics::new(),
        }
    }

    /// All of them.
    pub(super) fn groups(&'static self) -> [&'static dyn Group; 10] {
        [
            &self.api_server,
            &self.deprecated_api,
            &self.get_api_requests,
            &self.latencies_us,
            &self.logger,
            &self.patch_api_requests,
            &self.put_api_requests,
            &self.seccomp,
            &self.vmm,
            &self.signals,
        ]
    }
}

metric_groups! {
/// How the process started (`api_server`).
pub struct StartMetrics = "api_server" {
    /// Time from the jailer's start to the API server's.
    pub process_startup_time_us: Store in Micros,
    /// CPU time from the jailer's start to the API server's.
    pub process_startup_time_cpu_us: Store in Micros,
}

/// Requests that use what will go away (`deprecated_api`).
pub struct DeprecatedMetrics = "deprecated_api" {
    /// Requests that use what will go away.
    pub deprecated_http_api_calls: Counter,
}

/// `GET` requests (`get_api_requests`).
pub struct GetMetrics = "get_api_requests" {
    /// `GET /`.
    pub instance_info_count: Counter,
    /// `GET /machine-config`.
    pub machine_cfg_count: Counter,
    /// `GET /mmds`.
    pub mmds_count: Counter,
    /// `GET /version`.
    pub vmm_version_count: Counter,
    /// `GET /hotplug/memory`.
    pub hotplug_memory_count: Counter,
}

/// How long the last request of a kind took (`latencies_us`): as the API sees it, and with `vmm_` without the way there.
pub struct LatencyMetrics = "latencies_us" {
    /// Making a full snapshot.
    pub full_create_snapshot: Store in Micros,
    /// Making a snapshot of what changed.
    pub diff_create_snapshot: Store in Micros,
    /// Loading a snapshot.
    pub load_snapshot: Store in Micros,
    /// Pausing the microVM.
    pub pause_vm: Store in Micros,
    /// Resuming the microVM.
    pub resume_vm: Store in Micros,
    /// Making a full snapshot, without the way there.
    pub vmm_full_create_snapshot: Store in Micros,
    /// Making a snapshot of what changed, without the way there.
    pub vmm_diff_create_snapshot: Store in Micros,
    /// Loading a snapshot, without the way there.
    pub vmm_load_snapshot: Store in Micros,
    /// Pausing the microVM, without the way there.
    pub vmm_pause_vm: Store in Micros,
    /// Resuming the microVM, without the way there.
    pub vmm_resume_vm: Store in Micros,
}

/// The log and the metrics file (`logger`).
pub struct LoggerMetrics = "logger" {
    /// Lines of the metrics file that could not be written.
    pub missed_metrics_count: Counter,
    /// Lines of the metrics file that could not be made.
    pub metrics_fails: Counter,
    /// Lines of the log that could not be written.
    pub missed_log_count: Counter,
    /// Lines of the log left out because there were too many of their kind.
    pub rate_limited_log_count: Counter,
}

/// `PATCH` requests (`patch_api_requests`). A failure is a request that could not be read.
pub struct PatchMetrics = "patch_api_requests" {
    /// `PATCH /drives`.
    pub drive_count: Counter,
    /// `PATCH /drives` that could not be read.
    pub drive_fails: Counter,
    /// `PATCH /network-interfaces`.
    pub network_count: Counter,
    /// `PATCH /network-interfaces` that could not be read.
    pub network_fails: Counter,
    /// `PATCH /machine-config`.
    pub machine_cfg_count: Counter,
    /// `PATCH /machine-config` that could not be read.
    pub machine_cfg_fails: Counter,
    /// `PATCH /mmds`.
    pub mmds_count: Counter,
    /// `PATCH /mmds` that could not be read.
    pub mmds_fails: Counter,
    /// `PATCH /hotplug/memory`.
    pub hotplug_memory_count: Counter,
    /// `PATCH /hotplug/memory` that could not be read.
    pub hotplug_memory_fails: Counter,
    /// `PATCH /pmem`.
    pub pmem_count: Counter,
    /// `PATCH /pmem` that could not be read.
    pub pmem_fails: Counter,
}

/// `PUT` requests (`put_api_requests`). A failure is a request that could not be read.
pub struct PutMetrics = "put_api_requests" {
    /// `PUT /actions`.
    pub actions_count: Counter,
    /// `PUT /actions` that could not be read.
    pub actions_fails: Counter,
    /// `PUT /boot-source`.
    pub boot_source_count: Counter,
    /// `PUT /boot-source` that could not be read.
    pub boot_source_fails: Counter,
    /// `PUT /drives`.
    pub drive_count: Counter,
    /// `PUT /drives` that could not be read.
    pub drive_fails: Counter,
    /// `PUT /logger`.
    pub logger_count: Counter,
    /// `PUT /logger` that could not be read.
    pub logger_fails: Counter,
    /// `PUT /machine-config`.
    pub machine_cfg_count: Counter,
    /// `PUT /machine-config` that could not be read.
    pub machine_cfg_fails: Counter,
    /// `PUT /cpu-config`.
    pub cpu_cfg_count: Counter,
    /// `PUT /cpu-config` that could not be read.
    pub cpu_cfg_fails: Counter,
    /// `PUT /metrics`.
    pub metrics_count: Counter,
    /// `PUT /metrics` that could not be read.
    pub metrics_fails: Counter,
    /// `PUT /network-interfaces`.
    pub network_count: Counter,
    /// `PUT /network-interfaces` that could not be read.
    pub network_fails: Counter,
    /// `PUT /mmds` and `PUT /mmds/config`.
    pub mmds_count: Counter,
    /// `PUT /mmds` and `PUT /mmds/config` that could not be read.
    pub mmds_fails: Counter,
    /// `PUT /vsock`.
    pub vsock_count: Counter,
    /// `PUT /vsock` that could not be read.
    pub vsock_fails: Counter,
    /// `PUT /pmem`.
    pub pmem_count: Counter,
    /// `PUT /pmem` that could not be read.
    pub pmem_fails: Counter,
    /// `PUT /serial`.
    pub serial_count: Counter,
    /// `PUT /serial` that could not be read.
    pub serial_fails: Counter,
    /// `PUT /hotplug/memory`.
    pub hotplug_memory_count: Counter,
    /// `PUT /hotplug/memory` that could not be read.
    pub hotplug_memory_fails: Counter,
}

/// System calls that a filter refused (`seccomp`).
pub struct SeccompMetrics = "seccomp" {
    /// System calls that a filter refused.
    pub num_faults: Tally,
}

/// A vCPU (`vcpu`).
pub struct VcpuMetrics = "vcpu" {
    /// Exits in which the guest reads a port.
    pub exit_io_in: Counter,
    /// Exits in which the guest writes a port.
    pub exit_io_out: Counter,
    /// Exits in which the guest reads device memory.
    pub exit_mmio_read: Counter,
    /// Exits in which the guest writes device memory.
    pub exit_mmio_write: Counter,
    /// Times a vCPU could not go on.
    pub failures: Counter,
    /// Times KVM would not mark the guest's clock as paused.
    pub kvmclock_ctrl_fails: Counter,
    /// How long a device took for the reads of ports of one exit.
    pub exit_io_in_agg: Latency,
    /// How long a device took for the writes to ports of one exit.
    pub exit_io_out_agg: Latency,
    /// How long a device took for a read of its memory.
    pub exit_mmio_read_agg: Latency,
    /// How long a device took for a write to its memory.
    pub exit_mmio_write_agg: Latency,
}

/// The process itself (`vmm`).
pub struct VmmMetrics = "vmm" {
    /// Panics.
    pub panic_count: Tally,
}

/// Signals received (`signals`).
pub struct SignalMetrics = "signals" {
    /// SIGBUS.
    pub sigbus: Tally,
    /// SIGSEGV.
    pub sigsegv: Tally,
    /// SIGXFSZ.
    pub sigxfsz: Tally,
    /// SIGXCPU.
    pub sigxcpu: Tally,
    /// SIGPIPE.
    pub sigpipe: Tally,
    /// SIGHUP.
    pub sighup: Tally,
    /// SIGILL.
    pub sigill: Tally,
}
}
