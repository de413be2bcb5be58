//! HTTP on the API socket: one thread, any number of requests, at most [`seats::MAX_CONNECTIONS`] connections.
//!
//! Each connection is a task of the thread's one executor; its requests are answered in order, and a client
//! that is slow, silent or half-way through a request holds up nobody. A client that has no request under way
//! may wait for ever, until others want its place; one that is half-way through a request, or does not take its
//! answer, has a deadline ([`Patience`]). What a connection keeps is bounded in each case.
//!
//! ```text
//! accept -> seats -> connection (activity) -> router
//!                    socket: bytes, and what hyper says by itself
//! ```

mod accept_encoding;
mod activity;
mod connection;
mod seats;
mod socket;

use std::cell::Cell;
use std::convert::Infallible;
use std::os::unix::net::UnixListener as StdListener;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Builder;
use tokio::sync::{Notify, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, timeout};
use tracing::{error, info};

use self::activity::{Activity, Doing};
use self::seats::Seats;
use vmm::control::GetLifecycle;

use crate::router::{Api, Vmm};
use crate::{EXIT_GENERIC, exit};

pub(crate) use self::activity::Patience;

/// Pauses before accepting again when the host has no descriptor left: the first, and the longest.
const ACCEPT_PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Time without a log line after one that says so.
const SILENCE: Duration = Duration::from_secs(60);
/// Time for the last answers to reach their clients.
const FAREWELL: Duration = Duration::from_secs(1);
/// Time for a client to read that there are too many.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// Clients that are being told so; more of them are told and left.
const MAX_REFUSALS: usize = 10;

/// What a connection too many reads before it is closed.
const TOO_MANY: &[u8] = b"HTTP/1.1 503\r\nServer: Firecracker API\r\n\
    Connection: close\r\nContent-Length: 40\r\n\r\n{ \"error\": \"Too many open connections\" }";

/// The running API thread.
pub(crate) struct ApiThread {
    /// Dropped to end the thread.
    stop: oneshot::Sender<Infallible>,
    thread: JoinHandle<()>,
}

/// How requests are served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Largest request body in bytes.
    pub(crate) max_payload: usize,
    /// How long clients may take.
    pub(crate) patience: Patience,
    /// When the first request is read.
    pub(crate) opening: Opening,
}

/// When the first request is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// At once.
    Now,
    /// Once the microVM has done what it was asked before: it starts from a file, and no client sees less of it.
    AfterEarlierCommands,
}

struct Server<V> {
    api: Api<V>,
    settings: Settings,
    seats: Seats,
    /// Clients being told that there are too many.
    refusals: Cell<usize>,
    /// Some connection does something else than before.
    changed: Rc<Notify>,
}

/// Serves `api` to the clients of `listener` on a thread of its own.
///
/// # Errors
/// When the host gives no thread.
pub(crate) fn start<V: Vmm + Send>(
    listener: StdListener,
    api: Api<V>,
    settings: Settings,
) -> io::Result<ApiThread> {
    let (stop, stopped) = oneshot::channel();
    let serve = move || {
        if let Err(failure) = run(listener, api, settings, stopped) {
            error!("The API server cannot run: {failure}");
            exit::leave(EXIT_GENERIC);
        }
    };
    let thread = thread::Builder::new().name("api".to_owned()).spawn(serve)?;
    Ok(ApiThread { stop, thread })
}

impl ApiThread {
    /// Waits until every request that reached the microVM is answered, and ends the thread.
    pub(crate) fn finish(self) {
        drop(self.stop);
        // A panic has ended the process before this could see it.
        let _ = self.thread.join();
    }
}

fn run<V: Vmm>(
    listener: StdListener,
    api: Api<V>,
    settings: Settings,
    stopped: oneshot::Receiver<Infallible>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    listener.set_nonblocking(true)?;
    let server = Rc::new(Server {
        api,
        settings,
        seats: Seats::default(),
        refusals: Cell::new(0),
        changed: Rc::default(),
    });
    LocalSet::new().block_on(&runtime, async move {
        let listener = UnixListener::from_std(listener)?;
        info!("API server started.");
        spawn_local(Rc::clone(&server).accept(listener));
        // Nothing is ever sent: this returns when the sender is dropped.
        let _ = stopped.await;
        server.until_nobody_is(Doing::Answering).await;
        // A client that does not take its answer keeps nobody.
        let _ = timeout(FAREWELL, server.until_nobody_is(Doing::Sending)).await;
        // The last event ends them.
        let _ = timeout(FAREWELL, server.until_nobody_is(Doing::Streaming)).await;
        Ok(())
    })
}

impl<V: Vmm> Server<V> {
    async fn accept(self: Rc<Self>, listener: UnixListener) {
        if self.settings.opening == Opening::AfterEarlierCommands {
            // One that ended says so to each request.
            let _ = self.api.ask(GetLifecycle).await;
        }
        let (mut pause, mut told) = (None, None::<Instant>);
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    pause = None;
                    self.admit(stream);
                }
                Err(failure) => {
                    if told.is_none_or(|told| told.elapsed() >= SILENCE) {
                        told = Some(Instant::now());
                        error!(
                            "cannot accept a connection: {failure}; raise the limit on open files (`ulimit -n`)"
                        );
                    }
                    // The thread goes on to serve the connections there are, with one less if it can.
                    self.seats.free_one();
                    let (first, longest) = ACCEPT_PAUSES;
                    let next = pause.map_or(first, |last: Duration| longest.min(last * 2));
                    tokio::time::sleep(next).await;
                    pause = Some(next);
                }
            }
        }
    }

    fn admit(self: &Rc<Self>, stream: UnixStream) {
        if !self.seats.has_place() {
            self.refuse(stream);
            return;
        }
        let activity = Activity::new(self.settings.patience, Rc::clone(&self.changed));
        let activity = Rc::new(activity);
        let (server, doing) = (Rc::clone(self), Rc::clone(&activity));
        let task = spawn_local(async move {
            connection::converse(Rc::clone(&server), stream, Rc::clone(&doing)).await;
            server.seats.leave(&doing);
            server.changed.notify_one();
        });
        self.seats.take(activity, task.abort_handle());
    }

    /// Tells a client that there are too many, and closes.
    fn refuse(self: &Rc<Self>, mut stream: UnixStream) {
        if self.refusals.get() >= MAX_REFUSALS {
            // A new connection has room for it; a client that went away does not matter.
            let _ = stream.try_write(TOO_MANY);
            return;
        }
        self.refusals.update(|refusals| refusals + 1);
        let server = Rc::clone(self);
        spawn_local(async move {
            // Closed only when the client had time to read: what it sends meanwhile would else cost it the answer.
            let goodbye = async {
                stream.write_all(TOO_MANY).await?;
                stream.shutdown().await?;
                while stream.read(&mut [0; 1024]).await? > 0 {}
                Ok::<_, io::Error>(())
            };
            let _ = timeout(REFUSAL_TIME, goodbye).await;
            server.refusals.update(|refusals| refusals - 1);
        });
    }

    async fn until_nobody_is(&self, doing: Doing) {
        while self.seats.count(doing) > 0 {
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests;
