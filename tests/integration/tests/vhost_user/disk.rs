//! A back end that serves a file, made with the crates of the rust-vmm project: what others speak.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use vhost::vhost_user::Listener;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{
    ShutdownHandle, VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT,
};
use virtio_queue::QueueOwnedT;
use vm_memory::{ByteValued, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

const SECTOR: u64 = 512;
const CONFIG_LEN: u32 = 60;
const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;
const FLUSH: u64 = 1 << 9;
pub const READ_ONLY: u64 = 1 << 5;

/// A running back end. It ends with its front end.
pub struct BackEnd {
    shutdown: mpsc::Receiver<ShutdownHandle>,
    serving: JoinHandle<()>,
}

struct Disk {
    file: File,
    features: u64,
    protocol: VhostUserProtocolFeatures,
    memory: GuestMemoryAtomic<GuestMemoryMmap>,
}

impl BackEnd {
    /// Serves `file` at `socket`, with features `more` than usual, and acknowledging requests or not.
    pub fn serve(socket: &Path, file: File, more: u64, ack: bool) -> Self {
        let mut protocol = VhostUserProtocolFeatures::CONFIG;
        protocol.set(VhostUserProtocolFeatures::REPLY_ACK, ack);
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let features = VERSION_1 | EVENT_IDX | FLUSH | more;
        let disk = Disk {
            file,
            features: features | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits(),
            protocol,
            memory: memory.clone(),
        };
        let disk = Arc::new(Mutex::new(disk));
        let mut daemon = VhostUserDaemon::new("disk".to_owned(), disk, memory).unwrap();
        let mut listener = Listener::new(socket, true).unwrap();
        let (sender, shutdown) = mpsc::channel();
        let serving = std::thread::spawn(move || {
            daemon.start(&mut listener).unwrap();
            let _ = sender.send(daemon.shutdown_handle().unwrap());
            // It says so when the front end goes.
            let _ = daemon.wait();
        });
        Self { shutdown, serving }
    }

    /// Closes its connection, whatever it does, and lets go of all it has, as a process that dies.
    pub fn leave(self) {
        self.shutdown.recv().unwrap().shutdown();
        self.serving.join().unwrap();
    }
}

impl VhostUserBackendMut for Disk {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        1
    }

    fn max_queue_size(&self) -> usize {
        256
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.protocol
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK).ok()
    }

    fn set_event_idx(&mut self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        assert_eq!((offset, size), (0, CONFIG_LEN));
        let capacity = self.file.metadata().unwrap().len() / SECTOR;
        let mut config = vec![0; size as usize];
        config[..8].copy_from_slice(&capacity.to_le_bytes());
        config
    }

    fn update_memory(&mut self, memory: GuestMemoryAtomic<GuestMemoryMmap>) -> io::Result<()> {
        self.memory = memory;
        Ok(())
    }

    fn handle_event(
        &mut self,
        _queue: u16,
        _events: EventSet,
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> io::Result<()> {
        let vring = &vrings[0];
        loop {
            vring.disable_notification().unwrap();
            self.drain(vring);
            if !vring.enable_notification().unwrap() {
                return Ok(());
            }
        }
    }
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
}

#[expect(unsafe_code, reason = "the crate asks for it")]
// SAFETY: Plain numbers without padding: any bytes are a value.
unsafe impl ByteValued for Header {}

impl Disk {
    fn drain(&self, vring: &VringRwLock) {
        let memory = self.memory.memory();
        let chains: Vec<_> = {
            let mut state = vring.get_mut();
            let queue = state.get_queue_mut();
            match queue.iter(memory.clone()) {
                Ok(chains) => chains.collect(),
                // The kick came before the front end stopped the ring; it kicks again when it goes on.
                Err(virtio_queue::Error::QueueNotReady) => return,
                Err(other) => panic!("{other}"),
            }
        };
        for chain in chains {
            let head = chain.head_index();
            let mut reader = chain.clone().reader(&*memory).unwrap();
            let mut writer = chain.writer(&*memory).unwrap();
            let header: Header = reader.read_obj().unwrap();
            let at = header.sector * SECTOR;
            match header.kind {
                0 => {
                    let mut data = vec![0; writer.available_bytes() - 1];
                    self.file.read_exact_at(&mut data, at).unwrap();
                    writer.write_all(&data).unwrap();
                }
                1 => {
                    let mut data = vec![0; reader.available_bytes()];
                    reader.read_exact(&mut data).unwrap();
                    self.file.write_all_at(&data, at).unwrap();
                }
                _ => self.file.sync_data().unwrap(),
            }
            writer.write_all(&[0]).unwrap();
            let written = u32::try_from(writer.bytes_written()).unwrap();
            vring.add_used(head, written).unwrap();
            if vring.needs_notification().unwrap() {
                vring.signal_used_queue().unwrap();
            }
        }
    }
}
