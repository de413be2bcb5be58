//! The metadata service as a user states it.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{DeviceId, Explain, FaultCode, FaultKind};

/// Where guests look for metadata when nobody says otherwise.
const DEFAULT_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Which requests the service answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum MmdsVersion {
    /// All; deprecated.
    #[default]
    V1,
    /// Those that carry a token which the guest fetched before.
    V2,
}

/// `PUT /mmds/config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MmdsConfig {
    /// Which requests the service answers; `V1` is deprecated.
    #[serde(default)]
    pub version: MmdsVersion,
    /// Interfaces on which the guest reaches it, at least one; each was described before.
    pub network_interfaces: Vec<DeviceId>,
    /// Its address, from 169.254.1.0 to 169.254.254.255; 169.254.169.254 by default.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = Ipv4))]
    pub ipv4_address: Option<Ipv4Addr>,
    /// Answers are text, whatever a request accepts.
    #[serde(default)]
    pub imds_compat: bool,
}

/// A metadata service that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MmdsConfigError {
    /// Nobody could reach it.
    #[error("The list of network interface IDs that allow forwarding MMDS requests is empty.")]
    NoInterface,
    /// An address that may be somebody else's.
    #[error("The MMDS IPv4 address is not link local.")]
    Address,
}

impl Explain for MmdsConfigError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::NoInterface => FaultCode::MmdsInterfaces,
            Self::Address => FaultCode::MmdsAddress,
        })
    }
}

impl MmdsConfig {
    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.ipv4_address.unwrap_or(DEFAULT_ADDRESS)
    }

    /// Checks what needs no look at the interfaces.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), MmdsConfigError> {
        if self.network_interfaces.is_empty() {
            return Err(MmdsConfigError::NoInterface);
        }
        // RFC 3927 §2.1: the first and the last 256 addresses of the range are reserved.
        match self.address().octets() {
            [169, 254, 1..=254, _] => Ok(()),
            _ => Err(MmdsConfigError::Address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stated(text: &str) -> MmdsConfig {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn only_interfaces_are_required() {
        let least = stated(r#"{"network_interfaces":["a"],"ipv4_address":null}"#);
        assert_eq!(least.version, MmdsVersion::V1);
        assert_eq!(least.address(), Ipv4Addr::new(169, 254, 169, 254));
        assert!(!least.imds_compat);
        assert_eq!(least.check(), Ok(()));
    }

    #[test]
    fn nowhere_and_somewhere_else_are_refused() {
        let nowhere = stated(r#"{"network_interfaces":[],"ipv4_address":"1.2.3.4"}"#);
        assert_eq!(nowhere.check(), Err(MmdsConfigError::NoInterface));
        for (address, is_good) in [
            ("169.254.1.0", true),
            ("169.254.254.255", true),
            ("169.254.0.255", false),
            ("169.254.255.0", false),
            ("169.253.1.1", false),
            ("10.0.0.1", false),
        ] {
            let config = MmdsConfig {
                ipv4_address: Some(address.parse().unwrap()),
                ..stated(r#"{"network_interfaces":["a"]}"#)
            };
            assert_eq!(config.check().is_ok(), is_good, "{address}");
        }
    }
}
