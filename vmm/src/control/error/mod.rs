//! Why a request was refused.

mod codes;

use std::io;
use std::path::PathBuf;

use devices::legacy::KeyboardFull;
use devices::mmds::store::StoreError;
use devices::virtio::block::DiskError;
use devices::virtio::console::ConsoleError;
use devices::virtio::net::NetError;
use devices::virtio::vsock::VsockError;
use vm_config::{MacAddress, MachineError, MemoryHotplugError};

use super::balloon::{BalloonConfigError, BalloonUpdateError};
use super::hotplug::REMOVAL_TIMEOUT;
use super::memory_hotplug::MemoryHotplugUpdateError;
use super::mmds::MmdsConfigError;
use super::plug::MAX_DESCRIBED;
use super::pmem::PmemConfigError;
use super::snapshot::{SnapshotCreateError, SnapshotLoadError};
use crate::attach::AttachError;
use crate::boot::cmdline::CmdlineError;
use crate::builder::StartError;
use crate::metrics::MetricsError;

/// Why a request was refused. Printed with its chain of sources, joined by `: `, this is the API's
/// `fault_message`; the wording is what existing clients look for.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Asked too early.
    #[error("The requested operation is not supported before starting the microVM.")]
    BeforeStart,
    /// Asked too late.
    #[error("The requested operation is not supported after starting the microVM.")]
    AfterStart,
    /// A device for a microVM that runs; only a PCI bus could take it.
    #[error("PCI is not enabled")]
    NoPci,
    /// `PUT` of a device for a microVM that runs.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// `PUT` and `DELETE` of devices of a microVM that runs.
    #[error(transparent)]
    Hotplug(#[from] HotplugError),
    /// `PUT`, `PATCH /machine-config`.
    #[error("Machine config error")]
    Machine(#[source] MachineError),
    /// `PUT /boot-source`.
    #[error("Boot source error")]
    BootSource(#[from] BootSourceError),
    /// `PUT /drives`.
    #[error("Drive config error")]
    Drive(#[from] DriveError),
    /// `PUT /network-interfaces`.
    #[error("Network config error")]
    Network(#[from] NetworkError),
    /// `PUT`, `PATCH /pmem`.
    #[error("Pmem config error")]
    Pmem(#[from] PmemConfigError),
    /// `PUT /hotplug/memory`.
    #[error("Memory hotplug config error")]
    MemoryHotplug(#[from] MemoryHotplugError),
    /// `GET`, `PATCH /hotplug/memory`.
    #[error("Memory hotplug update error")]
    MemoryHotplugUpdate(#[from] MemoryHotplugUpdateError),
    /// `GET`, `PUT`, `PATCH /mmds`.
    #[error("MMDS error")]
    Mmds(#[source] StoreError),
    /// `PUT`, `PATCH /mmds` of more than the store takes.
    #[error("MMDS limit exceeded error")]
    MmdsLimit(#[source] StoreError),
    /// `PUT /mmds/config`.
    #[error("MMMDS config error")]
    MmdsConfig(#[from] MmdsConfigError),
    /// `PUT /vsock`.
    #[error("Vsock config error")]
    Vsock(#[from] VsockError),
    /// `PUT /console`.
    #[error("Console config error")]
    Console(#[from] ConsoleError),
    /// `PUT /balloon`.
    #[error("Balloon config error")]
    BalloonConfig(#[from] BalloonConfigError),
    /// `PATCH` below `/balloon`.
    #[error("Balloon update error")]
    BalloonUpdate(#[from] BalloonUpdateError),
    /// `GET` below `/balloon`.
    #[error("Internal VMM error")]
    Internal(#[source] BalloonUpdateError),
    /// `PUT /actions` `InstanceStart`.
    #[error("Start microvm error")]
    Start(#[from] StartError),
    /// `PUT /actions` `SendCtrlAltDel`.
    #[error("Internal VMM error: I8042 error")]
    Keyboard(#[source] KeyboardFull),
    /// `PUT /snapshot/create`.
    #[error("Create snapshot error")]
    SnapshotCreate(#[from] SnapshotCreateError),
    /// `PUT /snapshot/load`.
    #[error("Load snapshot error")]
    SnapshotLoad(#[from] SnapshotLoadError),
    /// `PUT /logger`.
    #[error("Logger error")]
    Logger(#[from] LoggerError),
    /// `PUT /metrics`.
    #[error("Metrics error")]
    Metrics(#[from] MetricsError),
}

/// A log that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("Failed to open target file")]
pub struct LoggerError(#[from] io::Error);

/// A boot source that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum BootSourceError {
    /// The kernel.
    #[error(
        "The kernel file cannot be opened: {error} {}; check the path, as this process sees it",
        path.display()
    )]
    Kernel {
        /// Which file.
        path: PathBuf,
        /// The host's answer; part of the message, so not its source.
        error: io::Error,
    },
    /// The initial RAM disk.
    #[error("The initrd file cannot be opened due to invalid path or invalid permissions. {0}")]
    Initrd(io::Error),
    /// The command line.
    #[error(transparent)]
    CommandLine(#[from] CmdlineError),
}

/// A device that cannot be added, or cannot go.
#[derive(Debug, thiserror::Error)]
pub enum HotplugError {
    /// The name is taken.
    #[error("Device ID in use; choose another id, or DELETE the device that has it")]
    InUse,
    /// No device of that name.
    #[error("Device not found")]
    NotFound,
    /// The guest runs from it.
    #[error("Cannot unplug root device")]
    Root,
    /// Nobody runs who could let it go.
    #[error(
        "the guest uses the device and is paused; resume it, or send the DELETE with ?force=true"
    )]
    Paused,
    /// The guest did not let it go.
    #[error(
        "the guest did not let go of the device within {} s, so it stays; check that the guest's kernel has ACPI hot plug for PCI (CONFIG_HOTPLUG_PCI_ACPI), take the device out of use there, or send the DELETE with ?force=true",
        REMOVAL_TIMEOUT.as_secs()
    )]
    NoAnswer,
}

/// A drive that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// A back end in another process, which cannot reach guest memory.
    #[error(
        "Unable to create the virtio block device: Vhost user backend error: the guest's memory is this process's own, so no back end can work in it; have a drive with a `socket` at the start, or give `path_on_host`"
    )]
    PrivateMemory,
    /// There is one root at most.
    #[error("A root block device already exists!")]
    RootExists,
    /// There is one root at most.
    #[error("Attempt to add block as a root device while the root device defined as a pmem device")]
    RootIsPmem,
    /// A guest that runs has its root already.
    #[error(
        "A root block device already exists, or the guest was started without one; make is_root_device false, or state the root before the start"
    )]
    RootAfterStart,
    /// More than can be described.
    #[error(
        "there are {MAX_DESCRIBED} drives already, more than a machine has room for; leave this one out, or replace one by its drive_id"
    )]
    TooMany,
    /// The device or its back end.
    #[error("Unable to create the virtio block device")]
    Create(#[source] DiskError),
    /// `PATCH /drives`.
    #[error("Unable to patch the block device: {0} Please verify the request arguments.")]
    Patch(DrivePatchError),
}

/// A drive that cannot be changed; part of the message of [`DriveError::Patch`], so not its source.
#[derive(Debug, thiserror::Error)]
pub enum DrivePatchError {
    /// No drive of that name.
    #[error("Failed perform action on device: Device not found")]
    NotFound,
    /// A refresh, which only a back end in another process has.
    #[error(
        "Running method expected different backend. Nothing is to be changed; give `path_on_host`, `overlay_path` or `rate_limiter`."
    )]
    NothingToChange,
    /// A change, which only a file takes.
    #[error(
        "Running method expected different backend. A back end in another process decides itself; give `drive_id` alone to read its configuration anew."
    )]
    BackEndDecides,
    /// The new file.
    #[error("{0}.")]
    Disk(#[from] DiskError),
}

/// A network interface that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Two interfaces with one address.
    #[error("The MAC address is already in use: {0}")]
    MacInUse(MacAddress),
    /// More than can be described.
    #[error(
        "Could not create the network device: there are {MAX_DESCRIBED} interfaces already, more than a machine has room for; leave this one out, or replace one by its iface_id"
    )]
    TooMany,
    /// `PATCH` of an interface that does not exist.
    #[error(
        "Unable to update the net device: Failed perform action on device: Device not found; use the `iface_id` it was made with"
    )]
    NotFound,
    /// `PATCH` of limits on an interface whose frames nobody here sees.
    #[error(
        "Unable to update the net device: with `backend` Vhost its frames pass through the host's kernel, past this process, and no rate limiter holds them; limit the tap on the host (`tc`)"
    )]
    VhostLimits,
    /// An interface that the metadata service uses, and that cannot have it any more.
    #[error(
        "Could not create the network device: /mmds/config names this interface, and with `backend` Vhost its frames pass through the host's kernel, past the metadata service; leave `backend` out, or name other interfaces there first"
    )]
    VhostMmds,
    /// The device or its tap.
    #[error(transparent)]
    Create(#[from] NetError),
}
