//! The I/O APIC: 24 interrupt pins that become messages to local APICs.
//!
//! Used when KVM holds only the local APICs. The guest programs a redirection entry per pin; each change
//! becomes a route in the host, so that an interrupt never passes through here: a device writes its
//! irqfd and KVM sends the message. Pins are edge-triggered only, as every device of this machine is; a
//! guest that asks for level gets edges.
//!
//! Source: Intel 82093AA I/O APIC datasheet §3.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::Registers;
use crate::irq::Message;

/// Pins, numbered from 0.
pub const PINS: u8 = 24;

/// Length of the register window, bytes.
pub const WINDOW_LEN: u64 = 0x1000;

/// Register select, and the window onto the selected register (datasheet §3.1).
const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;

const ID: u8 = 0x00;
const VERSION: u8 = 0x01;
const ARBITRATION: u8 = 0x02;
const REDIRECTION: u8 = 0x10;

/// Version 0x11, and the number of the last pin in bits 16..24.
const VERSION_VALUE: u32 = 0x11 | ((PINS as u32 - 1) << 16);

/// Fields of a redirection entry (datasheet §3.2.4).
const VECTOR: u64 = 0xff;
const DELIVERY_MODE: u64 = 0x700;
const LOGICAL_DESTINATION: u64 = 1 << 11;
const READ_ONLY: u64 = (1 << 12) | (1 << 14);
const MASKED: u64 = 1 << 16;
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// Where the host keeps what each pin stands for.
pub trait PinRouter: Send + Sync {
    /// From now on `pin` sends `message`, or nothing.
    fn route(&self, pin: u8, message: Option<Message>);
}

impl<R: PinRouter> PinRouter for Arc<R> {
    fn route(&self, pin: u8, message: Option<Message>) {
        R::route(self, pin, message);
    }
}

/// All a driver can observe of this controller. Format `ioapic` v1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IoApicState {
    id: u32,
    select: u8,
    redirection: [u64; PINS as usize],
}

impl Default for IoApicState {
    fn default() -> Self {
        Self {
            id: 0,
            select: 0,
            redirection: [MASKED; PINS as usize],
        }
    }
}

/// The I/O APIC.
pub struct IoApic<R> {
    // Runtime glue: rebuilt on restore.
    router: R,
    // Guest-visible state: all of it, and nothing else.
    state: Mutex<IoApicState>,
}

impl<R: PinRouter> IoApic<R> {
    /// A controller with every pin masked.
    pub fn new(router: R) -> Self {
        Self {
            router,
            state: Mutex::default(),
        }
    }

    fn write_register(&self, state: &mut IoApicState, value: u32) {
        match state.select {
            ID => state.id = value & 0x0f00_0000,
            select => {
                if let Some((pin, is_high)) = pin_of(select) {
                    self.write_entry(state, pin, is_high, value);
                }
            }
        }
    }

    fn write_entry(&self, state: &mut IoApicState, pin: u8, is_high: bool, value: u32) {
        let entry = &mut state.redirection[usize::from(pin)];
        let before = message(*entry);
        let written = if is_high {
            (*entry & 0xffff_ffff) | (u64::from(value) << 32)
        } else {
            (*entry & !0xffff_ffff) | u64::from(value)
        };
        *entry = (written & WRITABLE) | (*entry & READ_ONLY);
        let after = message(*entry);
        if before != after {
            self.router.route(pin, after);
        }
    }
}

impl IoApicState {
    fn read_register(&self) -> u32 {
        match self.select {
            ID | ARBITRATION => self.id,
            VERSION => VERSION_VALUE,
            select => pin_of(select).map_or(0, |(pin, is_high)| {
                let entry = self.redirection[usize::from(pin)];
                let half = if is_high { entry >> 32 } else { entry };
                u32::try_from(half & 0xffff_ffff).expect("masked to 32 bits")
            }),
        }
    }
}

/// Which pin's entry, and which half of it, a register number names.
fn pin_of(select: u8) -> Option<(u8, bool)> {
    let index = select.checked_sub(REDIRECTION)?;
    let pin = index / 2;
    (pin < PINS).then_some((pin, index % 2 == 1))
}

/// What an entry sends; nothing while it is masked.
fn message(entry: u64) -> Option<Message> {
    if entry & MASKED != 0 {
        return None;
    }
    let low = u32::try_from(entry & 0xffff_ffff).expect("masked to 32 bits");
    let destination = u32::try_from(entry >> 56).expect("eight bits");
    let logical = u32::from(entry & LOGICAL_DESTINATION != 0);
    let fields = u32::try_from(VECTOR | DELIVERY_MODE).expect("eleven bits");
    Some(Message {
        address: 0xfee0_0000 | (destination << 12) | (logical << 2),
        data: low & fields,
    })
}

impl<R: PinRouter> Registers for IoApic<R> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let state = self.state.lock().expect("no holder of this lock panics");
        let value = match offset {
            IOREGSEL => u32::from(state.select),
            IOWIN => state.read_register(),
            _ => 0,
        };
        data.fill(0);
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut bytes = [0; 4];
        for (to, from) in bytes.iter_mut().zip(data) {
            *to = *from;
        }
        let mut state = self.state.lock().expect("no holder of this lock panics");
        match offset {
            IOREGSEL => state.select = bytes[0],
            IOWIN => self.write_register(&mut state, u32::from_le_bytes(bytes)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Routes(Mutex<Vec<(u8, Option<Message>)>>);

    impl PinRouter for Routes {
        fn route(&self, pin: u8, message: Option<Message>) {
            self.0.lock().unwrap().push((pin, message));
        }
    }

    fn set(apic: &impl Registers, register: u8, value: u32) {
        apic.write(IOREGSEL, &[register]);
        apic.write(IOWIN, &value.to_le_bytes());
    }

    fn get(apic: &impl Registers, register: u8) -> u32 {
        let mut bytes = [0; 4];
        apic.write(IOREGSEL, &u32::from(register).to_le_bytes());
        apic.read(IOWIN, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn unmasking_a_pin_routes_it_once() {
        let routes = Arc::new(Routes::default());
        let apic = IoApic::new(Arc::clone(&routes));
        set(&apic, REDIRECTION + 2 * 5 + 1, 3 << 24);
        set(&apic, REDIRECTION + 2 * 5, 0x31);
        set(&apic, REDIRECTION + 2 * 5, 0x31);
        let to_apic_3 = Message {
            address: 0xfee0_3000,
            data: 0x31,
        };
        assert_eq!(*routes.0.lock().unwrap(), [(5, Some(to_apic_3))]);
    }

    #[test]
    fn masking_removes_the_route() {
        let routes = Arc::new(Routes::default());
        let apic = IoApic::new(Arc::clone(&routes));
        set(&apic, REDIRECTION, 0x20);
        set(&apic, REDIRECTION, 0x0001_0020);
        assert_eq!(routes.0.lock().unwrap().last(), Some(&(0, None)));
    }

    #[test]
    fn a_level_pin_sends_edges() {
        let routes = Arc::new(Routes::default());
        let apic = IoApic::new(Arc::clone(&routes));
        set(&apic, REDIRECTION, 0x0000_8040);
        let sent = routes.0.lock().unwrap()[0].1.unwrap();
        assert_eq!(sent.data, 0x40);
        assert_eq!(get(&apic, REDIRECTION), 0x0000_8040);
    }

    #[test]
    fn version_names_the_last_pin() {
        let apic = IoApic::new(Arc::new(Routes::default()));
        assert_eq!(get(&apic, VERSION), 0x0017_0011);
    }

    #[test]
    fn garbage_in_every_register_is_harmless() {
        let apic = IoApic::new(Arc::new(Routes::default()));
        for register in 0..=u8::MAX {
            set(&apic, register, u32::MAX);
            get(&apic, register);
        }
        let mut wide = [0xff; 8];
        for offset in [0, 1, 4, 0x10, 0x14, 0x40, u64::MAX] {
            apic.write(offset, &wide);
            apic.write(offset, &[]);
            apic.read(offset, &mut wide);
        }
    }
}
