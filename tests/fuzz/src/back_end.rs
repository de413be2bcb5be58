//! A vhost-user back end of a disk, which fails where it is told to. It answers or goes; who is silent is waited for, which
//! would say nothing new and take long.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

const GET_FEATURES: u32 = 1;
const GET_VRING_BASE: u32 = 11;
const GET_PROTOCOL_FEATURES: u32 = 15;
const GET_CONFIG: u32 = 24;
const REPLY: u32 = 5;
const NEED_REPLY: u32 = 8;
/// VERSION_1, EVENT_IDX, FLUSH, and the protocol's.
const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 9 | 1 << 30;
/// CONFIG and REPLY_ACK.
const PROTOCOL: u64 = 1 << 9 | 1 << 3;
/// A request with more is none of ours.
const MAX_PAYLOAD: u32 = 4096;

/// It goes when this is dropped.
pub struct BackEnd {
    path: PathBuf,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    /// To its front end.
    stream: Option<UnixStream>,
    /// At which request it fails next, and how.
    fault: Option<(u32, u8)>,
    is_over: bool,
}

impl BackEnd {
    /// Serves one front end after the other at `path`.
    ///
    /// # Panics
    /// When the host has no socket there.
    #[must_use]
    pub fn serve(path: PathBuf) -> Self {
        let listener = UnixListener::bind(&path).expect("a path of its own");
        let shared = Arc::new(Mutex::new(Shared::default()));
        let its = Arc::clone(&shared);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if lock(&its).is_over {
                    return;
                }
                lock(&its).stream = stream.try_clone().ok();
                let _ = serve(stream, &its);
            }
        });
        Self { path, shared }
    }

    /// Where it is reached.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has it fail at one request, go at once, or say what nobody asked for.
    pub fn trouble(&self, request: u8, how: u8, said: &[u8]) {
        let mut shared = lock(&self.shared);
        match how & 7 {
            0 => drop(shared.stream.as_ref().map(|it| it.shutdown(Shutdown::Both))),
            1 => drop(shared.stream.as_ref().map(|mut it| it.write(said))),
            how => shared.fault = Some((u32::from(request) % 32, how)),
        }
    }

    /// It fails no more.
    pub fn heal(&self) {
        lock(&self.shared).fault = None;
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        lock(&self.shared).is_over = true;
        // Wakes it where it waits for a front end.
        let _ = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(mut stream: UnixStream, shared: &Mutex<Shared>) -> io::Result<()> {
    loop {
        let [mut request, mut flags, mut len] = [[0; 4]; 3];
        for word in [&mut request, &mut flags, &mut len] {
            stream.read_exact(word)?;
        }
        let [request, flags, len] = [request, flags, len].map(u32::from_ne_bytes);
        assert!(len <= MAX_PAYLOAD, "a request that is none");
        let mut payload = vec![0; len as usize];
        stream.read_exact(&mut payload)?;
        let mut answer = match request {
            GET_FEATURES => FEATURES.to_ne_bytes().to_vec(),
            GET_PROTOCOL_FEATURES => PROTOCOL.to_ne_bytes().to_vec(),
            GET_CONFIG | GET_VRING_BASE => payload,
            _ if flags & NEED_REPLY != 0 => vec![0; 8],
            _ => continue,
        };
        let fault = lock(shared).fault.take_if(|(at, _)| *at == request);
        let mut code = request;
        match fault.map(|(_, how)| how) {
            None => {}
            Some(2) => return stream.shutdown(Shutdown::Both),
            Some(3) => code += 1,
            Some(4) => answer.push(0),
            Some(5) => answer.fill(0),
            Some(6) => answer.fill(1),
            Some(_) => answer.fill(0xff),
        }
        for word in [code, REPLY, u32::try_from(answer.len()).unwrap_or(0)] {
            stream.write_all(&word.to_ne_bytes())?;
        }
        stream.write_all(&answer)?;
    }
}
