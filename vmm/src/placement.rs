//! Where each attached device goes: its worker, its window, its interrupts.

use std::ops::Range;

use devices::pci::Bar;
use devices::pci::bus::{BAR_LEN, DEVICES};
use devices::virtio::WorkerId;
use vm_config::{DeviceTransport, Explain, FaultCode, FaultKind};
use vm_memory::GuestAddress;

use crate::arch::x86_64::layout::{
    GSI_DEVICE_FIRST, GSI_DEVICE_LAST, GSI_MSI_FIRST, GSI_MSI_LAST, MMIO_DEVICE_SIZE,
    MMIO_DEVICES_START, MMIO64_START,
};

/// Device numbers that are not the host bridge's.
const PCI_SLOTS: u8 = DEVICES - 1;

/// Where windows of PCI devices may be: as many places as device numbers.
pub const BAR_PLACES: Range<u64> = MMIO64_START.0..MMIO64_START.0 + DEVICES as u64 * BAR_LEN;

/// Vectors each PCI device can have: as many for each slot, with room in KVM's table for wired interrupts.
pub const MAX_VECTORS: u32 = 128;

const _: () =
    assert!(PCI_SLOTS as u32 <= u32::BITS && GSI_DEVICE_LAST - GSI_DEVICE_FIRST < u32::BITS);
const _: () = assert!(GSI_MSI_FIRST + MAX_VECTORS * PCI_SLOTS as u32 <= GSI_MSI_LAST + 1);

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

/// Where one device on the PCI bus is. All of it follows from the number, so that a slot can be left and
/// taken again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciPlace {
    /// Its worker on the event loop.
    pub worker: WorkerId,
    /// Device number, 1..=31; function 0 of bus 0.
    pub device: u8,
    /// Its window.
    pub bar: Bar,
    /// The interrupt of its first vector; it may have [`MAX_VECTORS`].
    pub first_gsi: u32,
}

/// Where a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Between other windows.
    Mmio(MmioPlace),
    /// In a slot of the bus.
    Pci(PciPlace),
}

/// Hands out places, the first free one each time.
#[derive(Debug)]
pub struct Placement {
    transport: DeviceTransport,
    /// A bit for each place that is taken.
    taken: u32,
}

/// There are more devices than places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfPlaces {
    /// Each virtio-mmio device needs an interrupt pin of its own.
    #[error(
        "Could not allocate GSI: The requested resource is not available. A machine has room for {} virtio-mmio devices; remove some, or start with --enable-pci",
        GSI_DEVICE_LAST - GSI_DEVICE_FIRST + 1
    )]
    Gsi,
    /// The bus is full.
    #[error(
        "Could not find an available device slot on the PCI bus; a machine has room for {PCI_SLOTS} devices, remove some"
    )]
    PciSlot,
}

impl Explain for OutOfPlaces {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::Gsi | Self::PciSlot => FaultCode::TooManyDevices,
        })
    }
}

impl Placement {
    /// Every place is free.
    #[must_use]
    pub fn new(transport: DeviceTransport) -> Self {
        Self {
            transport,
            taken: 0,
        }
    }

    /// The next free place.
    ///
    /// # Errors
    /// When all are taken.
    pub fn next(&mut self) -> Result<Place, OutOfPlaces> {
        let index = u8::try_from(self.taken.trailing_ones()).unwrap_or(u8::MAX);
        let place = match self.transport {
            DeviceTransport::Mmio => Place::Mmio(mmio_place(index)?),
            DeviceTransport::Pci => Place::Pci(pci_place(index)?),
        };
        self.taken |= 1 << index;
        Ok(place)
    }

    /// Takes back the place of a device that is gone.
    pub fn release(&mut self, place: Place) {
        let worker = match place {
            Place::Mmio(place) => place.worker,
            Place::Pci(place) => place.worker,
        };
        self.taken &= !1_u32.checked_shl(worker.0.into()).unwrap_or(0);
    }
}

fn mmio_place(index: u8) -> Result<MmioPlace, OutOfPlaces> {
    let gsi = GSI_DEVICE_FIRST + u32::from(index);
    if gsi > GSI_DEVICE_LAST {
        return Err(OutOfPlaces::Gsi);
    }
    Ok(MmioPlace {
        worker: WorkerId(index.into()),
        address: GuestAddress(MMIO_DEVICES_START.0 + u64::from(index) * MMIO_DEVICE_SIZE),
        gsi,
    })
}

fn pci_place(index: u8) -> Result<PciPlace, OutOfPlaces> {
    if index >= PCI_SLOTS {
        return Err(OutOfPlaces::PciSlot);
    }
    let device = index + 1;
    Ok(PciPlace {
        worker: WorkerId(index.into()),
        device,
        bar: Bar {
            address: MMIO64_START.0 + u64::from(device) * BAR_LEN,
            size: BAR_LEN,
        },
        first_gsi: GSI_MSI_FIRST + u32::from(index) * MAX_VECTORS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(transport: DeviceTransport) -> (Vec<Place>, OutOfPlaces) {
        let mut placement = Placement::new(transport);
        let places = std::iter::from_fn(|| placement.next().ok()).collect();
        let Err(error) = placement.next() else {
            panic!("it does not end");
        };
        (places, error)
    }

    #[test]
    fn devices_get_distinct_windows_and_interrupts_until_they_run_out() {
        let (places, error) = all(DeviceTransport::Mmio);
        assert_eq!((places.len(), error), (18, OutOfPlaces::Gsi));
        for pair in places.windows(2) {
            let [Place::Mmio(one), Place::Mmio(next)] = pair else {
                panic!("{pair:?}");
            };
            assert_eq!(next.address.0 - one.address.0, MMIO_DEVICE_SIZE);
            assert_eq!(next.gsi - one.gsi, 1);
        }
    }

    #[test]
    fn a_place_that_was_left_is_the_next() {
        for transport in [DeviceTransport::Mmio, DeviceTransport::Pci] {
            let mut placement = Placement::new(transport);
            let places: Vec<_> = std::iter::from_fn(|| placement.next().ok()).collect();
            for place in [places[7], places[0], *places.last().unwrap()] {
                placement.release(place);
                assert_eq!(placement.next(), Ok(place));
            }
            placement.release(places[9]);
            placement.release(places[3]);
            assert_eq!(placement.next(), Ok(places[3]));
            assert_eq!(placement.next(), Ok(places[9]));
            assert!(placement.next().is_err());
        }
    }

    #[test]
    fn the_bus_has_thirty_one_slots_with_windows_and_vectors_of_their_own() {
        let (places, error) = all(DeviceTransport::Pci);
        assert_eq!((places.len(), error), (31, OutOfPlaces::PciSlot));
        for (place, device) in places.iter().zip(1..) {
            let Place::Pci(place) = place else {
                panic!("{place:?}");
            };
            assert_eq!(place.device, device);
            assert_eq!(place.bar.address, (256 << 30) + (u64::from(device) << 19));
            assert!(place.first_gsi >= 24 && place.first_gsi + MAX_VECTORS <= 4096);
        }
    }
}
