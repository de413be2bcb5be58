//! `/drives`, `/network-interfaces`, `/vsock` and `/entropy`.

use devices::virtio::VirtioDevice;
use devices::virtio::block::{self, Block, BlockChange, DiskError, LockWait, VhostUserBlock};
use devices::virtio::net::Net;
use devices::virtio::vsock::Vsock;
use vm_config::{
    DeviceId, Drive, DrivePatch, Entropy, MacAddress, NetworkBackend, NetworkInterface,
    NetworkInterfacePatch, RateLimiter,
};

use super::plug::{Pluggable, Target, put};
use super::sealing::Sealings;
use super::{
    AFTER_START, ANY_STATE, BEFORE_START, Command, CommandError, DriveError, DrivePatchError,
    NetworkError,
};
use crate::configuration::{Attachment, Configuration};
use crate::memory::Sharing;
use crate::{Lifecycle, Vm, process};

/// The most drives, and the most interfaces, that can be described: more than a machine has room for, which
/// `InstanceStart` tells, and few enough for the descriptors they hold until then.
pub(super) const MAX_DESCRIBED: usize = 64;

/// `PUT /drives/{id}`. After the start, it is put on the PCI bus.
pub struct PutDrive(pub Drive);
/// `PATCH /network-interfaces/{id}`.
pub struct PatchNetworkInterface(pub NetworkInterfacePatch);
/// `PATCH /drives/{id}`.
pub struct PatchDrive(pub DrivePatch);
/// `PUT /network-interfaces/{id}`. After the start, as with a drive.
pub struct PutNetworkInterface(pub NetworkInterface);
/// `PUT /vsock`.
pub struct PutVsock(pub vm_config::Vsock);
/// `PUT /entropy`.
pub struct PutEntropy(pub Entropy);

impl Command for PutDrive {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = ANY_STATE;
    const CONFIGURES: bool = true;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        put(self, vm)
    }
}

impl Pluggable for PutDrive {
    fn describe(self, config: &mut Configuration) -> Result<(), CommandError> {
        let drive = self.0;
        let drives = &config.drives;
        let is_other_root = |other: &Attachment<Drive, Box<dyn VirtioDevice>>| {
            other.config.is_root_device && other.config.drive_id != drive.drive_id
        };
        if drive.is_root_device && drives.iter().any(is_other_root) {
            return Err(DriveError::RootExists.into());
        }
        if drive.is_root_device && config.has_root_pmem() {
            return Err(DriveError::RootIsPmem.into());
        }
        let drives = &mut config.drives;
        let place = drives
            .iter()
            .position(|d| d.config.drive_id == drive.drive_id);
        if place.is_none() && drives.len() >= MAX_DESCRIBED {
            return Err(DriveError::TooMany.into());
        }
        // An overlay and a back end serve one: it is closed first when the drive to be replaced has it. That one stays
        // if this fails.
        if let Some(index) = place {
            let old = &drives[index].config;
            let has_overlay =
                drive.overlay_path.is_some() && old.overlay_path == drive.overlay_path;
            if has_overlay || (drive.socket.is_some() && old.socket == drive.socket) {
                drives[index].close();
            }
        }
        let device = block::open(&drive, &config.ring, LockWait::Second);
        let device = device.map_err(DriveError::Create)?;
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

    fn id(&self) -> DeviceId {
        self.0.drive_id.clone()
    }

    fn is_known(config: &Configuration, id: &DeviceId) -> bool {
        let mut drives = config.drives.iter();
        drives.any(|drive| drive.config.drive_id == *id)
    }

    fn plug(self, to: Target<'_>) -> Result<(), CommandError> {
        let drive = &self.0;
        if drive.is_root_device {
            return Err(refused_root(to.config).into());
        }
        if drive.socket.is_some() && to.config.memory_sharing() == Sharing::Private {
            return Err(DriveError::PrivateMemory.into());
        }
        let device = block::open(drive, &to.config.ring, LockWait::None);
        let device = device.map_err(DriveError::Create)?;
        to.machine.plug(self.id(), device, None, to.sender)?;
        to.config.drives.push(Attachment::taken(self.0));
        Ok(())
    }
}

/// Why a guest that runs gets no root drive.
fn refused_root(config: &Configuration) -> DriveError {
    if config.has_root_drive() {
        DriveError::RootExists
    } else if config.has_root_pmem() {
        DriveError::RootIsPmem
    } else {
        DriveError::RootAfterStart
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
        let is_empty = patch.path_on_host.is_none()
            && patch.overlay_path.is_none()
            && patch.lower_overlay_paths.is_none()
            && !patch.seal_overlay
            && patch.rate_limiter.is_none();
        match (&vm.config.drives[place].config.socket, is_empty) {
            (None, true) => return Err(refuse(DrivePatchError::NothingToChange)),
            (Some(_), false) => return Err(refuse(DrivePatchError::BackEndDecides)),
            (Some(_), true) => return refresh(vm, &patch),
            (None, false) if patch.seal_overlay => return seal(vm, &patch),
            (None, false) => {}
        }
        let drive = &vm.config.drives[place].config;
        let patched = drive.patched(&patch);
        let change = BlockChange::prepare(drive, &patch).map_err(|why| {
            let machine = vm.machine.as_ref();
            machine.map(|machine| machine.look(&patch.drive_id, Block::count_refusal));
            refuse(why.into())
        })?;
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

/// Seals a drive's overlay; what else the patch says follows in the same instant.
fn seal(vm: &mut Vm, patch: &DrivePatch) -> Result<(), CommandError> {
    let refuse = |why: DiskError| CommandError::from(DriveError::Patch(why.into()));
    if patch.path_on_host.is_some() || patch.lower_overlay_paths.is_some() {
        return Err(refuse(DiskError::SealOfAnother));
    }
    let fresh = patch.overlay_path.clone();
    let fresh = fresh.ok_or_else(|| refuse(DiskError::SealToNowhere))?;
    let sealings = Sealings::prepare(&vm.config, |drive| {
        (drive.drive_id == patch.drive_id).then(|| fresh.clone())
    })?;
    let sealed = vm.change_machine(|machine| {
        let sealed = sealings.carry_out(machine)?;
        if let Some(limits) = patch.rate_limiter {
            machine.change_device(&patch.drive_id, |block: &mut Block| block.limit(limits));
        }
        Ok(sealed)
    })?;
    sealed.note(&mut vm.config);
    let mut drives = vm.config.drives.iter_mut();
    if let Some(drive) = drives.find(|drive| drive.config.drive_id == patch.drive_id) {
        let drive = &mut drive.config;
        drive.rate_limiter = RateLimiter::patched(drive.rate_limiter, patch.rate_limiter);
    }
    Ok(())
}

/// Has a back end say anew what its disk is.
fn refresh(vm: &mut Vm, patch: &DrivePatch) -> Result<(), CommandError> {
    let refuse = |why| CommandError::from(DriveError::Patch(why));
    vm.change_machine(|machine| {
        let refreshed =
            machine.change_device(&patch.drive_id, |disk: &mut VhostUserBlock| disk.refresh());
        let refreshed = refreshed.ok_or_else(|| refuse(DrivePatchError::NotFound))?;
        refreshed.map_err(|why| refuse(DiskError::from(why).into()))
    })
}

impl Command for PutNetworkInterface {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = ANY_STATE;
    const CONFIGURES: bool = true;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        put(self, vm)
    }
}

impl Pluggable for PutNetworkInterface {
    fn describe(self, config: &mut Configuration) -> Result<(), CommandError> {
        let interface = self.0;
        let interfaces = &mut config.network_interfaces;
        check_mac(&interface, interfaces)?;
        let place = interfaces
            .iter()
            .position(|other| other.config.iface_id == interface.iface_id);
        if place.is_none() && interfaces.len() >= MAX_DESCRIBED {
            return Err(NetworkError::TooMany.into());
        }
        Net::check(&interface).map_err(NetworkError::Create)?;
        let has_mmds = config.mmds_config.as_ref();
        let has_mmds =
            has_mmds.is_some_and(|mmds| mmds.network_interfaces.contains(&interface.iface_id));
        if has_mmds && interface.backend == NetworkBackend::Vhost {
            return Err(NetworkError::VhostMmds.into());
        }
        // A tap serves one: it is closed first when the interface to be replaced has it. That one stays if this fails.
        if let Some(index) = place
            && interfaces[index].config.host_dev_name == interface.host_dev_name
        {
            interfaces[index].close();
        }
        let device = Net::open(&interface).map_err(NetworkError::Create)?;
        let attachment = Attachment::new(interface, device);
        match place {
            Some(index) => interfaces[index] = attachment,
            None => interfaces.push(attachment),
        }
        Ok(())
    }

    fn id(&self) -> DeviceId {
        self.0.iface_id.clone()
    }

    fn is_known(config: &Configuration, id: &DeviceId) -> bool {
        let mut interfaces = config.network_interfaces.iter();
        interfaces.any(|interface| interface.config.iface_id == *id)
    }

    fn plug(self, to: Target<'_>) -> Result<(), CommandError> {
        let interface = &self.0;
        let interfaces = &mut to.config.network_interfaces;
        check_mac(interface, interfaces)?;
        Net::check(interface).map_err(NetworkError::Create)?;
        let device = Net::open(interface).map_err(NetworkError::Create)?;
        to.machine
            .plug(self.id(), Box::new(device), None, to.sender)?;
        interfaces.push(Attachment::taken(self.0));
        Ok(())
    }
}

/// Refuses an address that another interface has.
fn check_mac(
    interface: &NetworkInterface,
    interfaces: &[Attachment<NetworkInterface, Net>],
) -> Result<(), NetworkError> {
    let is_taken = |mac: &MacAddress| {
        let mut others = interfaces.iter().map(|other| &other.config);
        others.any(|other| other.iface_id != interface.iface_id && other.guest_mac == Some(*mac))
    };
    match interface.guest_mac.filter(is_taken) {
        Some(mac) => Err(NetworkError::MacInUse(mac)),
        None => Ok(()),
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
        let has_limits = patch.rx_rate_limiter.is_some() || patch.tx_rate_limiter.is_some();
        if has_limits && vm.config.network_interfaces[place].config.backend == NetworkBackend::Vhost
        {
            return Err(NetworkError::VhostLimits.into());
        }
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
    const CONFIGURES: bool = true;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let stated = self.0;
        let old = vm.config.vsock.as_mut();
        if let Some(old) = old.filter(|old| old.config.uds_path == stated.uds_path) {
            // The same socket, unless somebody removed it: then nobody can reach it any more.
            if stated.uds_path.exists()
                && let Some(device) = old.device_mut()
            {
                device.set_guest_cid(stated.guest_cid);
                old.config = stated;
                return Ok(());
            }
            old.close();
        }
        let device = Vsock::open(&stated)?;
        process::remove_at_end(Some(stated.uds_path.clone()));
        vm.config.vsock = Some(Attachment::new(stated, device));
        Ok(())
    }
}

impl Command for PutEntropy {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;
    const CONFIGURES: bool = true;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        vm.config.entropy = Some(self.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::os::unix::net::UnixStream;

    use devices::virtio::net::NetError;
    use libc::{EACCES, ENOSYS, EPERM};
    use serde_json::json;

    use super::*;
    use crate::vm::tests::vm;

    #[test]
    fn drives_are_bounded_and_can_still_be_replaced() {
        let mut vm = vm();
        let image = tempfile::NamedTempFile::new().unwrap();
        let mut put = |id: usize| {
            let drive = json!({
                "drive_id": id.to_string(), "is_root_device": false, "path_on_host": image.path(),
            });
            vm.execute(PutDrive(serde_json::from_value(drive).unwrap()))
        };
        for id in 0..MAX_DESCRIBED {
            put(id).unwrap();
        }
        put(0).unwrap();
        let refused = put(MAX_DESCRIBED).unwrap_err();
        assert!(matches!(refused, CommandError::Drive(DriveError::TooMany)));
    }

    #[test]
    fn a_root_that_comes_too_late_hears_why() {
        let mut vm = vm();
        let refused = |vm: &Vm| refused_root(&vm.config).to_string();
        assert!(refused(&vm).contains("before the start"));
        let pmem = json!({ "id": "p", "path_on_host": "/p", "root_device": true });
        vm.config.pmem = vec![serde_json::from_value(pmem).unwrap()];
        assert!(refused(&vm).contains("defined as a pmem device"));
        let drive = json!({ "drive_id": "d", "is_root_device": true, "path_on_host": "/d" });
        let drive = Attachment::taken(serde_json::from_value(drive).unwrap());
        vm.config.drives.push(drive);
        assert!(refused(&vm).contains("A root block device already exists!"));
    }

    #[test]
    fn a_vsock_outlives_a_refused_replacement() {
        let mut vm = vm();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let put = |vm: &mut Vm, cid: u32, name: &str| {
            let vsock = json!({ "guest_cid": cid, "uds_path": path(name) });
            vm.execute(PutVsock(serde_json::from_value(vsock).unwrap()))
        };
        let cid = |vm: &Vm| vm.config.to_stated().vsock.unwrap().guest_cid;
        put(&mut vm, 3, "first").unwrap();
        let waiting = UnixStream::connect(path("first")).unwrap();
        std::fs::write(path("taken"), "").unwrap();
        for refused in ["taken", "no/such"] {
            assert!(put(&mut vm, 4, refused).is_err());
            assert_eq!(cid(&vm), 3);
            UnixStream::connect(path("first")).unwrap();
        }
        // The same socket again: who waits there stays.
        put(&mut vm, 5, "first").unwrap();
        assert_eq!(cid(&vm), 5);
        waiting.set_nonblocking(true).unwrap();
        let read = (&waiting).read(&mut [0]).unwrap_err();
        assert_eq!(read.kind(), ErrorKind::WouldBlock);
        let attachment = vm.config.vsock.as_mut().unwrap();
        let device = attachment.device_mut().unwrap();
        assert_eq!(device.config_space(), 5_u64.to_le_bytes());
        // Made anew when somebody removed it.
        std::fs::remove_file(path("first")).unwrap();
        put(&mut vm, 6, "first").unwrap();
        UnixStream::connect(path("first")).unwrap();
        put(&mut vm, 7, "second").unwrap();
        assert!(!path("first").exists() && path("second").exists());
    }

    #[test]
    fn an_interface_outlives_a_refused_replacement() {
        let mut vm = vm();
        let tap = format!("ctl{}", std::process::id());
        let put = |vm: &mut Vm, tap: &str, mtu: u16| {
            let interface = json!({ "iface_id": "eth0", "host_dev_name": tap, "mtu": mtu });
            vm.execute(PutNetworkInterface(
                serde_json::from_value(interface).unwrap(),
            ))
        };
        match put(&mut vm, &tap, 1500) {
            Err(CommandError::Network(NetworkError::Create(NetError::Tap { error, .. })))
                if matches!(error.raw_os_error(), Some(EPERM | EACCES | ENOSYS)) =>
            {
                eprintln!("skipped, runs with CAP_NET_ADMIN: {error}");
                return;
            }
            put => put.unwrap(),
        }
        for (name, mtu) in [(tap.as_str(), 67), ("no/such", 1500)] {
            assert!(put(&mut vm, name, mtu).is_err());
            let stated = vm.config.to_stated().network_interfaces;
            assert_eq!(stated.len(), 1);
            assert_eq!(stated[0].mtu, Some(1500));
        }
        put(&mut vm, &tap, 9000).unwrap();
        assert_eq!(vm.config.to_stated().network_interfaces.len(), 1);
    }
}
