//! Feature bits, and what they say of unfinished frames (virtio 1.2 §5.1.3; segmentation of UDP: virtio 1.3 §5.1.3).

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net as bit;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::tap::Offloads;

/// Features offered on a tap that can hand over `offloads`.
pub(super) fn offered(offloads: Offloads) -> u64 {
    let always = [
        VIRTIO_F_VERSION_1,
        VIRTIO_RING_F_EVENT_IDX,
        bit::VIRTIO_NET_F_MRG_RXBUF,
        bit::VIRTIO_NET_F_CSUM,
    ];
    // Sending unfinished frames needs nothing of the tap that receiving them does not.
    let if_able = [
        (offloads.csum, bit::VIRTIO_NET_F_GUEST_CSUM),
        (offloads.tso4, bit::VIRTIO_NET_F_GUEST_TSO4),
        (offloads.tso6, bit::VIRTIO_NET_F_GUEST_TSO6),
        (offloads.ufo, bit::VIRTIO_NET_F_GUEST_UFO),
        (offloads.uso, bit::VIRTIO_NET_F_GUEST_USO4),
        (offloads.uso, bit::VIRTIO_NET_F_GUEST_USO6),
        (offloads.tso4, bit::VIRTIO_NET_F_HOST_TSO4),
        (offloads.tso6, bit::VIRTIO_NET_F_HOST_TSO6),
        (offloads.ufo, bit::VIRTIO_NET_F_HOST_UFO),
        (offloads.uso, bit::VIRTIO_NET_F_HOST_USO),
    ];
    let able = if_able.into_iter().filter(|(is_able, _)| *is_able);
    let bits = always.into_iter().chain(able.map(|(_, bit)| bit));
    bits.fold(0, |features, bit| features | 1 << bit)
}

/// What the tap may hand over to a driver that accepted `features`.
pub(super) fn accepted(features: u64) -> Offloads {
    let has = |bit| has(features, bit);
    Offloads {
        csum: has(bit::VIRTIO_NET_F_GUEST_CSUM),
        tso4: has(bit::VIRTIO_NET_F_GUEST_TSO4),
        tso6: has(bit::VIRTIO_NET_F_GUEST_TSO6),
        ufo: has(bit::VIRTIO_NET_F_GUEST_UFO),
        // The tap hands over both kinds or neither; a driver that takes one gets finished frames.
        uso: has(bit::VIRTIO_NET_F_GUEST_USO4) && has(bit::VIRTIO_NET_F_GUEST_USO6),
    }
}

/// Whether `bit` is in `features`.
pub(super) fn has(features: u64, bit: u32) -> bool {
    features & (1 << bit) != 0
}
