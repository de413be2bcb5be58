//! What a user can say about a microVM: machine, boot, devices, limits.
//!
//! Every type here is plain data with serde; a value that exists has the shape the API promises, and
//! `check` methods hold the rules that need more than one field. Nothing in this crate touches the host.

mod balloon;
mod boot;
mod console;
mod cpu;
mod devices;
mod error;
mod events;
mod explain;
mod ids;
mod limits;
mod logger;
mod machine;
mod memory_hotplug;
mod metrics;
mod mmds;
mod pmem;
mod serial;
mod snapshot;

pub use balloon::{
    BalloonConfig, BalloonPatch, BalloonStatistics, BalloonStatisticsPatch, GuestStatistics,
    HintingStart, HintingStatus,
};
pub use boot::BootSource;
pub use console::ConsoleConfig;
pub use cpu::{
    Bitmap, CpuConfig, CpuidModifier, CpuidRegister, KvmCapability, MsrModifier, RegisterModifier,
};
pub use devices::{
    BlockEngine, CacheType, DeviceTransport, Drive, DrivePatch, DriveSerial, Entropy, MacAddress,
    NetworkBackend, NetworkInterface, NetworkInterfacePatch, Vsock,
};
pub use error::{DriveSerialError, LogLevelError, MacAddressError, MachineError};
pub use events::{DeviceKind, DeviceName, ExitCause, VmEvent};
pub use explain::{Explain, Explanation, FaultCode, FaultKind};
pub use ids::{DeviceId, InstanceId, InstanceIdError};
pub use limits::{RateLimiter, TokenBucket};
pub use logger::{LogLevel, LoggerConfig};
pub use machine::{CpuTemplate, HugePages, MAX_VCPUS, Machine, MachinePatch};
pub use memory_hotplug::{
    MemoryHotplugConfig, MemoryHotplugError, MemoryHotplugPatch, MemoryHotplugStatus,
};
pub use metrics::MetricsConfig;
pub use mmds::{MmdsConfig, MmdsConfigError, MmdsVersion};
pub use pmem::{PmemConfig, PmemPatch};
pub use serial::SerialConfig;
pub use snapshot::{
    LoadedPages, MemoryBackend, MemoryBackendType, MemorySourceError, NetworkOverride,
    SnapshotCreate, SnapshotLoad, SnapshotType, VsockOverride,
};
