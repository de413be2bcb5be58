//! The function 00:00.0 that every PC has: where the bus begins. It does nothing.

use std::sync::Mutex;

use super::bus::Function;
use super::config::{ConfigurationSpace, Identity};

const IDENTITY: Identity = Identity {
    vendor: 0x8086,
    device: 0x0d57,
    revision: 0,
    // Bridge, host.
    class: [0x06, 0x00, 0x00],
};

/// The host bridge.
pub struct HostBridge(Mutex<ConfigurationSpace>);

impl Default for HostBridge {
    fn default() -> Self {
        Self(Mutex::new(ConfigurationSpace::new(&IDENTITY)))
    }
}

impl Function for HostBridge {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let space = self.0.lock().expect("no holder of this lock panics");
        space.read(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        let mut space = self.0.lock().expect("no holder of this lock panics");
        space.write(offset, data);
    }

    fn window(&self) -> Option<u64> {
        None
    }

    fn read_bar(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write_bar(&self, _offset: u64, _data: &[u8]) {}
}
