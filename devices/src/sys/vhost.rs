//! The host kernel's network back end, `/dev/vhost-net` (Linux `include/uapi/linux/vhost.h`, `drivers/vhost`).
//!
//! A ring that was handed over is the kernel's: a thread of its own reads and writes guest memory through this process's
//! mappings. It looks descriptors up in a table of memory, but takes the rings at their word, so where they lie is
//! checked here. Memory stays mapped until the kernel let go of every ring.

use std::fs::{File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::GuestMemory;
use crate::virtio::queue::QueueState;

/// Rings of an interface: receive and transmit (`VHOST_NET_VQ_MAX`).
pub const RINGS: usize = 2;
/// The most regions that the kernel takes unless told otherwise (module parameter `max_mem_regions`).
const MAX_REGIONS: usize = 64;
/// What takes a tap, or an event, away from a ring (`VHOST_FILE_UNBIND`).
const NOTHING: libc::c_int = -1;

/// `VHOST_VIRTIO`.
const VHOST: u32 = 0xaf;
const READ: u32 = 2;
const WRITE: u32 = 1;
const GET_FEATURES: Request<u64> = Request::new(READ, 0x00);
const SET_FEATURES: Request<u64> = Request::new(WRITE, 0x00);
const SET_OWNER: Request<()> = Request::new(0, 0x01);
const SET_MEM_TABLE: Request<TableHeader> = Request::new(WRITE, 0x03);
const SET_VRING_NUM: Request<RingNumber> = Request::new(WRITE, 0x10);
const SET_VRING_ADDR: Request<RingAddresses> = Request::new(WRITE, 0x11);
const SET_VRING_BASE: Request<RingNumber> = Request::new(WRITE, 0x12);
const GET_VRING_BASE: Request<RingNumber> = Request::new(READ | WRITE, 0x12);
const SET_VRING_KICK: Request<RingFile> = Request::new(WRITE, 0x20);
const SET_VRING_CALL: Request<RingFile> = Request::new(WRITE, 0x21);
const SET_VRING_ERR: Request<RingFile> = Request::new(WRITE, 0x22);
const NET_SET_BACKEND: Request<RingFile> = Request::new(WRITE, 0x30);

/// The kernel's half of one interface.
#[derive(Debug)]
pub struct Vhost {
    /// Closes before `memory` goes, and the kernel then lets go of everything.
    file: File,
    /// What the rings are in that the kernel has.
    memory: Option<Arc<GuestMemory>>,
    is_running: [bool; RINGS],
}

/// A ring to hand over.
pub struct Ring<'a> {
    /// 0 receives, 1 transmits.
    pub index: usize,
    /// Where the ring is, and how far it came.
    pub state: QueueState,
    /// Written when the driver added a buffer.
    pub kick: &'a EventFd,
    /// The kernel writes it when the driver is to be interrupted.
    pub call: &'a EventFd,
    /// The kernel writes it when the ring makes no sense.
    pub error: &'a EventFd,
    /// Where frames come from and go to.
    pub tap: BorrowedFd<'a>,
}

/// An `ioctl` number, and what the argument points to: the number holds its size, so the kernel touches no more.
struct Request<T>(libc::Ioctl, PhantomData<T>);

/// `struct vhost_vring_state`.
#[repr(C)]
struct RingNumber {
    index: u32,
    number: u32,
}

/// `struct vhost_vring_file`.
#[repr(C)]
struct RingFile {
    index: u32,
    fd: libc::c_int,
}

/// `struct vhost_vring_addr`; addresses are this process's.
#[repr(C)]
struct RingAddresses {
    index: u32,
    flags: u32,
    descriptor_table: u64,
    used_ring: u64,
    available_ring: u64,
    log: u64,
}

/// `struct vhost_memory`, without what follows it.
#[derive(Default)]
#[repr(C)]
struct TableHeader {
    count: u32,
    padding: u32,
}

/// `struct vhost_memory_region`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Region {
    guest_address: u64,
    len: u64,
    our_address: u64,
    padding: u64,
}

/// `struct vhost_memory` with room for every region.
#[repr(C)]
struct Table {
    header: TableHeader,
    regions: [Region; MAX_REGIONS],
}

impl Vhost {
    /// Opens the node at `path`, and has the kernel work for this process.
    ///
    /// # Errors
    /// The host's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let vhost = Self {
            file,
            memory: None,
            is_running: [false; RINGS],
        };
        // SAFETY: `VHOST_SET_OWNER` takes no argument. The memory that it makes the kernel remember is this process's
        // address space, of which the kernel touches what `start` names.
        check(unsafe { libc::ioctl(vhost.file.as_raw_fd(), SET_OWNER.0) })?;
        Ok(vhost)
    }

    /// Features that the kernel knows, of the rings and of itself.
    ///
    /// # Errors
    /// The host's.
    pub fn features(&self) -> io::Result<u64> {
        let mut features = 0;
        self.ask(&GET_FEATURES, &mut features)?;
        Ok(features)
    }

    /// Hands `rings` over, to work with `features` in `memory`. None runs when this fails.
    ///
    /// # Errors
    /// The host's; `InvalidInput` when a part of a ring is not in one region of memory.
    pub fn start(
        &mut self,
        features: u64,
        memory: &Arc<GuestMemory>,
        rings: &[Ring<'_>],
    ) -> io::Result<()> {
        // One that the kernel kept against our will could be in other memory.
        self.stop()?;
        self.tell(&SET_FEATURES, &features)?;
        self.set_memory(memory)?;
        let started = rings.iter().try_for_each(|ring| self.hand_over(ring));
        if started.is_err() {
            // The first failure says more.
            let _ = self.stop();
        }
        started
    }

    /// Takes all rings back. Of each that ran, the index of the next head that the kernel would pop; the kernel gave
    /// back all that it popped, and wrote that into the used ring.
    ///
    /// # Errors
    /// The host's; guest memory then stays mapped as long as this lives.
    pub fn stop(&mut self) -> io::Result<[Option<u16>; RINGS]> {
        let mut next = [None; RINGS];
        for (index, next) in (0..).zip(&mut next) {
            if self.is_running[index] {
                *next = Some(self.take_back(index)?);
                self.is_running[index] = false;
            }
        }
        self.memory = None;
        Ok(next)
    }

    /// The kernel's table takes the place of the one before, and nothing reads it until a ring has a tap.
    fn set_memory(&mut self, memory: &Arc<GuestMemory>) -> io::Result<()> {
        let table = Table::of(memory)?;
        // SAFETY: `VHOST_SET_MEM_TABLE` reads a `vhost_memory` and as many regions behind it as that says.
        // `table` is that: `count` is the number of regions filled, at most `MAX_REGIONS`, and it lives during the call.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), SET_MEM_TABLE.0, &raw const table) })?;
        self.memory = Some(Arc::clone(memory));
        Ok(())
    }

    fn hand_over(&mut self, ring: &Ring<'_>) -> io::Result<()> {
        let memory = self.memory.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        let addresses = RingAddresses::of(memory, ring)?;
        let index = addresses.index;
        let number = |number: u16| RingNumber {
            index,
            number: number.into(),
        };
        let event = |event: &EventFd| RingFile {
            index,
            fd: event.as_raw_fd(),
        };
        self.tell(&SET_VRING_NUM, &number(ring.state.size))?;
        self.tell(&SET_VRING_BASE, &number(ring.state.next_available))?;
        self.tell(&SET_VRING_ADDR, &addresses)?;
        self.tell(&SET_VRING_CALL, &event(ring.call))?;
        self.tell(&SET_VRING_ERR, &event(ring.error))?;
        self.tell(&SET_VRING_KICK, &event(ring.kick))?;
        let fd = ring.tap.as_raw_fd();
        self.tell(&NET_SET_BACKEND, &RingFile { index, fd })?;
        self.is_running[ring.index] = true;
        Ok(())
    }

    fn take_back(&self, index: usize) -> io::Result<u16> {
        let index = number_of(index)?;
        let nothing = RingFile { index, fd: NOTHING };
        // Waits for what is under way; the kernel touches no memory after.
        self.tell(&NET_SET_BACKEND, &nothing)?;
        for request in [&SET_VRING_KICK, &SET_VRING_CALL, &SET_VRING_ERR] {
            self.tell(request, &nothing)?;
        }
        let mut next = RingNumber { index, number: 0 };
        self.ask(&GET_VRING_BASE, &mut next)?;
        u16::try_from(next.number).map_err(io::Error::other)
    }

    fn tell<T>(&self, request: &Request<T>, argument: &T) -> io::Result<()> {
        // SAFETY: The kernel reads as many bytes at the address as the number says: one `T`.
        // 1. `argument` is one, borrowed during the call.
        // 2. What the kernel does later with addresses in it concerns rings, which `RingAddresses::of` checked and
        //    `self.memory` keeps mapped until `take_back`, or until the file closed.
        check(unsafe {
            libc::ioctl(
                self.file.as_raw_fd(),
                request.0,
                std::ptr::from_ref(argument),
            )
        })
    }

    fn ask<T>(&self, request: &Request<T>, answer: &mut T) -> io::Result<()> {
        // SAFETY: The kernel reads and writes as many bytes at the address as the number says: one `T`, borrowed
        // mutably during the call. The two types that are asked for, `u64` and `RingNumber`, may hold any bytes.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), request.0, std::ptr::from_mut(answer)) })
    }
}

impl<T> Request<T> {
    /// `_IOC` (Linux `include/uapi/asm-generic/ioctl.h`).
    const fn new(direction: u32, number: u32) -> Self {
        assert!(size_of::<T>() < 1 << 14);
        let size = size_of::<T>() as libc::Ioctl;
        let fixed = direction << 30 | VHOST << 8 | number;
        Self(fixed as libc::Ioctl | size << 16, PhantomData)
    }
}

impl Table {
    fn of(memory: &GuestMemory) -> io::Result<Self> {
        let mut table = Self {
            header: TableHeader::default(),
            regions: [Region::default(); MAX_REGIONS],
        };
        let mut places = table.regions.iter_mut();
        for region in memory.iter() {
            let place = places.next().ok_or(io::ErrorKind::InvalidInput)?;
            *place = Region {
                guest_address: region.start_addr().0,
                len: region.len(),
                our_address: region.mapping().as_ptr().addr() as u64,
                padding: 0,
            };
            table.header.count += 1;
        }
        Ok(table)
    }
}

impl RingAddresses {
    /// Each part lies in one region, to its last byte (virtio 1.2 §2.7, with the event indices).
    fn of(memory: &GuestMemory, ring: &Ring<'_>) -> io::Result<Self> {
        let size = usize::from(ring.state.size);
        let ours = |address, len| {
            let part = memory.get_slice(GuestAddress(address), len);
            let part = part.map_err(|_| io::ErrorKind::InvalidInput)?;
            Ok::<_, io::Error>(part.ptr_guard().as_ptr().addr() as u64)
        };
        Ok(Self {
            index: number_of(ring.index)?,
            flags: 0,
            descriptor_table: ours(ring.state.descriptor_table, 16 * size)?,
            used_ring: ours(ring.state.used_ring, 6 + 8 * size)?,
            available_ring: ours(ring.state.available_ring, 6 + 2 * size)?,
            log: 0,
        })
    }
}

fn number_of(index: usize) -> io::Result<u32> {
    let number = u32::try_from(index).ok().filter(|_| index < RINGS);
    number.ok_or(io::ErrorKind::InvalidInput.into())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
