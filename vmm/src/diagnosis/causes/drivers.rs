//! How far drivers came with their devices, and what it means when they did not.

use devices::virtio::{VIRTIO_ID_BLOCK, VIRTIO_ID_NET, VIRTIO_ID_PMEM};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
};
use virtio_bindings::virtio_ids::{
    VIRTIO_ID_BALLOON, VIRTIO_ID_CONSOLE, VIRTIO_ID_MEM, VIRTIO_ID_RNG, VIRTIO_ID_VSOCK,
};
use vm_config::DeviceTransport;

use super::{SIGN_OF_LIFE, has_word, seen};
use crate::diagnosis::facts::{DeviceFacts, Facts};
use crate::diagnosis::report::{Cause, CauseCode, Confidence, DeviceReport, Evidence, Phase};

/// Bits of the status register, in the order in which a driver sets them.
const STATUS: [(u32, &str); 6] = [
    (VIRTIO_CONFIG_S_ACKNOWLEDGE, "acknowledge"),
    (VIRTIO_CONFIG_S_DRIVER, "driver"),
    (VIRTIO_CONFIG_S_FEATURES_OK, "features_ok"),
    (VIRTIO_CONFIG_S_DRIVER_OK, "driver_ok"),
    (VIRTIO_CONFIG_S_NEEDS_RESET, "needs_reset"),
    (VIRTIO_CONFIG_S_FAILED, "failed"),
];

impl DeviceFacts {
    /// The kind, in the interface's words, and the driver of Linux for it.
    fn kind(&self) -> (&'static str, &'static str) {
        match self.device_type {
            VIRTIO_ID_BLOCK => ("block", "virtio_blk"),
            VIRTIO_ID_NET => ("net", "virtio_net"),
            VIRTIO_ID_PMEM => ("pmem", "virtio_pmem"),
            VIRTIO_ID_BALLOON => ("balloon", "virtio_balloon"),
            VIRTIO_ID_CONSOLE => ("console", "virtio_console"),
            VIRTIO_ID_MEM => ("mem", "virtio_mem"),
            VIRTIO_ID_RNG => ("entropy", "virtio_rng"),
            VIRTIO_ID_VSOCK => ("vsock", "vmw_vsock_virtio_transport"),
            _ => ("unknown", "its virtio driver"),
        }
    }

    fn has(&self, bit: u32) -> bool {
        self.progress.status & bit != 0
    }

    pub(crate) fn is_driver_ok(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER_OK)
    }

    /// A driver for its kind has it.
    fn is_claimed(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER)
    }

    /// A root can be on it.
    pub(super) fn can_be_root(&self) -> bool {
        matches!(self.device_type, VIRTIO_ID_BLOCK | VIRTIO_ID_PMEM)
    }

    fn status(&self) -> Vec<&'static str> {
        let reached = STATUS.iter().filter(|(bit, _)| self.has(*bit));
        reached.map(|(_, name)| *name).collect()
    }
}

/// What a client is told of it.
pub(crate) fn report(device: &DeviceFacts) -> DeviceReport {
    DeviceReport {
        id: device.id.clone(),
        kind: device.kind().0,
        place: device.place.clone(),
        status: device.status(),
        driver_ok: device.is_driver_ok(),
        queues: device.progress.queues,
        queues_enabled: device.progress.ready_queues,
    }
}

/// Nobody ever claimed a device, though there are some.
pub(super) fn are_untouched(facts: &Facts) -> bool {
    !facts.devices.is_empty() && !facts.devices.iter().any(DeviceFacts::is_claimed)
}

/// The command line forbids the way to the devices.
pub(super) fn hidden(facts: &Facts) -> Option<Cause> {
    let line = facts.command_line.as_deref()?;
    if !are_untouched(facts) {
        return None;
    }
    let (word, confidence, remedy) = match facts.transport {
        DeviceTransport::Pci if has_word(line, "pci=off") => (
            "pci=off",
            Confidence::Likely,
            "take pci=off out of boot_args: with --enable-pci all devices are on PCI",
        ),
        _ if has_word(line, "acpi=off") => (
            "acpi=off",
            Confidence::Possible,
            "take acpi=off out of boot_args: most kernels find the devices by ACPI alone",
        ),
        _ => return None,
    };
    Some(Cause {
        code: CauseCode::DevicesHidden,
        confidence,
        summary: format!("the command line has {word}, so the kernel does not see its devices"),
        remedy: remedy.to_owned(),
        evidence: vec![
            seen(format!("{word} in the command line")),
            seen("no driver has looked at any device"),
        ],
    })
}

/// No driver took what the root may be on, or took anything at all; `lost_root` is where the guest says that its root is not
/// there.
pub(super) fn no_driver(facts: &Facts, lost_root: Option<&Evidence>) -> Option<Cause> {
    let roots = || facts.devices.iter().filter(|device| device.can_be_root());
    let is_root_idle = roots().next().is_some() && !roots().any(DeviceFacts::is_driver_ok);
    let is_old = facts.uptime.is_some_and(|uptime| uptime >= SIGN_OF_LIFE);
    let is_over = facts.phase == Phase::Ended || facts.has_panicked || is_old;
    let confidence = if lost_root.is_some() && is_root_idle {
        Confidence::Likely
    } else if are_untouched(facts) && is_over && !facts.is_silent() {
        Confidence::Possible
    } else {
        return None;
    };
    let idle: Vec<_> = if is_root_idle {
        roots().collect()
    } else {
        facts.devices.iter().collect()
    };
    let first = idle.first()?;
    let (bus, options) = match facts.transport {
        DeviceTransport::Mmio => ("virtio_mmio", "CONFIG_VIRTIO_MMIO"),
        DeviceTransport::Pci => ("virtio_pci", "CONFIG_VIRTIO_PCI and CONFIG_PCI"),
    };
    let (kind, driver) = first.kind();
    let is_bus_there = idle.iter().any(|d| d.has(VIRTIO_CONFIG_S_ACKNOWLEDGE));
    let remedy = if is_bus_there {
        format!(
            "build the {driver} driver into the kernel, or have the initrd load it: {bus} works, but nothing in the guest drives a {kind} device"
        )
    } else {
        format!(
            "build {options} and the {driver} driver into the kernel (=y), or have the initrd load {bus} and {driver}"
        )
    };
    let mut evidence: Vec<_> = idle
        .iter()
        .take(8)
        .map(|device| not_driven(device))
        .collect();
    evidence.extend(lost_root.cloned());
    Some(Cause {
        code: CauseCode::NoVirtioDriver,
        confidence,
        summary: format!(
            "no driver in the guest runs the {kind} device {:?}",
            first.id
        ),
        remedy,
        evidence,
    })
}

fn not_driven(device: &DeviceFacts) -> Evidence {
    let id = &device.id;
    let (kind, _) = device.kind();
    let status = device.status();
    seen(if status.is_empty() {
        format!(
            "{kind} device {id:?} at {}: no driver has looked at it",
            device.place
        )
    } else {
        format!(
            "{kind} device {id:?} at {}: its driver came as far as {}",
            device.place,
            status.join(", ")
        )
    })
}
