//! Configuration space by port and by memory, and the windows, of a bus with three devices.
#![no_main]

use std::sync::Arc;

use devices::Registers;
use devices::pci::bus::BAR_LEN;
use devices::pci::{BarWindows, ConfigMemory, ConfigPorts, Function, PciBus};
use devices::testing::{Guest, PciGuest};
use fuzz::bytes::Bytes;
use fuzz::kinds::{Host, Kind};
use libfuzzer_sys::fuzz_target;

/// Slots of the bus that hold a device.
const SLOTS: [u8; 3] = [1, 2, 31];
/// Where the places for windows begin.
const WINDOWS: u64 = 0x40_0000_0000;
/// The register that says where a window is (PCI 3.0 §6.2.5.1).
const BASE_ADDRESS_0: u16 = 0x10;

fuzz_target!(|input: &[u8]| {
    let kinds = [Kind::Rng, Kind::BlockSync, Kind::Balloon];
    let guests = kinds.map(|kind| PciGuest::new(Host::new(kind).device()));
    let bus = Arc::new(PciBus::default());
    for (slot, guest) in SLOTS.into_iter().zip(&guests) {
        bus.insert(slot, guest.transport.clone())
            .expect("the slot is free");
        let window = WINDOWS + u64::from(slot) * BAR_LEN;
        guest
            .transport
            .write_config(BASE_ADDRESS_0, &window.to_le_bytes());
    }
    let ports = ConfigPorts::new(Arc::clone(&bus));
    let space = ConfigMemory(Arc::clone(&bus));
    let windows = BarWindows::new(bus, WINDOWS);
    let mut bytes = Bytes::new(input);
    while access(&ports, &space, &windows, &mut bytes).is_some() {
        for guest in &guests {
            let _ = guest.workers().turn();
        }
    }
    for mut guest in guests {
        devices::testing::suite::restart(&mut guest);
    }
});

fn access(
    ports: &ConfigPorts,
    space: &ConfigMemory,
    windows: &BarWindows,
    bytes: &mut Bytes<'_>,
) -> Option<()> {
    let (how, slot, at, value) = (bytes.byte()?, bytes.byte()?, bytes.word()?, bytes.long()?);
    let slot = match slot {
        0xf0.. => u64::from(slot),
        _ => u64::from(SLOTS[usize::from(slot) % SLOTS.len()]),
    };
    let at = u64::from(at);
    let (target, offset): (&dyn Registers, u64) = match how >> 4 {
        0..=2 => (ports, at & 7),
        3..=5 => (space, slot << 15 | at & 0x1ff),
        6 => (space, at),
        7 => (windows, at),
        _ => (windows, slot << 19 | at & 0x4_8fff),
    };
    let len = 1 << (how & 3);
    let mut data = value.to_le_bytes();
    if how & 4 == 0 {
        target.write(offset, &data[..len]);
    } else {
        target.read(offset, &mut data[..len]);
    }
    Some(())
}
