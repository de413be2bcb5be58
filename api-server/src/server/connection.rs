//! One connection: requests in, answers out, until one side ends it or the client takes too long.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{ACCEPT_ENCODING, CONNECTION, HeaderMap};
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper::{Request as HttpRequest, Response, Version};
use tokio::net::UnixStream;
use tokio::time::{Sleep, sleep_until};

use super::activity::{Activity, Doing};
use super::seats::MAX_STREAMS;
use super::socket::{Refusal, Socket};
use super::{Server, accept_encoding};
use crate::answer::{Answer, KEEP_ALIVE, ResponseBody, Then};
use crate::error::ApiError;
use crate::router::{Request, Verb, Vmm};

/// The most that is kept of a request's head, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// How a connection ended.
enum End {
    /// One side closed it, or what came was not HTTP.
    Closed(Result<(), hyper::Error>),
    /// The client took too long.
    Late,
}

/// Serves one connection until it ends.
///
/// hyper ends one after a request in HTTP/1.0. Clients that speak it send the next request on the same
/// connection all the same, so it is served again.
pub(super) async fn converse<V: Vmm>(
    server: Rc<Server<V>>,
    stream: UnixStream,
    activity: Rc<Activity>,
) {
    let goes_on = Rc::new(Cell::new(false));
    let (answered, doing) = (Rc::clone(&goes_on), Rc::clone(&activity));
    let mut service = service_fn(move |request| {
        let (server, answered) = (Rc::clone(&server), Rc::clone(&answered));
        let doing = Rc::clone(&doing);
        let response = async move {
            let is_old = request.version() < Version::HTTP_11;
            let response = server.respond(request, &doing).await;
            answered.set(is_old && response.headers()[CONNECTION] == KEEP_ALIVE);
            doing.answered();
            Ok::<_, Infallible>(response)
        };
        Box::pin(response) as Pin<Box<dyn Future<Output = _>>>
    });
    let mut socket = Socket::new(stream, Rc::clone(&activity));
    loop {
        let mut connection = http1::Builder::new()
            .auto_date_header(false)
            .title_case_headers(true)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(socket, service);
        let end = until_end(&mut connection, &activity).await;
        let parts = connection.into_parts();
        let refusal = match end {
            End::Closed(Ok(())) if goes_on.take() => {
                socket = parts.io.give_back(parts.read_buf);
                service = parts.service;
                continue;
            }
            End::Closed(Ok(())) => None,
            End::Closed(Err(wrong)) => Some(Refusal::NotHttp(wrong)),
            End::Late if activity.doing() == Doing::Receiving => Some(Refusal::Late),
            // Whoever does not read hears nothing.
            End::Late => return,
        };
        activity.set(Doing::Leaving);
        return parts.io.finish(refusal).await;
    }
}

/// Serves requests until the connection ends, or a deadline passes.
async fn until_end<S>(connection: &mut http1::Connection<Socket, S>, activity: &Activity) -> End
where
    S: HttpService<Incoming, ResBody = ResponseBody, Error = Infallible> + Unpin,
    S::Future: Unpin,
{
    let mut alarm: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|context| {
        if let Poll::Ready(end) = connection.poll_without_shutdown(context) {
            return Poll::Ready(End::Closed(end));
        }
        let Some(deadline) = activity.deadline() else {
            alarm = None;
            return Poll::Pending;
        };
        let alarm = alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if alarm.deadline() != deadline {
            alarm.as_mut().reset(deadline);
        }
        alarm.as_mut().poll(context).map(|()| End::Late)
    })
    .await
}

impl<V: Vmm> Server<V> {
    async fn respond(
        &self,
        request: HttpRequest<Incoming>,
        activity: &Activity,
    ) -> Response<ResponseBody> {
        let (head, body) = request.into_parts();
        let body = match self.read(body).await {
            Ok(body) => body,
            // What is left of the body cannot be told from a next request.
            Err(error) => return turn_away(&error, Then::Close),
        };
        activity.set(Doing::Answering);
        let then = if is_last(&head.headers) {
            Then::Close
        } else {
            Then::KeepAlive
        };
        let encodings = head.headers.get_all(ACCEPT_ENCODING).iter();
        if let Err(error) = accept_encoding::check(encodings) {
            return turn_away(&error, then);
        }
        let Some(verb) = Verb::from_method(head.method.as_str()) else {
            return turn_away(&ApiError::Method, then);
        };
        let path = head.uri.path_and_query().map_or("", |path| path.as_str());
        let answer = self.api.answer(&Request::new(verb, path, body)).await;
        if !answer.is_stream() {
            return answer.into_response(then);
        }
        if self.seats.count(Doing::Streaming) >= MAX_STREAMS {
            return turn_away(&ApiError::TooManyStreams(MAX_STREAMS), then);
        }
        activity.set(Doing::Streaming);
        answer.into_response(Then::Close)
    }

    /// The whole body, unless it is too large: then nothing of it is read when its length was announced.
    async fn read(&self, body: Incoming) -> Result<Vec<u8>, ApiError> {
        let limit = self.settings.max_payload;
        let size = body.size_hint().lower();
        if usize::try_from(size).map_or(true, |size| size > limit) {
            return Err(ApiError::TooLarge { size, limit });
        }
        let mut body = Limited::new(body, limit);
        // What is announced may never come.
        let mut bytes = Vec::new();
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

/// Whether the client wants no more than this answer.
fn is_last(headers: &HeaderMap) -> bool {
    headers.get(CONNECTION).is_some_and(|value| {
        let text = value.to_str();
        text.is_ok_and(|text| text.to_ascii_lowercase().contains("close"))
    })
}

/// Refuses what no endpoint can be asked.
fn turn_away(error: &ApiError, then: Then) -> Response<ResponseBody> {
    let answer = Answer::refuse(error);
    answer.log();
    answer.into_response(then)
}
