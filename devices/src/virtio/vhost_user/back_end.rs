//! What a device has its back end do: agree on features, tell its configuration, take over a ring, give it back.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::time::Duration;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::VhostUserError;
use super::connection::{Connection, PATIENCE, SHORT_PATIENCE};
use super::message::{
    CONFIG, ConfigRange, GET_CONFIG, GET_FEATURES, GET_PROTOCOL_FEATURES, GET_VRING_BASE,
    MAX_REGIONS, PROTOCOL_FEATURES, REPLY_ACK, Region, Regions, RingAddresses, RingState,
    SET_FEATURES, SET_MEM_TABLE, SET_OWNER, SET_PROTOCOL_FEATURES, SET_VRING_ADDR, SET_VRING_BASE,
    SET_VRING_CALL, SET_VRING_ENABLE, SET_VRING_KICK, SET_VRING_NUM,
};
use crate::GuestMemory;
use crate::sys::event::lend;
use crate::virtio::queue::QueueState;

/// The only ring.
const RING: u32 = 0;

/// A back end, as long as it keeps to the protocol.
pub(crate) struct BackEnd {
    /// Gone after the first failure.
    connection: Option<Connection>,
}

/// What a back end must offer, by name.
pub(crate) type Needed = (u64, &'static str);

/// A ring to take over.
pub(crate) struct Ring<'a> {
    pub(crate) state: QueueState,
    /// Written by the driver's side.
    pub(crate) kick: &'a EventFd,
    /// Written by the back end when the driver is to be interrupted.
    pub(crate) call: &'a EventFd,
}

/// Bytes of the configuration space that are asked for: those of a disk up to the fields of secure erase.
pub(crate) const CONFIG_LEN: usize = 60;

/// A configuration space as it is sent.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Config {
    range: ConfigRange,
    bytes: [u8; CONFIG_LEN],
}

impl BackEnd {
    /// Connects to `path`. Gives the features that the back end offers, its own among them.
    ///
    /// # Errors
    /// When there is none, it does not answer in time, or lacks something `needed`.
    pub(crate) fn connect(
        path: &Path,
        needed: Needed,
        patience: Duration,
    ) -> Result<(Self, u64), VhostUserError> {
        let mut connection =
            Connection::open(path, patience).map_err(|error| VhostUserError::Connect {
                path: path.to_owned(),
                error,
            })?;
        connection.tell(SET_OWNER, &[], &[])?;
        let features: u64 = connection.ask(GET_FEATURES, &[])?;
        let (bit, name) = needed;
        for (bit, name) in [
            (bit, name),
            (PROTOCOL_FEATURES, "VHOST_USER_F_PROTOCOL_FEATURES"),
        ] {
            if features & bit == 0 {
                return Err(VhostUserError::Lacks(name));
            }
        }
        let offered: u64 = connection.ask(GET_PROTOCOL_FEATURES, &[])?;
        if offered & CONFIG == 0 {
            return Err(VhostUserError::Lacks("VHOST_USER_PROTOCOL_F_CONFIG"));
        }
        let accepted = offered & (CONFIG | REPLY_ACK);
        connection.tell(SET_PROTOCOL_FEATURES, accepted.as_bytes(), &[])?;
        connection.set_ack(accepted & REPLY_ACK != 0);
        let connection = Some(connection);
        Ok((Self { connection }, features))
    }

    /// The start of the configuration space.
    ///
    /// # Errors
    /// When the back end does not give it.
    pub(crate) fn config(&mut self) -> Result<[u8; CONFIG_LEN], VhostUserError> {
        let range = ConfigRange {
            offset: 0,
            size: 60,
            flags: 0,
        };
        const { assert!(CONFIG_LEN == 60) };
        // Sent with as many bytes as are asked for.
        let question = Config {
            range,
            bytes: [0; CONFIG_LEN],
        };
        self.hold(SHORT_PATIENCE, |back_end| {
            let answer: Config = back_end.ask(GET_CONFIG, question.as_bytes())?;
            let is_whole = (answer.range.offset, answer.range.size) == (range.offset, range.size);
            let bytes = is_whole.then_some(answer.bytes);
            bytes.ok_or(VhostUserError::Answer(GET_CONFIG.1))
        })
    }

    /// Hands guest memory and a ring over to the back end, which works from then on.
    ///
    /// # Errors
    /// When it does not take them.
    pub(crate) fn start(
        &mut self,
        features: u64,
        memory: &GuestMemory,
        ring: &Ring<'_>,
    ) -> Result<(), VhostUserError> {
        let addresses = addresses(memory, &ring.state)?;
        self.hold(PATIENCE, |back_end| {
            let features = features | PROTOCOL_FEATURES;
            back_end.tell(SET_FEATURES, features.as_bytes(), &[])?;
            share(back_end, memory)?;
            let state = |number: u16| RingState {
                index: RING,
                number: number.into(),
            };
            let index = u64::from(RING);
            let (size, base) = (state(ring.state.size), state(ring.state.next_available));
            back_end.tell(SET_VRING_NUM, size.as_bytes(), &[])?;
            back_end.tell(SET_VRING_ADDR, addresses.as_bytes(), &[])?;
            back_end.tell(SET_VRING_BASE, base.as_bytes(), &[])?;
            back_end.tell(SET_VRING_CALL, index.as_bytes(), &[lend(ring.call)])?;
            back_end.tell(SET_VRING_KICK, index.as_bytes(), &[lend(ring.kick)])?;
            back_end.tell(SET_VRING_ENABLE, state(1).as_bytes(), &[])?;
            // One that acknowledges nothing has at least heard all of it when it answers this.
            back_end.ask::<u64>(GET_FEATURES, &[]).map(drop)
        })
    }

    /// Takes the ring back: the index of the next head that the back end would pop.
    ///
    /// # Errors
    /// When the back end does not stop.
    pub(crate) fn stop(&mut self) -> Result<u16, VhostUserError> {
        let state = RingState {
            index: RING,
            number: 0,
        };
        self.hold(PATIENCE, |back_end| {
            let base: RingState = back_end.ask(GET_VRING_BASE, state.as_bytes())?;
            let next = u16::try_from(base.number)
                .ok()
                .filter(|_| base.index == RING);
            next.ok_or(VhostUserError::Answer(GET_VRING_BASE.1))
        })
    }

    /// Looks whether the back end is still there, without waiting.
    ///
    /// # Errors
    /// When it is not, or failed before, or says what nobody asked for.
    pub(crate) fn look(&mut self) -> Result<(), VhostUserError> {
        self.hold(SHORT_PATIENCE, |back_end| {
            if back_end.is_over() {
                return Err(VhostUserError::Closed("no request"));
            }
            Ok(())
        })
    }

    /// What to watch for its end.
    pub(crate) fn socket(&self) -> Option<RawFd> {
        let connection = self.connection.as_ref()?;
        Some(connection.as_fd().as_raw_fd())
    }

    /// Does `exchange`; a back end that fails in it is left.
    fn hold<R>(
        &mut self,
        patience: Duration,
        exchange: impl FnOnce(&mut Connection) -> Result<R, VhostUserError>,
    ) -> Result<R, VhostUserError> {
        let mut connection = self.connection.take().ok_or(VhostUserError::Ended)?;
        connection.begin(patience);
        let result = exchange(&mut connection)?;
        self.connection = Some(connection);
        Ok(result)
    }
}

/// Tells the back end where guest memory is.
fn share(back_end: &mut Connection, memory: &GuestMemory) -> Result<(), VhostUserError> {
    let mut table = Regions::default();
    let mut files = Vec::with_capacity(MAX_REGIONS);
    for region in memory.iter() {
        let place = table.regions.get_mut(files.len());
        let (place, file) = place
            .zip(region.file_offset())
            .ok_or(VhostUserError::Memory)?;
        *place = Region {
            guest_address: region.start_addr().0,
            len: region.len(),
            our_address: region.mapping().as_ptr().addr() as u64,
            file_offset: file.start(),
        };
        files.push(file.file().as_fd());
        table.count += 1;
    }
    let len = size_of::<Regions>() - (MAX_REGIONS - files.len()) * size_of::<Region>();
    let table = table.as_bytes().get(..len).unwrap_or_default();
    back_end.tell(SET_MEM_TABLE, table, &files)
}

/// Where the ring's parts are in this process, as the protocol has it.
fn addresses(memory: &GuestMemory, state: &QueueState) -> Result<RingAddresses, VhostUserError> {
    let ours = |address| {
        let ours = memory.get_host_address(GuestAddress(address));
        ours.map(|ours| ours.addr() as u64)
            .map_err(|_| VhostUserError::Memory)
    };
    Ok(RingAddresses {
        index: RING,
        flags: 0,
        descriptor_table: ours(state.descriptor_table)?,
        used_ring: ours(state.used_ring)?,
        available_ring: ours(state.available_ring)?,
        log: 0,
    })
}
