//! `/drives`, `/network-interfaces`, `/vsock` and `/entropy`.

use devices::virtio::block::{Block, BlockChange};
use devices::virtio::net::Net;
use devices::virtio::rng::Rng;
use devices::virtio::vsock::Vsock;
use vm_config::{Drive, DrivePatch, Entropy, NetworkInterface, NetworkInterfacePatch};

use super::{
    AFTER_START, BEFORE_START, Command, CommandError, DriveError, DrivePatchError, NetworkError,
};
use crate::configuration::Attachment;
use crate::{Lifecycle, Vm, process};

/// `PUT /drives/{id}`.
pub struct PutDrive(pub Drive);
/// `PATCH /network-interfaces/{id}`.
pub struct PatchNetworkInterface(pub NetworkInterfacePatch);
/// `PATCH /drives/{id}`.
pub struct PatchDrive(pub DrivePatch);
/// `PUT /network-interfaces/{id}`.
pub struct PutNetworkInterface(pub NetworkInterface);
/// `PUT /vsock`.
pub struct PutVsock(pub vm_config::Vsock);
/// `PUT /entropy`.
pub struct PutEntropy(pub Entropy);

impl Command for PutDrive {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let drive = self.0;
        let drives = &mut vm.config.drives;
        let is_other_root = |other: &Attachment<Drive, Block>| {
            other.config.is_root_device && other.config.drive_id != drive.drive_id
        };
        if drive.is_root_device && drives.iter().any(is_other_root) {
            return Err(DriveError::RootExists.into());
        }
        let device = Block::open(&drive, &vm.config.ring).map_err(DriveError::Create)?;
        let place = drives
            .iter()
            .position(|d| d.config.drive_id == drive.drive_id);
        let is_root = drive.is_root_device;
        let attachment = Attachment::new(drive, device);
        match place {
            Some(index) if !is_root => drives[index] = attachment,
            other => {
                other.map(|index| drives.remove(index));
                // The guest finds its root drive first.
                let index = if is_root { 0 } else { drives.len() };
                drives.insert(index, attachment);
            }
        }
        Ok(())
    }
}

impl Command for PatchDrive {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = AFTER_START;

    /// Opens what is new while the guest still runs; then all of it changes at once, or nothing.
    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let refuse = |why| CommandError::from(DriveError::Patch(why));
        let patch = self.0;
        let mut drives = vm.config.drives.iter();
        let place = drives
            .position(|drive| drive.config.drive_id == patch.drive_id)
            .ok_or_else(|| refuse(DrivePatchError::NotFound))?;
        if patch.path_on_host.is_none() && patch.rate_limiter.is_none() {
            return Err(refuse(DrivePatchError::NothingToChange));
        }
        let patched = vm.config.drives[place].config.patched(&patch);
        let change = BlockChange::prepare(&patched, &patch).map_err(|why| refuse(why.into()))?;
        let old = vm.change_machine(|machine| {
            machine
                .change_device(&patch.drive_id, |block: &mut Block| block.change(change))
                .ok_or_else(|| refuse(DrivePatchError::NotFound))
        })?;
        drop(old);
        vm.config.drives[place].config = patched;
        Ok(())
    }
}

impl Command for PutNetworkInterface {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let interface = self.0;
        let interfaces = &mut vm.config.network_interfaces;
        let others = interfaces
            .iter()
            .filter(|other| other.config.iface_id != interface.iface_id);
        if let Some(mac) = interface.guest_mac
            && others
                .clone()
                .any(|other| other.config.guest_mac == Some(mac))
        {
            return Err(NetworkError::MacInUse(mac).into());
        }
        // The tap of the interface it replaces is closed first: it may be the same one.
        let place = interfaces
            .iter()
            .position(|other| other.config.iface_id == interface.iface_id);
        if let Some(index) = place {
            interfaces.remove(index);
        }
        let device = Net::open(&interface).map_err(NetworkError::Create)?;
        let index = place.unwrap_or(interfaces.len());
        interfaces.insert(index, Attachment::new(interface, device));
        Ok(())
    }
}

impl Command for PatchNetworkInterface {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = AFTER_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let patch = self.0;
        let mut interfaces = vm.config.network_interfaces.iter();
        let place = interfaces
            .position(|interface| interface.config.iface_id == patch.iface_id)
            .ok_or(NetworkError::NotFound)?;
        vm.change_machine(|machine| {
            let changed =
                machine.change_device(&patch.iface_id, |net: &mut Net| net.change(&patch));
            Ok(changed.ok_or(NetworkError::NotFound)?)
        })?;
        let stated = &mut vm.config.network_interfaces[place].config;
        *stated = stated.patched(&patch);
        Ok(())
    }
}

impl Command for PutVsock {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        // The socket of the device it replaces goes first: it may be the same path.
        vm.config.vsock = None;
        process::remove_at_end(None);
        let device = Vsock::open(&self.0)?;
        process::remove_at_end(Some(self.0.uds_path.clone()));
        vm.config.vsock = Some(Attachment::new(self.0, device));
        Ok(())
    }
}

impl Command for PutEntropy {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let device = Rng::open(&self.0)?;
        vm.config.entropy = Some(Attachment::new(self.0, device));
        Ok(())
    }
}
