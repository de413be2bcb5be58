//! HTTP on the API socket: one thread, any number of requests, at most [`MAX_CONNECTIONS`] connections.
//!
//! Each connection is a task of the thread's one executor; its requests are answered in order, and a client
//! that is slow, silent or half-way through a request holds up nobody. Nothing times out: a client that
//! waits costs one of the connections and a buffer whose size is bounded, whether it waits between two
//! requests or within one.

mod socket;

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::os::unix::net::UnixListener as StdListener;
use std::pin::Pin;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::CONNECTION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request as HttpRequest, Response, Version};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Builder;
use tokio::sync::{Notify, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tracing::{error, info};

use self::socket::Socket;
use crate::answer::{Answer, KEEP_ALIVE, Then};
use crate::error::ApiError;
use crate::router::{Api, Request, Verb, Vmm};
use crate::{EXIT_GENERIC, exit};

/// Connections served at the same time.
const MAX_CONNECTIONS: usize = 10;
/// The most that is kept of a request's head, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Pause before accepting again when the host has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What a connection too many reads before it is closed.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nServer: Firecracker API\r\n\
    Connection: close\r\nContent-Length: 40\r\n\r\n{ \"error\": \"Too many open connections\" }";

/// The running API thread.
pub(crate) struct ApiThread {
    /// Dropped to end the thread.
    stop: oneshot::Sender<Infallible>,
    thread: JoinHandle<()>,
}

struct Server<V> {
    api: Api<V>,
    /// Largest request body in bytes.
    max_payload: usize,
    /// Connections open now.
    open: Cell<usize>,
    /// Requests being answered now.
    busy: Cell<usize>,
    /// Some request was answered.
    answered: Notify,
}

/// Serves `api` to the clients of `listener` on a thread of its own.
///
/// # Errors
/// When the host gives no thread.
pub(crate) fn start<V: Vmm + Send>(
    listener: StdListener,
    api: Api<V>,
    max_payload: usize,
) -> io::Result<ApiThread> {
    let (stop, stopped) = oneshot::channel();
    let serve = move || {
        if let Err(failure) = run(listener, api, max_payload, stopped) {
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
    max_payload: usize,
    stopped: oneshot::Receiver<Infallible>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    listener.set_nonblocking(true)?;
    let (open, busy) = (Cell::new(0), Cell::new(0));
    let server = Rc::new(Server {
        api,
        max_payload,
        open,
        busy,
        answered: Notify::new(),
    });
    LocalSet::new().block_on(&runtime, async move {
        let listener = UnixListener::from_std(listener)?;
        info!("API server started.");
        spawn_local(Rc::clone(&server).accept(listener));
        // Nothing is ever sent: this returns when the sender is dropped.
        let _ = stopped.await;
        while server.busy.get() > 0 {
            server.answered.notified().await;
        }
        Ok(())
    })
}

impl<V: Vmm> Server<V> {
    async fn accept(self: Rc<Self>, listener: UnixListener) {
        let mut is_failing = false;
        loop {
            let accepted = listener.accept().await;
            let was_failing = std::mem::replace(&mut is_failing, accepted.is_err());
            match accepted {
                Ok((stream, _)) if self.open.get() >= MAX_CONNECTIONS => refuse(&stream),
                Ok((stream, _)) => {
                    self.open.update(|open| open.saturating_add(1));
                    spawn_local(Rc::clone(&self).converse(stream));
                }
                Err(failure) => {
                    if !was_failing {
                        error!("cannot accept a connection: {failure}");
                    }
                    // The thread goes on to serve the connections there are.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves one connection until it ends.
    ///
    /// hyper ends one after a request in HTTP/1.0. Clients that speak it send the next request on the same
    /// connection all the same, so it is served again.
    async fn converse(self: Rc<Self>, stream: UnixStream) {
        let goes_on = Rc::new(Cell::new(false));
        let (server, answered) = (Rc::clone(&self), Rc::clone(&goes_on));
        let mut service = service_fn(move |request| {
            let (server, answered) = (Rc::clone(&server), Rc::clone(&answered));
            let response = async move {
                let is_old = request.version() < Version::HTTP_11;
                let response = server.respond(request).await;
                answered.set(is_old && response.headers()[CONNECTION] == KEEP_ALIVE);
                Ok::<_, Infallible>(response)
            };
            Box::pin(response) as Pin<Box<dyn Future<Output = _>>>
        });
        let mut socket = Socket::new(stream);
        loop {
            let mut connection = http1::Builder::new()
                .auto_date_header(false)
                .title_case_headers(true)
                .max_buf_size(MAX_HEAD_BYTES)
                .serve_connection(socket, service);
            let end = poll_fn(|context| connection.poll_without_shutdown(context)).await;
            let parts = connection.into_parts();
            if end.is_err() || !goes_on.take() {
                parts.io.finish(end.err()).await;
                break;
            }
            socket = parts.io.give_back(parts.read_buf);
            service = parts.service;
        }
        self.open.update(|open| open.saturating_sub(1));
    }

    async fn respond(&self, request: HttpRequest<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = match self.read(body).await {
            Ok(body) => body,
            // What is left of the body cannot be told from a next request.
            Err(error) => return turn_away(&error, Then::Close),
        };
        let is_last = head.headers.get(CONNECTION).is_some_and(|value| {
            value
                .to_str()
                .is_ok_and(|text| text.to_ascii_lowercase().contains("close"))
        });
        let then = if is_last {
            Then::Close
        } else {
            Then::KeepAlive
        };
        let Some(verb) = Verb::from_method(head.method.as_str()) else {
            return turn_away(&ApiError::Method, then);
        };
        let path = head.uri.path_and_query().map_or("", |path| path.as_str());
        self.busy.update(|busy| busy.saturating_add(1));
        let answer = self.api.answer(&Request::new(verb, path, body)).await;
        self.busy.update(|busy| busy.saturating_sub(1));
        self.answered.notify_one();
        answer.into_response(then)
    }

    /// The whole body, unless it is too large: then nothing of it is read when its length was announced.
    async fn read(&self, body: Incoming) -> Result<Vec<u8>, ApiError> {
        let limit = self.max_payload;
        let size = body.size_hint().lower();
        if usize::try_from(size).map_or(true, |size| size > limit) {
            return Err(ApiError::TooLarge { size, limit });
        }
        let mut body = Limited::new(body, limit);
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        // Copied together: a body in many small chunks must not cost more than its bytes.
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Err(failure) if failure.is::<LengthLimitError>() => {
                    return Err(ApiError::ChunksTooLarge { limit });
                }
                Err(failure) => return Err(ApiError::Body(failure.to_string())),
            }
        }
        Ok(bytes)
    }
}

/// Refuses what no endpoint can be asked.
fn turn_away(error: &ApiError, then: Then) -> Response<Full<Bytes>> {
    let answer = Answer::refuse(error);
    answer.log();
    answer.into_response(then)
}

/// Tells a client that there are too many, and closes.
fn refuse(stream: &UnixStream) {
    // A new connection has room for it; a client that went away does not matter.
    let _ = stream.try_write(TOO_MANY);
}

#[cfg(test)]
mod tests;
