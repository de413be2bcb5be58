//! Which window and which interrupt each attached device gets.

use devices::virtio::WorkerId;
use vm_memory::GuestAddress;

use crate::arch::x86_64::layout::{
    GSI_DEVICE_FIRST, GSI_DEVICE_LAST, MMIO_DEVICE_SIZE, MMIO_DEVICES_START,
};

/// Where one virtio-mmio device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioPlace {
    /// Its worker on the event loop.
    pub worker: WorkerId,
    /// Its register window.
    pub address: GuestAddress,
    /// Its interrupt.
    pub gsi: u32,
}

/// Hands out places in attach order.
#[derive(Debug, Default)]
pub struct Placement {
    attached: u16,
}

/// There are more devices than interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "Could not allocate GSI: The requested resource is not available. A machine has room for {} virtio-mmio devices; remove some",
    GSI_DEVICE_LAST - GSI_DEVICE_FIRST + 1
)]
pub struct OutOfPlaces;

impl Placement {
    /// The next free place.
    ///
    /// # Errors
    /// When all interrupts are taken.
    pub fn next(&mut self) -> Result<MmioPlace, OutOfPlaces> {
        let index = self.attached;
        let gsi = GSI_DEVICE_FIRST + u32::from(index);
        if gsi > GSI_DEVICE_LAST {
            return Err(OutOfPlaces);
        }
        self.attached += 1;
        Ok(MmioPlace {
            worker: WorkerId(index),
            address: GuestAddress(MMIO_DEVICES_START.0 + u64::from(index) * MMIO_DEVICE_SIZE),
            gsi,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_get_distinct_windows_and_interrupts_until_they_run_out() {
        let mut placement = Placement::default();
        let places: Vec<_> = std::iter::from_fn(|| placement.next().ok()).collect();
        assert_eq!(places.len(), 19);
        for pair in places.windows(2) {
            assert_eq!(pair[1].address.0 - pair[0].address.0, MMIO_DEVICE_SIZE);
            assert_eq!(pair[1].gsi - pair[0].gsi, 1);
        }
        assert_eq!(placement.next(), Err(OutOfPlaces));
    }
}
