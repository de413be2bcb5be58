//! `/drives` and `/network-interfaces`.

use devices::virtio::block::Block;
use devices::virtio::net::Net;
use vm_config::{Drive, NetworkInterface};

use super::{BEFORE_START, Command, CommandError, DriveError, NetworkError};
use crate::configuration::Attachment;
use crate::{Lifecycle, Vm};

/// `PUT /drives/{id}`.
pub struct PutDrive(pub Drive);
/// `PUT /network-interfaces/{id}`.
pub struct PutNetworkInterface(pub NetworkInterface);

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
        let device = Block::open(&drive).map_err(DriveError::Create)?;
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
