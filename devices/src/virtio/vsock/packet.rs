//! Packets as they lie in buffers: a header of 44 bytes, then data (virtio 1.2 §5.10.6).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bytes of a header.
pub const HEADER_LEN: usize = size_of::<Header>();
/// The most data in a packet that we send.
pub const MAX_DATA: u32 = 64 << 10;
/// The host's address (virtio 1.2 §5.10.4).
pub const HOST_CID: u64 = 2;
/// `VIRTIO_VSOCK_TYPE_STREAM` (virtio 1.2 §5.10.6).
pub const STREAM: u16 = 1;

/// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`: the sender will receive no more (virtio 1.2 §5.10.6.5).
pub const RECEIVE: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_SEND`: the sender will send no more.
pub const SEND: u32 = 2;
/// Neither.
pub const BOTH: u32 = RECEIVE | SEND;

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`, as it lies in an event buffer (virtio 1.2 §5.10.6.7).
pub const TRANSPORT_RESET: [u8; 4] = 0u32.to_le_bytes();

/// `struct virtio_vsock_hdr`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Header {
    /// Who sends.
    pub src_cid: U64,
    /// To whom.
    pub dst_cid: U64,
    /// The sender's port.
    pub src_port: U32,
    /// The receiver's port.
    pub dst_port: U32,
    /// Bytes of data behind the header.
    pub len: U32,
    /// [`STREAM`].
    pub kind: U16,
    /// [`Op`].
    pub op: U16,
    /// What a shutdown ends: [`RECEIVE`], [`SEND`].
    pub flags: U32,
    /// Bytes that the sender can hold for its receiver.
    pub buf_alloc: U32,
    /// Bytes that its receiver took so far, modulo 2^32.
    pub fwd_cnt: U32,
}

/// What a packet does (virtio 1.2 §5.10.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Asks for a connection.
    Request = 1,
    /// Makes it.
    Response = 2,
    /// Refuses it, or ends it at once.
    Reset = 3,
    /// Ends one direction or both.
    Shutdown = 4,
    /// Carries data.
    Data = 5,
    /// Tells how much room there is.
    CreditUpdate = 6,
    /// Asks how much room there is.
    CreditRequest = 7,
}

/// A connection's name: unique among those that a guest knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    /// On the host's side.
    pub host: u32,
    /// On the guest's side.
    pub guest: u32,
}

impl Op {
    /// The operation of that number.
    #[must_use]
    pub fn of(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

impl Header {
    /// A packet from the host with no data, to the guest `cid`.
    #[must_use]
    pub fn to_guest(cid: u64, ports: Ports, op: Op) -> Self {
        Self {
            src_cid: HOST_CID.into(),
            dst_cid: cid.into(),
            src_port: ports.host.into(),
            dst_port: ports.guest.into(),
            kind: STREAM.into(),
            op: (op as u16).into(),
            ..Self::default()
        }
    }

    /// The connection that a packet of the guest belongs to.
    #[must_use]
    pub fn ports(&self) -> Ports {
        Ports {
            host: self.dst_port.get(),
            guest: self.src_port.get(),
        }
    }

    /// What it does, if anything known.
    #[must_use]
    pub fn op(&self) -> Option<Op> {
        Op::of(self.op.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_lies_in_44_bytes_little_endian() {
        assert_eq!(HEADER_LEN, 44);
        let ports = Ports {
            host: 0x0102_0304,
            guest: 0x0506_0708,
        };
        let mut header = Header::to_guest(3, ports, Op::Shutdown);
        header.flags = BOTH.into();
        header.buf_alloc = 0x1_0000.into();
        header.fwd_cnt = 9.into();
        let bytes = header.as_bytes();
        assert_eq!(bytes[..8], 2u64.to_le_bytes());
        assert_eq!(bytes[8..16], 3u64.to_le_bytes());
        assert_eq!(bytes[16..24], [4, 3, 2, 1, 8, 7, 6, 5]);
        assert_eq!(bytes[24..32], [0, 0, 0, 0, 1, 0, 4, 0]);
        assert_eq!(bytes[32..], [3, 0, 0, 0, 0, 0, 1, 0, 9, 0, 0, 0]);
    }

    #[test]
    fn operations_keep_their_numbers() {
        for number in 0..=u16::MAX {
            match Op::of(number) {
                Some(op) => assert_eq!(op as u16, number),
                None => assert!(!(1..=7).contains(&number)),
            }
        }
    }
}
