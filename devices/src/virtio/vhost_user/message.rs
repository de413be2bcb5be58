//! Messages as they are on the socket: a header and a payload, in the machine's byte order (vhost-user.rst, "Message
//! Specification").

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Regions of guest memory in one table, as many as a message has descriptors.
pub(super) const MAX_REGIONS: usize = 8;

/// In each header's flags.
const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// `VHOST_USER_F_PROTOCOL_FEATURES`, among the virtio features.
pub(super) const PROTOCOL_FEATURES: u64 = 1 << 30;
/// `VHOST_USER_PROTOCOL_F_REPLY_ACK`.
pub(super) const REPLY_ACK: u64 = 1 << 3;
/// `VHOST_USER_PROTOCOL_F_CONFIG`.
pub(super) const CONFIG: u64 = 1 << 9;

/// A request of the front end: its number, and its name for error messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Code(pub(super) u32, pub(super) &'static str);

pub(super) const GET_FEATURES: Code = Code(1, "GET_FEATURES");
pub(super) const SET_FEATURES: Code = Code(2, "SET_FEATURES");
pub(super) const SET_OWNER: Code = Code(3, "SET_OWNER");
pub(super) const SET_MEM_TABLE: Code = Code(5, "SET_MEM_TABLE");
pub(super) const SET_VRING_NUM: Code = Code(8, "SET_VRING_NUM");
pub(super) const SET_VRING_ADDR: Code = Code(9, "SET_VRING_ADDR");
pub(super) const SET_VRING_BASE: Code = Code(10, "SET_VRING_BASE");
pub(super) const GET_VRING_BASE: Code = Code(11, "GET_VRING_BASE");
pub(super) const SET_VRING_KICK: Code = Code(12, "SET_VRING_KICK");
pub(super) const SET_VRING_CALL: Code = Code(13, "SET_VRING_CALL");
pub(super) const GET_PROTOCOL_FEATURES: Code = Code(15, "GET_PROTOCOL_FEATURES");
pub(super) const SET_PROTOCOL_FEATURES: Code = Code(16, "SET_PROTOCOL_FEATURES");
pub(super) const SET_VRING_ENABLE: Code = Code(18, "SET_VRING_ENABLE");
pub(super) const GET_CONFIG: Code = Code(24, "GET_CONFIG");

/// What precedes each payload.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Header {
    request: u32,
    flags: u32,
    size: u32,
}

/// Whether a request has an answer that carries nothing but success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ack {
    Wanted,
    None,
}

impl Header {
    /// The header of a request with `size` bytes of payload.
    pub(super) fn request(code: Code, size: u32, ack: Ack) -> Self {
        let need_reply = if ack == Ack::Wanted { NEED_REPLY } else { 0 };
        Self {
            request: code.0,
            flags: VERSION | need_reply,
            size,
        }
    }

    /// Whether this is the answer to `code` with a payload of `size` bytes.
    pub(super) fn answers(self, code: Code, size: usize) -> bool {
        let is_reply = self.flags & (VERSION_MASK | REPLY) == VERSION | REPLY;
        is_reply && self.request == code.0 && usize::try_from(self.size) == Ok(size)
    }
}

/// "A vring state description": also base and size of a ring.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct RingState {
    pub(super) index: u32,
    pub(super) number: u32,
}

/// "A vring address description"; rings are at addresses of this process.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct RingAddresses {
    pub(super) index: u32,
    pub(super) flags: u32,
    pub(super) descriptor_table: u64,
    pub(super) used_ring: u64,
    pub(super) available_ring: u64,
    pub(super) log: u64,
}

/// "Memory region description".
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Region {
    pub(super) guest_address: u64,
    pub(super) len: u64,
    pub(super) our_address: u64,
    pub(super) file_offset: u64,
}

/// "Multiple memory regions description"; the message ends behind the last one that is used.
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Regions {
    pub(super) count: u32,
    pub(super) padding: u32,
    pub(super) regions: [Region; MAX_REGIONS],
}

/// "Virtio device config space", without the bytes that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct ConfigRange {
    pub(super) offset: u32,
    pub(super) size: u32,
    pub(super) flags: u32,
}
