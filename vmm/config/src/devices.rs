//! Devices as a user states them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{DeviceId, DriveSerialError, MacAddressError, RateLimiter};

/// How drivers find and reach the virtio devices of a machine: all of them the same way. A flag of the
/// process, not part of a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceTransport {
    /// Registers at addresses that ACPI tables and the command line name.
    #[default]
    Mmio,
    /// Functions on a PCI bus (`--enable-pci`).
    Pci,
}

/// Whether the guest is offered a write cache it can flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CacheType {
    /// No flush command: the host's cache is trusted.
    #[default]
    Unsafe,
    /// The guest can flush, and a flush reaches the disk.
    Writeback,
}

/// How the monitor does a disk's I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum BlockEngine {
    /// In the event loop, one call a request.
    #[default]
    Sync,
    /// Through io_uring.
    Async,
}

/// `PUT /drives/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Drive {
    /// The drive's name; equal to the one in the path.
    pub drive_id: DeviceId,
    /// Partition that holds the root file system, when this is the root drive.
    pub partuuid: Option<String>,
    /// The guest mounts `/` from it.
    pub is_root_device: bool,
    /// Whether the guest can flush.
    #[serde(default)]
    pub cache_type: CacheType,
    /// The guest cannot write.
    pub is_read_only: Option<bool>,
    /// File or block device behind it.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub path_on_host: Option<PathBuf>,
    /// Limits on its use.
    pub rate_limiter: Option<RateLimiter>,
    /// I/O engine.
    pub io_engine: Option<BlockEngine>,
    /// vhost-user back end, instead of a file.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub socket: Option<PathBuf>,
    // Ours from here on: whoever gives the fields as an array finds those of the interface first.
    /// Copy-on-write layer over `path_on_host`, which nobody writes then: a file with what the guest writes, made if it
    /// is missing or empty.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay_path: Option<PathBuf>,
    /// Sealed overlays between `path_on_host` and `overlay_path`, the oldest first, at most 32. Any number of drives share
    /// them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>, max_items = 32))]
    pub lower_overlay_paths: Vec<PathBuf>,
    /// What the guest reads as the disk's serial number; by default it is made from the file's numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<DriveSerial>,
    /// Queues, 1..=32; one by default. One for each vCPU is best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 32))]
    pub num_queues: Option<u16>,
}

/// A disk's serial number: 1 to 20 printable ASCII characters. Holding one proves it was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "String")]
#[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[ -~]{1,20}$"))]
pub struct DriveSerial(String);

impl DriveSerial {
    /// The number as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DriveSerial {
    type Error = DriveSerialError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_printable = text.bytes().all(|b| matches!(b, b' '..=b'~'));
        if is_printable && (1..=20).contains(&text.len()) {
            Ok(Self(text))
        } else {
            Err(DriveSerialError(text))
        }
    }
}

/// `PATCH /drives/{id}`: what is absent stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DrivePatch {
    /// The drive's name; equal to the one in the path.
    pub drive_id: DeviceId,
    /// File or block device from now on; the same one to have its new length noticed.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub path_on_host: Option<PathBuf>,
    /// Limits on its use.
    pub rate_limiter: Option<RateLimiter>,
    // Ours from here on.
    /// Overlay from now on, over `path_on_host` and `lower_overlay_paths` as they are or as the patch says.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    #[serde(default)]
    pub overlay_path: Option<PathBuf>,
    /// Sealed overlays below it from now on, the oldest first; goes with `overlay_path`.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<String>>, max_items = 32))]
    #[serde(default)]
    pub lower_overlay_paths: Option<Vec<PathBuf>>,
    /// Seals the overlay that the drive has, whose path goes to the end of `lower_overlay_paths`; `overlay_path` names a
    /// fresh one on top of it. The guest goes on with the same disk.
    #[serde(default)]
    pub seal_overlay: bool,
}

impl Drive {
    /// The drive once its overlay is sealed and the guest writes to another.
    #[must_use]
    pub fn restacked(&self, overlay_path: PathBuf) -> Self {
        let mut drive = self.clone();
        let sealed = drive.overlay_path.replace(overlay_path);
        drive.lower_overlay_paths.extend(sealed);
        drive
    }

    /// The drive after `patch`, which seals nothing.
    #[must_use]
    pub fn patched(&self, patch: &DrivePatch) -> Self {
        Self {
            path_on_host: patch
                .path_on_host
                .clone()
                .or_else(|| self.path_on_host.clone()),
            overlay_path: patch
                .overlay_path
                .clone()
                .or_else(|| self.overlay_path.clone()),
            lower_overlay_paths: patch
                .lower_overlay_paths
                .clone()
                .unwrap_or_else(|| self.lower_overlay_paths.clone()),
            rate_limiter: RateLimiter::patched(self.rate_limiter, patch.rate_limiter),
            ..self.clone()
        }
    }
}

/// Who moves an interface's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum NetworkBackend {
    /// The monitor, by reading and writing the tap.
    #[default]
    Tap,
    /// The host's kernel, by `/dev/vhost-net`.
    Vhost,
}

impl NetworkBackend {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// `PUT /network-interfaces/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NetworkInterface {
    /// The interface's name; equal to the one in the path.
    pub iface_id: DeviceId,
    /// Tap device on the host, made if it is missing.
    pub host_dev_name: String,
    /// MAC address the guest is told.
    pub guest_mac: Option<MacAddress>,
    /// MTU the guest is told, 68..=65535.
    #[cfg_attr(feature = "openapi", schema(minimum = 68, maximum = 65535))]
    pub mtu: Option<u16>,
    /// Limits on what the guest receives.
    pub rx_rate_limiter: Option<RateLimiter>,
    /// Limits on what the guest sends.
    pub tx_rate_limiter: Option<RateLimiter>,
    /// Pairs of queues, 1..=32; one by default. More need a tap with `multi_queue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 32))]
    pub num_queues: Option<u16>,
    /// Who moves the frames; `Vhost` goes with one pair of queues and without limits.
    #[serde(default, skip_serializing_if = "NetworkBackend::is_default")]
    pub backend: NetworkBackend,
}

/// `PATCH /network-interfaces/{id}`: what is absent stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NetworkInterfacePatch {
    /// The interface's name; equal to the one in the path.
    pub iface_id: DeviceId,
    /// Limits on what the guest receives.
    pub rx_rate_limiter: Option<RateLimiter>,
    /// Limits on what the guest sends.
    pub tx_rate_limiter: Option<RateLimiter>,
}

impl NetworkInterface {
    /// The interface after `patch`.
    #[must_use]
    pub fn patched(&self, patch: &NetworkInterfacePatch) -> Self {
        Self {
            rx_rate_limiter: RateLimiter::patched(self.rx_rate_limiter, patch.rx_rate_limiter),
            tx_rate_limiter: RateLimiter::patched(self.tx_rate_limiter, patch.tx_rate_limiter),
            ..self.clone()
        }
    }
}

/// `PUT /vsock`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// The guest's address.
    pub guest_cid: u32,
    /// Unix socket on which the host reaches the guest; it is made, and must not exist.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub uds_path: PathBuf,
    /// Means nothing any more.
    #[serde(default, skip_serializing_if = "is_obsolete")]
    #[cfg_attr(feature = "openapi", schema(deprecated))]
    pub vsock_id: Option<String>,
}

/// Taken, never told.
fn is_obsolete(_: &Option<String>) -> bool {
    true
}

/// `PUT /entropy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Entropy {
    /// Limits on what the guest draws.
    pub rate_limiter: Option<RateLimiter>,
}

/// An Ethernet address, written as six two-digit hexadecimal groups joined by `:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$"))]
pub struct MacAddress(pub [u8; 6]);

impl FromStr for MacAddress {
    type Err = MacAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut groups = text.split(':');
        for byte in &mut bytes {
            let group = groups.next().ok_or(MacAddressError)?;
            let is_two_digits = group.len() == 2 && group.bytes().all(|b| b.is_ascii_hexdigit());
            if !is_two_digits {
                return Err(MacAddressError);
            }
            *byte = u8::from_str_radix(group, 16).map_err(|_| MacAddressError)?;
        }
        match groups.next() {
            Some(_) => Err(MacAddressError),
            None => Ok(Self(bytes)),
        }
    }
}

impl TryFrom<String> for MacAddress {
    type Error = MacAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_address_is_six_groups_of_two_digits() {
        let mac: MacAddress = "06:00:ac:10:FE:02".parse().unwrap();
        assert_eq!(mac, MacAddress([6, 0, 0xac, 0x10, 0xfe, 2]));
        assert_eq!(mac.to_string(), "06:00:ac:10:fe:02");
        for wrong in [
            "",
            "06:00:ac:10:fe",
            "06:00:ac:10:fe:02:03",
            "6:00:ac:10:fe:02",
            "+6:00:ac:10:fe:02",
            "06-00-ac-10-fe-02",
            "06:00:ac:10:fe:0g",
        ] {
            assert_eq!(wrong.parse::<MacAddress>(), Err(MacAddressError), "{wrong}");
        }
    }

    #[test]
    fn serial_is_1_to_20_printable_characters() {
        for (text, is_good) in [
            ("a", true),
            ("twenty printable ~!#", true),
            ("", false),
            ("twenty-one characters", false),
            ("a\nb", false),
            ("é", false),
        ] {
            let serial = DriveSerial::try_from(text.to_owned());
            assert_eq!(serial.is_ok(), is_good, "{text:?}");
        }
    }

    #[test]
    fn token_buckets_alone_take_unknown_fields() {
        let limits = r#"{"ops": {"size": 1, "refill_time": 2, "zebra": 3}}"#;
        assert!(serde_json::from_str::<RateLimiter>(limits).is_ok());
        assert!(serde_json::from_str::<RateLimiter>(r#"{"zebra": {}}"#).is_err());
    }
}
