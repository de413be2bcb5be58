//! Offsets of `virtio_pci_common_cfg` (virtio 1.2 §4.1.4.3), by the names of Linux' `virtio_pci.h`.

pub(super) const VIRTIO_PCI_COMMON_DFSELECT: u32 = 0;
pub(super) const VIRTIO_PCI_COMMON_DF: u32 = 4;
pub(super) const VIRTIO_PCI_COMMON_GFSELECT: u32 = 8;
pub(super) const VIRTIO_PCI_COMMON_GF: u32 = 12;
pub(super) const VIRTIO_PCI_COMMON_MSIX: u32 = 16;
pub(super) const VIRTIO_PCI_COMMON_NUMQ: u32 = 18;
pub(super) const VIRTIO_PCI_COMMON_STATUS: u32 = 20;
pub(super) const VIRTIO_PCI_COMMON_CFGGENERATION: u32 = 21;
pub(super) const VIRTIO_PCI_COMMON_Q_SELECT: u32 = 22;
pub(super) const VIRTIO_PCI_COMMON_Q_SIZE: u32 = 24;
pub(super) const VIRTIO_PCI_COMMON_Q_MSIX: u32 = 26;
pub(super) const VIRTIO_PCI_COMMON_Q_ENABLE: u32 = 28;
pub(super) const VIRTIO_PCI_COMMON_Q_NOFF: u32 = 30;
pub(super) const VIRTIO_PCI_COMMON_Q_DESCLO: u32 = 32;
pub(super) const VIRTIO_PCI_COMMON_Q_DESCHI: u32 = 36;
pub(super) const VIRTIO_PCI_COMMON_Q_AVAILLO: u32 = 40;
pub(super) const VIRTIO_PCI_COMMON_Q_AVAILHI: u32 = 44;
pub(super) const VIRTIO_PCI_COMMON_Q_USEDLO: u32 = 48;
pub(super) const VIRTIO_PCI_COMMON_Q_USEDHI: u32 = 52;
