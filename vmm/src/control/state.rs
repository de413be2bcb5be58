//! The life of the machine: what it is doing, pause, resume, Ctrl-Alt-Del, the power button.

use std::time::Instant;

use tracing::info;
use vm_config::{
    BalloonConfig, BootSource, ConsoleConfig, Drive, Entropy, Machine, MemoryHotplugConfig,
    MmdsConfig, NetworkInterface, PmemConfig, VmEvent, Vsock,
};

use super::{AFTER_START, ANY_STATE, Command, CommandError};
use crate::metrics::PROCESS;
use crate::{Lifecycle, Vm, diagnosis};

/// In which state the microVM is when all that was asked before is done. [`super::Control::state`] does not wait.
pub struct GetLifecycle;
/// `PATCH /vm` `Paused`.
pub struct Pause;
/// `PATCH /vm` `Resumed`.
pub struct Resume;
/// `PUT /actions` `SendCtrlAltDel`.
pub struct SendCtrlAltDel;
/// `PUT /actions` `SendPowerButton`.
pub struct SendPowerButton;

/// All that was configured.
#[derive(Clone, Debug, Default)]
pub struct VmConfig {
    /// The machine.
    pub machine: Machine,
    /// What it boots.
    pub boot_source: Option<BootSource>,
    /// The balloon.
    pub balloon: Option<BalloonConfig>,
    /// Memory that is plugged while it runs.
    pub memory_hotplug: Option<MemoryHotplugConfig>,
    /// Persistent memory.
    pub pmem: Vec<PmemConfig>,
    /// Drives, root first.
    pub drives: Vec<Drive>,
    /// Network interfaces.
    pub network_interfaces: Vec<NetworkInterface>,
    /// The metadata service.
    pub mmds: Option<MmdsConfig>,
    /// The vsock device.
    pub vsock: Option<Vsock>,
    /// The entropy device.
    pub entropy: Option<Entropy>,
    /// The virtio console.
    pub console: Option<ConsoleConfig>,
}

impl Command for GetLifecycle {
    type Reply = Lifecycle;
    const ALLOWED: &'static [Lifecycle] = ANY_STATE;
    const CHANGES: bool = false;

    fn run(self, vm: &mut Vm) -> Result<Lifecycle, CommandError> {
        Ok(vm.lifecycle)
    }
}

impl Command for Pause {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = AFTER_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let start = Instant::now();
        if let (Lifecycle::Running, Some(machine)) = (vm.lifecycle, &mut vm.machine) {
            machine.pause(&mut vm.event_loop);
            vm.lifecycle = Lifecycle::Paused;
            vm.sender.events.note(VmEvent::Paused);
        }
        let took = start.elapsed();
        PROCESS.latencies_us.vmm_pause_vm.set_us(took);
        info!("'pause vm' VMM action took {} us.", took.as_micros());
        Ok(())
    }
}

impl Command for Resume {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = AFTER_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let start = Instant::now();
        if let (Lifecycle::Paused, Some(machine)) = (vm.lifecycle, &mut vm.machine) {
            machine.resume(&mut vm.event_loop);
            vm.lifecycle = Lifecycle::Running;
            diagnosis::on_resume(vm);
            vm.sender.events.note(VmEvent::Resumed);
        }
        let took = start.elapsed();
        PROCESS.latencies_us.vmm_resume_vm.set_us(took);
        info!("'resume vm' VMM action took {} us.", took.as_micros());
        Ok(())
    }
}

impl Command for SendCtrlAltDel {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = AFTER_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        match &vm.machine {
            Some(machine) => machine.press_ctrl_alt_del(),
            None => Err(CommandError::BeforeStart),
        }
    }
}

impl Command for SendPowerButton {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = AFTER_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let machine = vm.machine.as_ref().ok_or(CommandError::BeforeStart)?;
        machine.press_power_button();
        Ok(())
    }
}
