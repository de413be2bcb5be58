//! Every device of the product, and the host's side of each.

use std::any::Any;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use devices::GuestMemory;
use devices::memory::Blocks;
use devices::testing::{guest_memory, shared_memory};
use devices::virtio::block::{BlockChange, LockWait, SharedRing, VhostUserBlock};
use devices::virtio::mem::{BlockSource, Region};
use devices::virtio::pmem::Backing;
use devices::virtio::transport::Slot;
use devices::virtio::vhost_user::PATIENCE;
use devices::virtio::{Balloon, Block, Console, Mem, Net, Pmem, Rng, VirtioDevice, Vsock};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use vm_config::{
    BalloonConfig, ConsoleConfig, Drive, DrivePatch, Entropy, HintingStart, NetworkInterface,
    RateLimiter, TokenBucket,
};
use vm_memory::GuestAddress;

use crate::back_end::BackEnd;
use crate::bytes::Bytes;
use crate::file;

/// Declares [`Kind`], and lists it whole.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident,)*) => {
        /// Which device, and how it was configured.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// Every kind. New ones come last: inputs of a corpus choose by place.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];
        }
    };
}

kinds! {
    /// A drive, its engine in the event loop.
    BlockSync,
    /// A drive, its engine io_uring.
    BlockAsync,
    /// A drive that is read-only and limited.
    BlockLimited,
    /// A network interface.
    Net,
    /// One with two pairs of queues and limits.
    NetPairs,
    /// Connections to the host.
    Vsock,
    /// Random bytes.
    Rng,
    /// The balloon with all it offers.
    Balloon,
    /// A drive that layers its writes over a base.
    BlockOverlay,
    /// Persistent memory, limited.
    Pmem,
    /// A console whose output is a file.
    Console,
    /// A drive with several queues, its engine io_uring.
    BlockQueues,
    /// Memory that is plugged by request.
    Mem,
    /// A drive that another process serves.
    VhostUserBlock,
    /// A network interface with the metadata service.
    NetMetadata,
}
// A digit chooses among them.
const _: () = assert!(Kind::ALL.len() <= 16);

/// What the host has of a device.
pub struct Host {
    kind: Kind,
    disk: File,
    overlay: File,
    wires: Vec<UnixDatagram>,
    socket: PathBuf,
    service: Option<UnixListener>,
    streams: Vec<UnixStream>,
    back_end: Option<BackEnd>,
}

/// Bytes of the drive.
pub const DISK_LEN: usize = 64 * 512;
/// The port on which a process of the host serves.
const SERVICE: u32 = 1;
/// Connections that the host opens at most.
const MAX_STREAMS: usize = 8;

/// Where memory is plugged, and how much, in blocks of which length.
const PLUGGED_AT: u64 = 1 << 32;
const PLUGGED_LEN: u64 = 8 << 20;
const BLOCK: u64 = 1 << 20;

/// The host's sockets, in a folder of `TMPDIR`; whoever set that removes it.
static FOLDER: LazyLock<TempDir> =
    LazyLock::new(|| TempDir::new().expect("the host has a folder for files that go"));
/// Makes the sockets' names different.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// The ring of all drives with the engine io_uring.
static RING: LazyLock<SharedRing> = LazyLock::new(SharedRing::default);

impl Kind {
    /// The kind that a byte of an input chooses: by its lower digit, so that one of text can.
    #[must_use]
    pub fn of(byte: u8) -> Self {
        Self::ALL[usize::from(byte & 0xf) % Self::ALL.len()]
    }

    fn is_drive(self) -> bool {
        matches!(
            self,
            Self::BlockSync
                | Self::BlockAsync
                | Self::BlockLimited
                | Self::BlockOverlay
                | Self::BlockQueues
        )
    }
}

impl Host {
    /// The host's side of a device that is still to be made.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        let has_file = kind.is_drive() || kind == Kind::Pmem;
        let disk = if has_file {
            vec![0xd5; DISK_LEN]
        } else {
            Vec::new()
        };
        Self {
            kind,
            disk: file::holding(&disk),
            overlay: file::holding(&[]),
            wires: Vec::new(),
            socket: PathBuf::new(),
            service: None,
            streams: Vec::new(),
            back_end: None,
        }
    }

    /// The memory of a guest with this device.
    #[must_use]
    pub fn memory(&self, len: usize) -> Arc<GuestMemory> {
        match self.kind {
            Kind::VhostUserBlock => shared_memory(len),
            _ => guest_memory(len),
        }
    }

    /// From now on nothing fails on the host's side.
    pub fn heal(&self) {
        if let Some(back_end) = &self.back_end {
            back_end.heal();
        }
    }

    /// The device; another with the same host behind it each time.
    ///
    /// # Panics
    /// When the host refuses what a device needs.
    pub fn device(&mut self) -> Box<dyn VirtioDevice> {
        match self.kind {
            Kind::BlockSync => self.block(&json!({"io_engine": "Sync"})),
            Kind::BlockAsync => self.block(&json!({"io_engine": "Async"})),
            Kind::BlockLimited => {
                self.block(&json!({"is_read_only": true, "rate_limiter": limits()}))
            }
            Kind::BlockQueues => self.block(&json!({"io_engine": "Async", "num_queues": 3})),
            Kind::BlockOverlay => {
                self.overlay = file::holding(&[]);
                self.block(&json!({"overlay_path": file::path(&self.overlay)}))
            }
            Kind::VhostUserBlock => self.vhost_user(),
            Kind::Net => Box::new(self.net(1, None)),
            Kind::NetPairs => Box::new(self.net(2, Some(limits()))),
            Kind::NetMetadata => {
                let mut net = self.net(1, None);
                let config = stated(json!({"network_interfaces": ["eth0"]}));
                net.serve_metadata(Arc::default(), &config);
                Box::new(net)
            }
            Kind::Vsock => self.vsock(),
            Kind::Rng => Box::new(Rng::new(&Entropy::default())),
            Kind::Balloon => Box::new(Balloon::new(&BalloonConfig {
                amount_mib: 1,
                deflate_on_oom: true,
                stats_polling_interval_s: 1,
                free_page_hinting: true,
                free_page_reporting: true,
            })),
            Kind::Pmem => self.pmem(),
            Kind::Mem => Box::new(plugged_by_request()),
            Kind::Console => Box::new(Console::open(&self.console()).expect("a file takes output")),
        }
    }

    /// The file of a drive.
    #[must_use]
    pub fn disk(&self) -> &File {
        &self.disk
    }

    /// The other ends of a network interface's taps.
    #[must_use]
    pub fn wires(&self) -> &[UnixDatagram] {
        &self.wires
    }

    fn block(&self, more: &Value) -> Box<dyn VirtioDevice> {
        Box::new(
            Block::open(&self.drive(more), &RING, LockWait::Second)
                .expect("a file in memory is a disk"),
        )
    }

    /// The drive, with `more` said of it.
    #[must_use]
    pub fn drive(&self, more: &Value) -> Drive {
        let mut drive = json!({
            "drive_id": "disk",
            "is_root_device": false,
            "cache_type": "Writeback",
            "path_on_host": file::path(&self.disk),
        });
        if let (Some(all), Some(more)) = (drive.as_object_mut(), more.as_object()) {
            all.extend(more.clone());
        }
        stated(drive)
    }

    fn pmem(&self) -> Box<dyn VirtioDevice> {
        let backing = Backing {
            file: self.disk.try_clone().expect("the host has descriptors"),
            file_len: DISK_LEN as u64,
            start: GuestAddress(1 << 40),
            len: 2 << 20,
            lost: Arc::default(),
        };
        Box::new(Pmem::new(backing, Some(limits())))
    }

    fn console(&self) -> ConsoleConfig {
        stated(json!({"output_path": file::path(&self.disk)}))
    }

    fn net(&mut self, pairs: usize, limits: Option<RateLimiter>) -> Net {
        let ends: Vec<_> = (0..pairs)
            .map(|_| UnixDatagram::pair().expect("a pair"))
            .collect();
        let (ours, theirs): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
        for wire in &ours {
            wire.set_nonblocking(true).expect("a socket can");
        }
        self.wires = ours;
        let interface: NetworkInterface = stated(json!({
            "iface_id": "eth0",
            "host_dev_name": "unused",
            "guest_mac": "02:00:00:00:00:01",
            "rx_rate_limiter": limits,
            "tx_rate_limiter": limits,
        }));
        Net::on_fake(theirs, &interface)
    }

    fn vsock(&mut self) -> Box<dyn VirtioDevice> {
        self.streams.clear();
        self.close_service();
        let name = NEXT.fetch_add(1, Ordering::Relaxed);
        self.socket = FOLDER.path().join(format!("v{name}"));
        let service = UnixListener::bind(self.service_path()).expect("a path of its own");
        service.set_nonblocking(true).expect("a socket can");
        self.service = Some(service);
        let config = stated(json!({"guest_cid": 3, "uds_path": self.socket}));
        Box::new(Vsock::open(&config).expect("a path of its own"))
    }

    /// The one before goes first.
    fn vhost_user(&mut self) -> Box<dyn VirtioDevice> {
        self.back_end = None;
        let name = NEXT.fetch_add(1, Ordering::Relaxed);
        let back_end = BackEnd::serve(FOLDER.path().join(format!("u{name}")));
        let drive = stated(json!({
            "drive_id": "disk",
            "is_root_device": false,
            "cache_type": "Writeback",
            "socket": back_end.path(),
        }));
        self.back_end = Some(back_end);
        Box::new(VhostUserBlock::connect(&drive, PATIENCE).expect("it answers"))
    }

    fn service_path(&self) -> PathBuf {
        let mut path = self.socket.clone().into_os_string();
        path.push(format!("_{SERVICE}"));
        path.into()
    }

    fn close_service(&mut self) {
        if self.service.take().is_some() {
            let _ = std::fs::remove_file(self.service_path());
        }
    }

    /// The host does something to the device. `None` when the input ends.
    pub fn act(&mut self, slot: &Slot, bytes: &mut Bytes<'_>) -> Option<()> {
        match self.kind {
            Kind::BlockSync | Kind::BlockAsync | Kind::BlockLimited => self.resize(slot, bytes),
            Kind::BlockOverlay | Kind::BlockQueues | Kind::Rng | Kind::Pmem | Kind::Console => {
                Some(())
            }
            Kind::VhostUserBlock => {
                let (request, how, said) = (bytes.byte()?, bytes.byte()?, bytes.run()?);
                self.back_end.as_ref()?.trouble(request, how, said);
                Some(())
            }
            Kind::Net | Kind::NetPairs | Kind::NetMetadata => self.exchange_frames(bytes),
            Kind::Vsock => self.connect(bytes),
            Kind::Balloon => command_balloon(slot, bytes),
            Kind::Mem => command_mem(slot, bytes),
        }
    }

    /// The drive's file gets another length, and the device is told.
    fn resize(&mut self, slot: &Slot, bytes: &mut Bytes<'_>) -> Option<()> {
        let sectors = u64::from(bytes.byte()?);
        // What is too short or too long for a disk is refused.
        let _ = self.disk.set_len(sectors * 512);
        let drive = self.drive(&json!({}));
        let patch = json!({"drive_id": "disk", "path_on_host": drive.path_on_host});
        let patch: DrivePatch = stated(patch);
        if let Ok(change) = BlockChange::prepare(&drive, &patch) {
            change_device(slot, |block: &mut Block| {
                block.change(change);
            });
        }
        Some(())
    }

    /// A frame arrives; what was sent is taken.
    fn exchange_frames(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        let (which, frame) = (bytes.byte()?, bytes.run()?);
        let wire = &self.wires[usize::from(which) % self.wires.len()];
        let _ = wire.send(frame);
        let mut room = [0; 2048];
        while wire.recv(&mut room).is_ok() {}
        Some(())
    }

    /// A process of the host connects, answers, speaks, reads, stops to write, or goes.
    fn connect(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        let (what, said) = (bytes.byte()?, bytes.run()?);
        let which = usize::from(what >> 3);
        match what & 7 {
            0 | 1 if self.streams.len() < MAX_STREAMS => {
                let stream = UnixStream::connect(&self.socket).ok()?;
                stream.set_nonblocking(true).ok()?;
                let _ = (&stream).write(said);
                self.streams.push(stream);
            }
            2 if self.streams.len() < MAX_STREAMS => {
                let accepted = self.service.as_ref()?.accept();
                if let Ok((stream, _)) = accepted {
                    stream.set_nonblocking(true).ok()?;
                    self.streams.push(stream);
                }
            }
            3 => drop(self.streams.pop()),
            4 => {
                let stream = self.streams.get(which)?;
                let _ = stream.shutdown(std::net::Shutdown::Write);
            }
            5 => {
                let mut stream = self.streams.get(which)?;
                let _ = stream.read(&mut [0; 4096]);
            }
            _ => {
                let mut stream = self.streams.get(which)?;
                let _ = stream.write(said);
            }
        }
        Some(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.close_service();
    }
}

/// A user gives the balloon a target, or starts and stops hints.
fn command_balloon(slot: &Slot, bytes: &mut Bytes<'_>) -> Option<()> {
    let (what, amount) = (bytes.byte()?, bytes.byte()?);
    change_device(slot, |balloon: &mut Balloon| {
        // What is not possible now is refused.
        let _ = match what & 3 {
            0 => {
                balloon.set_target(amount.into());
                Ok(())
            }
            1 => balloon.start_hinting(HintingStart {
                acknowledge_on_stop: what & 4 != 0,
            }),
            2 => balloon.stop_hinting(),
            _ => balloon.set_interval(amount.into()),
        };
        let _ = (balloon.statistics(), balloon.hinting_status());
    });
    slot.notify_config_change();
    Some(())
}

/// A user wants more or less memory plugged.
fn command_mem(slot: &Slot, bytes: &mut Bytes<'_>) -> Option<()> {
    let size_mib = bytes.byte()?;
    change_device(slot, |mem: &mut Mem| {
        // What is no number of slots is refused.
        let _ = mem.request(size_mib.into());
        let status = mem.status();
        assert!(status.plugged_size_mib <= status.total_size_mib);
    });
    slot.notify_config_change();
    Some(())
}

/// Eight blocks of 1 MiB, of which 4 MiB are requested.
fn plugged_by_request() -> Mem {
    let mut mem = Mem::new(Region {
        start: GuestAddress(PLUGGED_AT),
        slot_size: 4 << 20,
        blocks: Blocks::new(BLOCK, PLUGGED_LEN),
        source: Box::new(Checked::default()),
    });
    mem.request(4).expect("a whole slot");
    mem
}

/// Has the host's memory only in its books: nothing is plugged twice.
#[derive(Default)]
struct Checked(BTreeSet<u64>);

impl BlockSource for Checked {
    fn plug(&mut self, range: Range<u64>) -> io::Result<()> {
        assert!(range.end <= PLUGGED_LEN && !range.is_empty(), "{range:?}");
        // The host refuses one in two of the last slot.
        if range.end == PLUGGED_LEN && self.0.len() % 2 == 1 {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        for block in range.step_by(1 << 20) {
            assert!(self.0.insert(block), "plugged twice: {block:#x}");
        }
        Ok(())
    }

    fn unplug(&mut self, range: Range<u64>) -> io::Result<()> {
        for block in range.step_by(1 << 20) {
            self.0.remove(&block);
        }
        Ok(())
    }
}

/// Changes a device as a command does: while it stands still.
fn change_device<D: VirtioDevice>(slot: &Slot, change: impl FnOnce(&mut D)) {
    slot.pause();
    slot.change(|device| {
        let device: &mut dyn Any = device;
        change(device.downcast_mut().expect("it is of that type"));
    });
    slot.resume();
}

/// Limits that are reached at once, and pass again soon.
fn limits() -> RateLimiter {
    let bucket = TokenBucket {
        size: 4096,
        one_time_burst: Some(4096),
        refill_time: 1,
    };
    RateLimiter {
        bandwidth: Some(bucket),
        ops: Some(bucket),
    }
}

/// What a user states as `json`.
fn stated<T: DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).expect("it is one")
}
