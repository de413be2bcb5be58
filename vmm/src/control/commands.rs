//! The requests the machine itself answers.

use vm_config::{BootSource, Drive, Machine, MachinePatch, NetworkInterface};

use super::{AFTER_START, ANY_STATE, BEFORE_START, Command, CommandError};
use crate::{Lifecycle, Vm};

/// `GET /`: in which state the microVM is.
pub struct GetLifecycle;
/// `GET /machine-config`.
pub struct GetMachine;
/// `PUT /machine-config`.
pub struct PutMachine(pub Machine);
/// `PATCH /machine-config`.
pub struct PatchMachine(pub MachinePatch);
/// `PUT /boot-source`.
pub struct PutBootSource(pub BootSource);
/// `PUT /drives/{id}`.
pub struct PutDrive(pub Drive);
/// `PUT /network-interfaces/{id}`.
pub struct PutNetworkInterface(pub NetworkInterface);
/// `PUT /actions` `InstanceStart`.
pub struct InstanceStart;
/// `PUT /actions` `SendCtrlAltDel`.
pub struct SendCtrlAltDel;
/// `PATCH /vm` `Paused`.
pub struct Pause;
/// `PATCH /vm` `Resumed`.
pub struct Resume;
/// `GET /vm/config`.
pub struct GetVmConfig;

/// All that was configured.
#[derive(Clone, Debug)]
pub struct VmConfig {
    /// The machine.
    pub machine: Machine,
    /// What it boots.
    pub boot_source: Option<BootSource>,
    /// Drives, root first.
    pub drives: Vec<Drive>,
    /// Network interfaces.
    pub network_interfaces: Vec<NetworkInterface>,
}

macro_rules! pending {
    ($command:ty, $reply:ty, $allowed:expr) => {
        impl Command for $command {
            type Reply = $reply;
            const ALLOWED: &'static [Lifecycle] = $allowed;
            fn run(self, _vm: &mut Vm) -> Result<Self::Reply, CommandError> {
                Err(CommandError::NotSupported("this request"))
            }
        }
    };
}

pending!(GetLifecycle, Lifecycle, ANY_STATE);
pending!(GetMachine, Machine, ANY_STATE);
pending!(PutMachine, (), BEFORE_START);
pending!(PatchMachine, (), BEFORE_START);
pending!(PutBootSource, (), BEFORE_START);
pending!(PutDrive, (), BEFORE_START);
pending!(PutNetworkInterface, (), BEFORE_START);
pending!(InstanceStart, (), BEFORE_START);
pending!(SendCtrlAltDel, (), AFTER_START);
pending!(Pause, (), AFTER_START);
pending!(Resume, (), AFTER_START);
pending!(GetVmConfig, VmConfig, ANY_STATE);
