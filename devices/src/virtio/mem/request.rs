//! Turns a chain into a request for memory, and an answer into bytes (virtio 1.2 §5.15.6).

#![deny(clippy::arithmetic_side_effects)]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::virtio::chain::Chain;

const VIRTIO_MEM_REQ_PLUG: u16 = 0;
const VIRTIO_MEM_REQ_UNPLUG: u16 = 1;
const VIRTIO_MEM_REQ_UNPLUG_ALL: u16 = 2;
const VIRTIO_MEM_REQ_STATE: u16 = 3;

const VIRTIO_MEM_RESP_ACK: u8 = 0;
const VIRTIO_MEM_RESP_NACK: u8 = 1;
const VIRTIO_MEM_RESP_BUSY: u8 = 2;
const VIRTIO_MEM_RESP_ERROR: u8 = 3;

/// `struct virtio_mem_req`, little-endian.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Wire {
    kind: u16,
    padding: [u16; 3],
    address: u64,
    block_count: u16,
    more_padding: [u16; 3],
}

/// Blocks that a request names: as many as `count` from `address` on. Not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    pub address: u64,
    pub count: u16,
}

/// What a driver asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Plug(Named),
    Unplug(Named),
    UnplugAll,
    State(Named),
    Unknown,
}

/// What it hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    Ack,
    /// More than the host wants it to have.
    Nack,
    /// The host cannot now; the driver tries again later.
    Busy,
    /// The driver broke a rule.
    Error,
    State(BlockState),
}

/// `VIRTIO_MEM_STATE_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    Plugged = 0,
    Unplugged = 1,
    Mixed = 2,
}

/// Bytes of `struct virtio_mem_resp`.
pub const RESPONSE_LEN: usize = 10;

/// The request in `chain`. `None` when there is no whole one, or no room for its answer: then nothing may be done,
/// for the driver would not hear of it.
pub fn parse(chain: &mut Chain) -> Option<Request> {
    if chain.writable.len() < RESPONSE_LEN {
        return None;
    }
    let wire: Wire = chain.readable.read_head()?;
    let named = Named {
        address: u64::from_le(wire.address),
        count: u16::from_le(wire.block_count),
    };
    Some(match u16::from_le(wire.kind) {
        VIRTIO_MEM_REQ_PLUG => Request::Plug(named),
        VIRTIO_MEM_REQ_UNPLUG => Request::Unplug(named),
        VIRTIO_MEM_REQ_UNPLUG_ALL => Request::UnplugAll,
        VIRTIO_MEM_REQ_STATE => Request::State(named),
        _ => Request::Unknown,
    })
}

impl Response {
    /// `struct virtio_mem_resp`.
    pub fn to_bytes(self) -> [u8; RESPONSE_LEN] {
        let (kind, state) = match self {
            Self::Ack => (VIRTIO_MEM_RESP_ACK, 0),
            Self::Nack => (VIRTIO_MEM_RESP_NACK, 0),
            Self::Busy => (VIRTIO_MEM_RESP_BUSY, 0),
            Self::Error => (VIRTIO_MEM_RESP_ERROR, 0),
            Self::State(state) => (VIRTIO_MEM_RESP_ACK, state as u8),
        };
        let mut bytes = [0; RESPONSE_LEN];
        bytes[0] = kind;
        bytes[8] = state;
        bytes
    }
}
