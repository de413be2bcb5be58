//! Plays a driver that does whatever an input says, on either transport.

use devices::testing::guest::Place;
use devices::testing::{Buffer, FakeGuest, Guest, PciGuest, suite};
use vm_memory::{Bytes as _, GuestAddress};

use crate::bytes::Bytes;
use crate::kinds::{Host, Kind};

/// Guest memory in bytes.
const MEMORY: usize = 4 << 20;
/// Where buffers lie mostly: pages of 4 KiB, below the queues.
const BUFFER_PAGES: u64 = 64;

/// Lets the driver loose on a device of `kind`: the first byte says on which transport. Whatever it did, a reset
/// mends the device.
pub fn drive(kind: Kind, input: &[u8]) {
    let mut bytes = Bytes::new(input);
    match bytes.byte() {
        Some(transport) if transport & 1 == 0 => Play::<FakeGuest>::new(kind).run(bytes),
        Some(_) => Play::<PciGuest>::new(kind).run(bytes),
        None => {}
    }
}

struct Play<G> {
    guest: G,
    host: Host,
    features: u64,
}

impl<G: Guest> Play<G> {
    fn new(kind: Kind) -> Self {
        let mut host = Host::new(kind);
        let device = host.device();
        Self {
            features: device.traits().features,
            guest: G::with_memory(device, host.memory(MEMORY)),
            host,
        }
    }

    fn run(mut self, mut bytes: Bytes<'_>) {
        while self.step(&mut bytes).is_some() {}
        self.host.heal();
        suite::restart(&mut self.guest);
        // Nothing of it is in flight any more when guest memory goes.
        self.guest.set_status(0);
    }

    /// One thing that a driver, or the host, does. `None` when the input ends.
    fn step(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        match bytes.byte()? % 16 {
            0 => self.start(bytes),
            1 => self.write_register(bytes),
            2 => self.read_register(bytes),
            3 => self.write_memory(bytes),
            4 => self.describe(bytes),
            5 => self.publish(bytes),
            6..=8 => self.add(bytes),
            9 => self.write_ring(bytes),
            10 | 11 => {
                self.guest.notify(bytes.byte()?.into());
                let _ = self.guest.workers().turn();
                Some(())
            }
            12 => self.pause(bytes),
            13 => self.move_elsewhere(),
            _ => self.host.act(self.guest.slot(), bytes),
        }
    }

    /// Starts the device anew with the features that a word chooses of those it offers.
    fn start(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        let (size, wanted) = (bytes.byte()?, bytes.long()?);
        self.guest.prepare();
        self.guest.set_status(0);
        self.guest.negotiate(self.features & wanted);
        self.guest.set_up_queues_of(1 << (size % 9));
        self.guest.set_status(15);
        Some(())
    }

    fn place(bytes: &mut Bytes<'_>) -> Option<(Place, usize)> {
        let (how, at) = (bytes.byte()?, bytes.half()?);
        let place = match how >> 4 {
            0..=5 => Place::Window(u64::from(at) & 0xfff),
            6..=8 => Place::Window(0x8000 + (u64::from(at) & 0x3ff)),
            9 | 10 => Place::Window(u64::from(at) << 3),
            _ => Place::Configuration(at & 0xfff),
        };
        Some((place, 1 << (how & 3)))
    }

    fn write_register(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        let (place, len) = Self::place(bytes)?;
        let value = bytes.long()?.to_le_bytes();
        self.guest.write_at(place, &value[..len]);
        Some(())
    }

    fn read_register(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        let (place, len) = Self::place(bytes)?;
        self.guest.read_at(place, &mut [0; 8][..len]);
        Some(())
    }

    /// Puts bytes of the input at a place where buffers lie, or anywhere.
    fn write_memory(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        let at = Self::address(bytes)?;
        let _ = self
            .guest
            .memory()
            .write_slice(bytes.run()?, GuestAddress(at));
        Some(())
    }

    fn address(bytes: &mut Bytes<'_>) -> Option<u64> {
        let page = bytes.byte()?;
        match page {
            0xff => bytes.long(),
            0xfe => Some(u64::from(bytes.word()?)),
            _ => Some(u64::from(page) % BUFFER_PAGES << 12 | u64::from(bytes.half()? & 0xfff)),
        }
    }

    /// One descriptor, whatever it says.
    fn describe(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        let (queue, index, flags) = (bytes.byte()?, bytes.byte()?, bytes.byte()?);
        let (address, len, next) = (Self::address(bytes)?, bytes.word()?, bytes.half()?);
        let queues = self.guest.queues();
        let count = queues.len().max(1);
        if let Some(driver) = queues.get_mut(usize::from(queue) % count) {
            let index = u16::from(index) % driver.state().size;
            driver.describe(index, address, len, flags.into(), next);
        }
        Some(())
    }

    /// One head, whatever it is.
    fn publish(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        let (queue, head) = (bytes.byte()?, bytes.half()?);
        let queues = self.guest.queues();
        let count = queues.len().max(1);
        if let Some(driver) = queues.get_mut(usize::from(queue) % count) {
            driver.publish(head);
        }
        Some(())
    }

    /// A chain as it should be, though its buffers need not suit the device.
    fn add(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        let (queue, shape) = (bytes.byte()?, bytes.byte()?);
        let (readable, writable) = (shape & 3, shape >> 2 & 3);
        let mut buffers = Vec::new();
        for place in 0..readable + writable {
            let (address, len) = (Self::address(bytes)?, u32::from(bytes.half()?));
            buffers.push(if place < readable {
                Buffer::Readable(address, len)
            } else {
                Buffer::Writable(address, len)
            });
        }
        let queues = self.guest.queues();
        let count = queues.len().max(1);
        if let Some(driver) = queues.get_mut(usize::from(queue) % count) {
            driver.add(&buffers);
        }
        Some(())
    }

    /// The available index, its flags, or the used event.
    fn write_ring(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        let (queue, what, value) = (bytes.byte()?, bytes.byte()?, bytes.half()?);
        let queues = self.guest.queues();
        let count = queues.len().max(1);
        if let Some(driver) = queues.get_mut(usize::from(queue) % count) {
            match what % 3 {
                0 => driver.set_available_index(value),
                1 => driver.set_available_flags(value),
                _ => driver.set_used_event(value),
            }
        }
        Some(())
    }

    /// The machine pauses, and goes on.
    fn pause(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        let again = bytes.byte()? & 1;
        for _ in 0..=again {
            self.guest.slot().pause();
            self.guest.slot().resume();
        }
        Some(())
    }

    /// The machine is saved, and goes on with a new device on the same memory.
    fn move_elsewhere(&mut self) -> Option<()> {
        self.guest.slot().pause();
        let state = self.guest.state()?;
        let memory = self.guest.memory().clone();
        let queues = std::mem::take(self.guest.queues());
        let next = G::with_memory(self.host.device(), memory);
        next.restore(state.clone()).expect("it is the same device");
        assert_eq!(next.state(), Some(state));
        next.slot().resume();
        self.guest = next;
        *self.guest.queues() = queues;
        Some(())
    }
}
