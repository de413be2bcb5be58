//! What the kernels of `make bench` share: how they start, how they wait, and how they end.

use crate::boot::BootInfo;
use crate::interrupts::DeviceVector;
use crate::virtio::{Device, Queue};
use crate::{clock, gates, println, serial};

/// Says that everything is set up, and waits for a byte: who measures looks at the clocks in between.
pub fn wait_for_start() {
    println!("ready");
    while !serial::has_input() {
        // A look costs the monitor an exit.
        clock::spin_until(clock::SHORT / 20, || false);
    }
}

/// Sleeps for good: what was measured stands still until somebody ends the monitor.
pub fn idle() -> ! {
    loop {
        gates::wait_for_interrupt();
    }
}

/// How a kernel waits for a device: asleep until its interrupt, or awake with the word `poll` on the command line.
#[derive(Debug)]
pub struct Waiter {
    device: Device,
    vector: DeviceVector,
    is_awake: bool,
}

impl Waiter {
    /// For `device`, whose interrupts raise `vector`.
    pub fn new(boot: &BootInfo, device: Device, vector: DeviceVector) -> Self {
        Self {
            device,
            vector,
            is_awake: boot.command_line().has("poll"),
        }
    }

    /// Returns when one of `queues` may have something back, at the latest when it has.
    pub fn wait<const N: usize>(&self, mut queues: [&mut Queue; N]) {
        if self.is_awake {
            core::hint::spin_loop();
            return;
        }
        for queue in &mut queues {
            queue.request_interrupt();
        }
        // An interrupt that has come since this look still ends the sleep.
        if !queues.iter().any(|queue| queue.has_used()) {
            gates::wait_for_interrupt();
            self.device.acknowledge_interrupt();
        }
    }

    /// Interrupts that came.
    pub fn interrupts(&self) -> u64 {
        self.vector.count()
    }
}

/// Numbers that follow no pattern, the same in every run (Marsaglia, "Xorshift RNGs", 2003).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From the start.
    #[expect(clippy::new_without_default, reason = "it is no default of anything")]
    pub fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A number of the command line; more than there is memory for stays that.
pub fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The length of a piece of memory.
pub fn to_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
