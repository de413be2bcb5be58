//! Saved states of any content: one that does not fit is refused; a device that took one goes on or asks for a reset,
//! and a reset mends it.
#![no_main]

use devices::legacy::i8042::I8042State;
use devices::legacy::ioapic::IoApicState;
use devices::legacy::serial::SerialState;
use devices::testing::{FakeGuest, Guest, PciGuest, suite};
use devices::virtio::transport::{MmioState, PciState};
use fuzz::kinds::{Host, Kind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((what, json)) = input.split_first() else {
        return;
    };
    let kind = Kind::of(*what);
    if let Ok(state) = serde_json::from_slice::<MmioState>(json) {
        adopt::<FakeGuest>(kind, state);
    }
    if let Ok(state) = serde_json::from_slice::<PciState>(json) {
        adopt::<PciGuest>(kind, state);
    }
    let _ = serde_json::from_slice::<I8042State>(json);
    let _ = serde_json::from_slice::<IoApicState>(json);
    let _ = serde_json::from_slice::<SerialState>(json);
});

fn adopt<G: Guest>(kind: Kind, state: G::State) {
    let mut host = Host::new(kind);
    let mut guest = G::new(host.device());
    if guest.restore(state).is_ok() {
        guest.slot().resume();
        for queue in 0..2 {
            guest.notify(queue);
            let _ = guest.workers().turn();
        }
        guest.slot().pause();
        assert!(guest.state().is_some());
        guest.slot().resume();
    }
    suite::restart(&mut guest);
    guest.set_status(0);
}
