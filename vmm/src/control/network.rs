//! `/network-interfaces`.

use devices::virtio::net::Net;
use vm_config::{DeviceId, MacAddress, NetworkBackend, NetworkInterface, NetworkInterfacePatch};

use super::plug::{MAX_DESCRIBED, Pluggable, Target, put};
use super::{AFTER_START, ANY_STATE, Command, CommandError, NetworkError};
use crate::configuration::{Attachment, Configuration};
use crate::{Lifecycle, Vm};

/// `PUT /network-interfaces/{id}`. After the start, it is put on the PCI bus.
pub struct PutNetworkInterface(pub NetworkInterface);
/// `PATCH /network-interfaces/{id}`.
pub struct PatchNetworkInterface(pub NetworkInterfacePatch);

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

#[cfg(test)]
mod tests {
    use devices::virtio::net::NetError;
    use libc::{EACCES, ENOSYS, EPERM};
    use serde_json::json;

    use super::*;
    use crate::vm::tests::vm;

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
