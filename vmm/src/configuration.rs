//! What was configured so far, and what was opened for it.

use std::sync::Arc;

use devices::mmds::Mmds;
use devices::virtio::VirtioDevice;
use devices::virtio::block::SharedRing;
use devices::virtio::console::Console;
use devices::virtio::net::Net;
use devices::virtio::vsock::Vsock;
use vm_config::{
    BalloonConfig, BootSource, ConsoleConfig, CpuConfig, DeviceId, DeviceTransport, Drive, Entropy,
    Machine, MemoryHotplugConfig, MmdsConfig, NetworkInterface, PmemConfig, SerialConfig,
};

use crate::control::VmConfig;
use crate::memory::Sharing;

/// What was configured so far. Files and taps are opened when they are named, so that the one who names them
/// hears what is wrong.
#[derive(Default)]
pub(crate) struct Configuration {
    /// Said when the process started.
    pub(crate) transport: DeviceTransport,
    /// Said when the process started.
    pub(crate) has_boot_timer: bool,
    /// Its `cpu_template` is never `None` in name.
    pub(crate) machine: Machine,
    /// Empty when `machine` has a named template: the later of the two counts.
    pub(crate) cpu: CpuConfig,
    pub(crate) boot_source: Option<BootSource>,
    /// Shared by the drives of the engine `Async`.
    pub(crate) ring: SharedRing,
    /// Root first.
    pub(crate) drives: Vec<Attachment<Drive, Box<dyn VirtioDevice>>>,
    pub(crate) network_interfaces: Vec<Attachment<NetworkInterface, Net>>,
    /// The metadata; made when the process started.
    pub(crate) mmds: Arc<Mmds>,
    /// How guests reach it; each of its interfaces is described.
    pub(crate) mmds_config: Option<MmdsConfig>,
    /// In the guest's order; opened at the start.
    pub(crate) pmem: Vec<PmemConfig>,
    pub(crate) vsock: Option<Attachment<vm_config::Vsock, Vsock>>,
    pub(crate) entropy: Option<Entropy>,
    pub(crate) console: Option<Attachment<ConsoleConfig, Console>>,
    pub(crate) memory_hotplug: Option<MemoryHotplugConfig>,
    pub(crate) balloon: Option<BalloonConfig>,
    /// Opened at the start.
    pub(crate) serial: SerialConfig,
}

/// A device as the user stated it, and as it was opened.
pub(crate) struct Attachment<C, D> {
    pub(crate) config: C,
    /// Gone once the machine took it, or it was closed.
    device: Option<D>,
}

impl<C, D> Attachment<C, D> {
    pub(crate) fn new(config: C, device: D) -> Self {
        Self {
            config,
            device: Some(device),
        }
    }

    /// A device that a machine has.
    pub(crate) fn taken(config: C) -> Self {
        Self {
            config,
            device: None,
        }
    }

    /// The device, while no machine has it.
    pub(crate) fn device_mut(&mut self) -> Option<&mut D> {
        self.device.as_mut()
    }

    /// Lets go of the device; whoever takes it next opens it again.
    pub(crate) fn close(&mut self) {
        self.device = None;
    }

    /// Takes the device for a machine; opens it again when it was closed, or an earlier start took it and failed.
    pub(crate) fn take<E>(&mut self, open: impl FnOnce(&C) -> Result<D, E>) -> Result<D, E> {
        match self.device.take() {
            Some(device) => Ok(device),
            None => open(&self.config),
        }
    }
}

/// The name of the one memory device.
pub(crate) fn mem_id() -> DeviceId {
    DeviceId("mem".to_owned())
}

/// The name of the one balloon.
pub(crate) fn balloon_id() -> DeviceId {
    DeviceId("balloon".to_owned())
}

impl Configuration {
    /// Whether the guest's root is a drive.
    pub(crate) fn has_root_drive(&self) -> bool {
        let mut drives = self.drives.iter();
        drives.any(|drive| drive.config.is_root_device)
    }

    /// Whether the guest's root is persistent memory.
    pub(crate) fn has_root_pmem(&self) -> bool {
        self.pmem.iter().any(|pmem| pmem.root_device)
    }

    /// Whether another process works in guest memory.
    pub(crate) fn memory_sharing(&self) -> Sharing {
        let has_back_end = self
            .drives
            .iter()
            .any(|drive| drive.config.socket.is_some());
        if has_back_end {
            Sharing::Shared
        } else {
            Sharing::Private
        }
    }

    /// All of it in the user's words.
    pub(crate) fn to_stated(&self) -> VmConfig {
        VmConfig {
            machine: self.machine.clone(),
            boot_source: self.boot_source.clone(),
            balloon: self.balloon.clone(),
            pmem: self.pmem.clone(),
            memory_hotplug: self.memory_hotplug,
            drives: self.drives.iter().map(|d| d.config.clone()).collect(),
            network_interfaces: self
                .network_interfaces
                .iter()
                .map(|n| n.config.clone())
                .collect(),
            mmds: self.mmds_config.clone(),
            vsock: self.vsock.as_ref().map(|v| v.config.clone()),
            entropy: self.entropy.clone(),
            console: self.console.as_ref().map(|c| c.config.clone()),
        }
    }
}
