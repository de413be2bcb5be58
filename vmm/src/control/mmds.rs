//! `/mmds` and `/mmds/config`.

use devices::mmds::store::StoreError;
use serde_json::Value;
use vm_config::{DeviceId, Explain, FaultCode, FaultKind, MmdsConfig, NetworkBackend};

use super::{ANY_STATE, BEFORE_START, Command, CommandError};
use crate::configuration::Configuration;
use crate::{Lifecycle, Vm};

/// `PUT /mmds`.
pub struct PutMmds(pub Value);
/// `PATCH /mmds`.
pub struct PatchMmds(pub Value);
/// `GET /mmds`.
pub struct GetMmds;
/// `PUT /mmds/config`.
pub struct PutMmdsConfig(pub MmdsConfig);

/// A metadata service that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum MmdsConfigError {
    /// It contradicts itself.
    #[error(transparent)]
    Config(#[from] vm_config::MmdsConfigError),
    /// It names what does not exist.
    #[error(
        "The list of network interface IDs provided contains at least one ID that does not correspond to any existing network interface. Describe {0:?} first."
    )]
    NoSuchInterface(String),
    /// It names an interface whose frames nobody here sees.
    #[error(
        "interface {0:?} has `backend` Vhost: its frames pass through the host's kernel, past the metadata service; describe it without `backend`, or name another interface"
    )]
    Vhost(String),
}

impl Explain for MmdsConfigError {
    fn kind(&self) -> FaultKind<'_> {
        match self {
            Self::Config(inner) => FaultKind::Inner(inner),
            Self::NoSuchInterface(_) | Self::Vhost(_) => FaultKind::Code(FaultCode::MmdsInterfaces),
        }
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotInitialized => Self::Mmds(error),
            StoreError::TooLarge => Self::MmdsLimit(error),
        }
    }
}

impl Command for PutMmds {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = ANY_STATE;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        vm.check_mmds()?;
        Ok(vm.config.mmds.put(self.0)?)
    }
}

impl Command for PatchMmds {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = ANY_STATE;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        vm.check_mmds()?;
        Ok(vm.config.mmds.patch(self.0)?)
    }
}

impl Command for GetMmds {
    type Reply = Value;
    const ALLOWED: &'static [Lifecycle] = ANY_STATE;
    const CHANGES: bool = false;

    fn run(self, vm: &mut Vm) -> Result<Value, CommandError> {
        vm.check_mmds()?;
        Ok(vm.config.mmds.get())
    }
}

impl Command for PutMmdsConfig {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;
    const CONFIGURES: bool = true;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let stated = self.0;
        stated.check().map_err(MmdsConfigError::from)?;
        for id in &stated.network_interfaces {
            let mut interfaces = vm.config.network_interfaces.iter();
            let interface = interfaces.find(|interface| interface.config.iface_id == *id);
            match interface.map(|interface| interface.config.backend) {
                Some(NetworkBackend::Tap) => {}
                Some(NetworkBackend::Vhost) => {
                    return Err(MmdsConfigError::Vhost(id.0.clone()).into());
                }
                None => return Err(MmdsConfigError::NoSuchInterface(id.0.clone()).into()),
            }
        }
        vm.config.mmds_config = Some(MmdsConfig {
            ipv4_address: Some(stated.address()),
            ..stated
        });
        Ok(())
    }
}

impl Vm {
    /// A guest that runs without the service never sees the data.
    fn check_mmds(&self) -> Result<(), StoreError> {
        let is_there = self.lifecycle == Lifecycle::NotStarted || self.config.mmds_config.is_some();
        if is_there {
            Ok(())
        } else {
            Err(StoreError::NotInitialized)
        }
    }
}

impl Configuration {
    /// The interface `id` goes; a service that nobody can reach goes with it.
    pub(super) fn forget_mmds_interface(&mut self, id: &DeviceId) {
        if let Some(mmds) = &mut self.mmds_config {
            mmds.network_interfaces.retain(|other| other != id);
            if mmds.network_interfaces.is_empty() {
                self.mmds_config = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use devices::virtio::net::Net;
    use serde_json::json;

    use super::*;
    use crate::configuration::Attachment;
    use crate::control::{Consent, RemovableKind, RemoveDevice};
    use crate::vm::tests::vm;

    fn vm_with_interface(backend: &str) -> Vm {
        let mut vm = vm();
        let interface = json!({ "iface_id": "a", "host_dev_name": "t", "backend": backend });
        let interface = serde_json::from_value(interface).unwrap();
        let interfaces = &mut vm.config.network_interfaces;
        interfaces.push(Attachment::<_, Net>::taken(interface));
        vm
    }

    fn configure(vm: &mut Vm, interface: &str) -> Result<(), String> {
        let config = json!({ "network_interfaces": [interface] });
        let config = serde_json::from_value(config).unwrap();
        let put = vm.execute(PutMmdsConfig(config));
        put.map_err(|error| match error {
            CommandError::MmdsConfig(why) => why.to_string(),
            other => panic!("{other}"),
        })
    }

    #[test]
    fn only_interfaces_that_can_have_the_service_are_taken() {
        let refused = configure(&mut vm_with_interface("Tap"), "b").unwrap_err();
        assert!(refused.contains("does not correspond to any existing network interface"));
        let refused = configure(&mut vm_with_interface("Vhost"), "a").unwrap_err();
        assert!(refused.contains("Vhost"));
        let mut vm = vm_with_interface("Tap");
        configure(&mut vm, "a").unwrap();
        let told = vm.config.to_stated().mmds.unwrap();
        assert_eq!(told.ipv4_address, Some([169, 254, 169, 254].into()));
    }

    #[test]
    fn the_service_goes_with_its_last_interface() {
        let mut vm = vm_with_interface("Tap");
        configure(&mut vm, "a").unwrap();
        let removal = RemoveDevice {
            kind: RemovableKind::NetworkInterface,
            id: DeviceId("a".to_owned()),
            consent: Consent::Needed,
            done: Box::new(|_| {}),
        };
        vm.execute(removal).unwrap();
        assert_eq!(vm.config.mmds_config, None);
    }

    #[test]
    fn data_is_for_guests_that_can_see_it() {
        let mut vm = vm_with_interface("Tap");
        vm.execute(PutMmds(json!({"b": 1, "a": 2}))).unwrap();
        vm.execute(PatchMmds(json!({"b": null}))).unwrap();
        vm.lifecycle = Lifecycle::Running;
        assert!(matches!(
            vm.execute(GetMmds),
            Err(CommandError::Mmds(StoreError::NotInitialized))
        ));
        vm.lifecycle = Lifecycle::NotStarted;
        configure(&mut vm, "a").unwrap();
        vm.lifecycle = Lifecycle::Running;
        assert_eq!(vm.execute(GetMmds).unwrap(), json!({"a": 2}));
        assert!(configure_is_too_late(&mut vm));
    }

    fn configure_is_too_late(vm: &mut Vm) -> bool {
        let config = serde_json::from_value(json!({ "network_interfaces": ["a"] })).unwrap();
        matches!(
            vm.execute(PutMmdsConfig(config)),
            Err(CommandError::AfterStart)
        )
    }
}
