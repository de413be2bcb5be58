//! What is known of a microVM at one moment, collected on the event loop: plain data, bounded, without a look at any file.

use std::path::PathBuf;
use std::time::Duration;

use devices::tail::Written;
use devices::virtio::console::Console;
use devices::virtio::transport::Progress;
use vm_config::DeviceTransport;

use super::StartFailure;
use super::report::Phase;
use super::vcpu::{Place as VcpuPlace, VcpuFacts};
use crate::attach::VirtioAttachment;
use crate::placement::Place;
use crate::{ExitReason, Lifecycle, Vm};

/// How long vCPUs may take to say where they are. They do in microseconds, unless they wait for a device.
const PATIENCE: Duration = Duration::from_millis(250);

/// What is known of a microVM at one moment. [`Facts::diagnose`] makes a diagnosis of it, on any thread.
pub struct Facts {
    pub(super) phase: Phase,
    pub(super) uptime: Option<Duration>,
    pub(super) end: Option<ExitReason>,
    pub(super) start_failure: Option<StartFailure>,
    pub(super) has_panicked: bool,
    pub(super) missing: Vec<String>,
    pub(super) transport: DeviceTransport,
    pub(super) kernel: Option<PathBuf>,
    pub(super) has_initrd: bool,
    pub(super) mem_size_mib: usize,
    /// As the guest was given it.
    pub(super) command_line: Option<String>,
    pub(super) vcpus: Vec<VcpuFacts>,
    pub(super) devices: Vec<DeviceFacts>,
    pub(super) serial: Written,
    pub(super) console: Option<Written>,
}

/// A virtio device.
pub(super) struct DeviceFacts {
    pub(super) id: String,
    /// Virtio device type (virtio 1.2 §5).
    pub(super) device_type: u32,
    pub(super) place: String,
    pub(super) progress: Progress,
}

impl Facts {
    /// The vCPUs run: what they do may differ a moment later.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Not a byte came out of the guest.
    pub(super) fn is_silent(&self) -> bool {
        self.serial.count == 0 && self.console.as_ref().is_none_or(|text| text.count == 0)
    }
}

impl Vm {
    /// What is known now. Running vCPUs leave the guest for a moment, and go on as before.
    pub(crate) fn examine(&mut self) -> Facts {
        let phase = match (self.lifecycle, &self.doctor.end) {
            (_, Some(_)) => Phase::Ended,
            (Lifecycle::NotStarted, None) => Phase::NotStarted,
            (Lifecycle::Running, None) => Phase::Running,
            (Lifecycle::Paused, None) => Phase::Paused,
        };
        let source = self.config.boot_source.as_ref();
        let mut facts = Facts {
            phase,
            uptime: self.doctor.started.map(|started| started.elapsed()),
            end: self.doctor.end.clone(),
            start_failure: self.doctor.start_failure.clone(),
            has_panicked: false,
            missing: Vec::new(),
            transport: self.config.transport,
            kernel: source.map(|source| source.kernel_image_path.clone()),
            has_initrd: source.is_some_and(|source| source.initrd_path.is_some()),
            mem_size_mib: self.config.machine.mem_size_mib,
            command_line: None,
            vcpus: Vec::new(),
            devices: Vec::new(),
            serial: Written::default(),
            console: None,
        };
        self.doctor.questions = self.doctor.questions.wrapping_add(1);
        let question = self.doctor.questions;
        let Some(machine) = &self.machine else {
            facts.missing = self.missing();
            return facts;
        };
        facts.has_panicked = machine.panic_notice().is_told();
        facts.command_line = Some(machine.command_line().to_owned());
        facts.devices = machine.virtio().iter().map(DeviceFacts::of).collect();
        facts.serial = machine.serial().written();
        facts.console = machine.look(&crate::attach::console_id(), Console::written);
        let sights = machine.look_at_vcpus(&mut self.event_loop, question, PATIENCE);
        facts.vcpus = (0..)
            .zip(machine.vcpus())
            .map(|(index, vcpu)| {
                let sight = sights.iter().find(|sight| sight.vcpu == index);
                let state = sight.and_then(|sight| sight.state.as_ref().ok());
                let place = state.map(|state| VcpuPlace::of(state, machine.memory()));
                VcpuFacts::new(index, vcpu.exits(), place)
            })
            .collect();
        facts
    }

    /// What a start needs and does not have.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let Some(source) = &self.config.boot_source else {
            missing.push("what to boot: PUT /boot-source with kernel_image_path".to_owned());
            return missing;
        };
        for path in [Some(&source.kernel_image_path), source.initrd_path.as_ref()] {
            if let Some(path) = path
                && let Err(error) = crate::boot::open(path)
            {
                missing.push(format!("{path:?}, which cannot be opened: {error}"));
            }
        }
        missing
    }
}

impl DeviceFacts {
    fn of(attachment: &VirtioAttachment) -> Self {
        let slot = attachment.transport.slot();
        let place = match &attachment.place {
            Place::Mmio(place) => format!("MMIO {:#x}", place.address.0),
            Place::Pci(place) => format!("PCI 00:{:02x}.0", place.device),
        };
        Self {
            id: attachment.id.to_string(),
            device_type: slot.device_type(),
            place,
            progress: slot.progress(),
        }
    }
}
