//! Answers that their callers have not taken yet, all of them together bounded in bytes.
//!
//! HTTP/2 lets a caller ask without end and read nothing: every answer then stays here, and one of 2 MB is asked for with
//! 4 KB. So an answer is charged for its bytes when it is made, and pays back when they are written or dropped: the charge goes
//! with them, for what waits for its caller waits in HTTP/2, which takes a whole frame as soon as there is room for a byte of it.
//! Without room an answer is not kept: the caller is told to try again. Calls are charged whole, by [`Counted`], which looks at
//! the first frame; streams by the message, in their handlers; of the streams of others (health, reflection) there are only so
//! many. A refusal is a head without a body, and its charge is kept by its connection until that is written. Small answers have an eighth of the room to themselves, so that those who leave large ones unread do not keep others
//! from their answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::{Response, Status};

use super::deadline;
use super::intake::Intake;
use crate::engine::{OfConnection, Place, Places};
use crate::telemetry::Counters;
use crate::wire::status::{blame, exhausted, may_be_blamed};

/// The largest answer that counts as small.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// What a call costs whose answer is not read, beside the answer.
const ANSWER_BYTES: usize = 2 << 10;
/// When to try again: whoever reads has read by then.
const RETRY: Duration = Duration::from_millis(200);

/// Room for answers.
#[derive(Clone, Debug)]
pub(crate) struct Unread {
    large: Arc<Semaphore>,
    small: Arc<Semaphore>,
    bytes_max: usize,
    counters: Arc<Counters>,
}

/// What an answer takes up, until it is dropped.
pub(crate) type Charge = OwnedSemaphorePermit;

impl Unread {
    pub(crate) fn new(bytes_max: usize, counters: Arc<Counters>) -> Self {
        let small = bytes_max / 8;
        Self {
            large: Arc::new(Semaphore::new(bytes_max - small)),
            small: Arc::new(Semaphore::new(small)),
            bytes_max,
            counters,
        }
    }

    /// Room for so many bytes. One that is larger than all the room takes all of it.
    pub(crate) fn charge(&self, bytes: usize) -> Result<Charge, Status> {
        self.charge_beside(bytes, 0)
    }

    /// The same, and for what there is beside them, where that counts.
    fn charge_beside(&self, bytes: usize, beside: usize) -> Result<Charge, Status> {
        let (pool, wanted, size) = if bytes <= SMALL_BYTES_MAX {
            (&self.small, bytes + beside, self.bytes_max / 8)
        } else {
            (&self.large, bytes, self.bytes_max - self.bytes_max / 8)
        };
        let count = u32::try_from(wanted.min(size)).unwrap_or(u32::MAX);
        pool.clone().try_acquire_many_owned(count).map_err(|_| {
            self.counters.refused("limits.answers_bytes_max");
            let message = format!(
                "no room for an answer of {bytes} bytes: callers have not read theirs; the limit is {} bytes (limits.answers_bytes_max)",
                self.bytes_max
            );
            exhausted(message, RETRY)
        })
    }

    /// A stream's message, charged; without room for it, the error that ends the stream.
    pub(crate) fn message<T: Message>(&self, message: T) -> Charged<T> {
        match self.charge(message.encoded_len()) {
            Ok(charge) => Charged {
                message: Ok(message),
                charge: Some(charge),
            },
            Err(status) => status.into(),
        }
    }
}

/// One message of a stream, or its end by an error.
pub(crate) struct Charged<T> {
    message: Result<T, Status>,
    charge: Option<Charge>,
}

impl<T> Charged<T> {
    /// One of a few bytes, for which there is always room.
    pub(crate) fn free(message: T) -> Self {
        Self {
            message: Ok(message),
            charge: None,
        }
    }

    pub(crate) fn is_error(&self) -> bool {
        self.message.is_err()
    }
}

impl<T> From<Status> for Charged<T> {
    fn from(status: Status) -> Self {
        Self {
            message: Err(status),
            charge: None,
        }
    }
}

/// A stream of answers.
pub(crate) struct Answers<T> {
    messages: Messages<T>,
    given: Given,
}

/// Where they come from: a task of their own, or whoever asks for the next one makes it.
enum Messages<T> {
    Sent(mpsc::Receiver<Charged<T>>),
    Made(Pin<Box<dyn Stream<Item = Charged<T>> + Send>>),
}

/// What a stream's messages are charged that are in no frame yet. It marks a response as one that charges for itself.
#[derive(Clone, Debug, Default)]
struct Given(Arc<Mutex<Vec<Charge>>>);

impl<T> Answers<T> {
    /// The two ends of one; so many messages wait for the caller to read them.
    pub(crate) fn channel(most: usize) -> (mpsc::Sender<Charged<T>>, Self) {
        let (sender, messages) = mpsc::channel(most);
        let answers = Self {
            messages: Messages::Sent(messages),
            given: Given::default(),
        };
        (sender, answers)
    }

    /// Answers that are made one by one, as there is room to write them.
    pub(crate) fn of(messages: impl Stream<Item = Charged<T>> + Send + 'static) -> Self {
        Self {
            messages: Messages::Made(Box::pin(messages)),
            given: Given::default(),
        }
    }

    /// As a response that charges for itself.
    pub(crate) fn response(self) -> Response<Self> {
        let given = self.given.clone();
        let mut response = Response::new(self);
        response.extensions_mut().insert(given);
        response
    }
}

impl<T> Stream for Answers<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = match &mut self.messages {
            Messages::Sent(messages) => messages.poll_recv(cx),
            Messages::Made(messages) => messages.as_mut().poll_next(cx),
        };
        let next = ready!(next);
        Poll::Ready(next.map(|next| {
            self.given.0.lock().extend(next.charge);
            next.message
        }))
    }
}

/// A service whose calls and answers are charged, and whose calls end at their deadlines.
#[derive(Clone)]
pub(crate) struct Counted<S> {
    inner: S,
    intake: Intake,
    unread: Unread,
    /// Those of its streams, if it does not see to them itself.
    streams: Option<Places>,
}

impl<S> Counted<S> {
    pub(crate) fn new(inner: S, intake: Intake, unread: Unread) -> Self {
        Self {
            inner,
            intake,
            unread,
            streams: None,
        }
    }

    /// The same, with only so many streams at a time: their answers wait where nobody can charge for them.
    pub(crate) fn with_streams(self, places: Places) -> Self {
        let streams = Some(places);
        Self { streams, ..self }
    }
}

impl<S: NamedService> NamedService for Counted<S> {
    const NAME: &'static str = S::NAME;
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<S> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Boxed<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (head, body) = request.into_parts();
        let streams = takes_a_stream(head.uri.path());
        let lasts = streams || head.uri.path() == HEALTH_WATCH;
        let places = self.streams.as_ref().filter(|_| lasts);
        let place = places.map(|places| places.take(head.extensions.get()));
        let caller = Caller {
            connection: head.extensions.get().cloned(),
            unread: self.unread.clone(),
        };
        let place = match place.transpose() {
            Ok(place) => place,
            Err(status) => return caller.refuse_now(status),
        };
        let (body, call) = match self.intake.counted(&head, body, streams) {
            Ok(counted) => counted,
            Err(status) => return caller.refuse_now(status),
        };
        let deadline = deadline::given(&head.headers);
        let answer = self.inner.call(http::Request::from_parts(head, body));
        Box::pin(async move {
            let answer = match deadline::within(deadline, answer).await {
                Ok(answer) => answer?,
                Err(status) => return Ok(caller.refused(status.into_http())),
            };
            drop(call);
            if let Some(status) = Status::from_header_map(answer.headers())
                && may_be_blamed(status.code())
            {
                return Ok(caller.refused(blame(status).into_http()));
            }
            let answer = caller.charged(answer).await;
            Ok(match place {
                Some(place) => answer.map(|body| Body::new(Placed(body, place))),
                None => answer,
            })
        })
    }
}

/// The only stream of another's services that is not one of requests, too.
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";

/// The body of a stream that has a place, for as long as it lasts.
struct Placed(Body, #[expect(dead_code, reason = "it is kept")] Place);

impl http_body::Body for Placed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

/// Whether a method's requests are a stream. The names of ours say so.
fn takes_a_stream(path: &str) -> bool {
    path.ends_with("Stream") || path.ends_with("/ServerReflectionInfo")
}

/// Whom an answer is for, and the room that it takes.
struct Caller {
    connection: Option<OfConnection>,
    unread: Unread,
}

impl Caller {
    /// Has an answer's bytes carry what they are charged: those of a call for its first frame, which is its whole answer, and those
    /// of a stream that charges for itself for each of its messages.
    async fn charged(&self, response: http::Response<Body>) -> http::Response<Body> {
        if let Some(given) = response.extensions().get::<Given>().cloned() {
            return response.map(|messages| Body::new(Carrying { messages, given }));
        }
        if response.body().is_end_stream() {
            return self.refused(response);
        }
        let (head, mut rest) = response.into_parts();
        let first =
            std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut rest).poll_frame(cx))).await;
        let Poll::Ready(Some(first)) = first else {
            return http::Response::from_parts(head, rest);
        };
        let bytes = first
            .as_ref()
            .ok()
            .and_then(Frame::data_ref)
            .map_or(0, Bytes::len);
        match self.unread.charge_beside(bytes, ANSWER_BYTES) {
            Ok(charge) => {
                let first = first.map(|frame| frame.map_data(|bytes| Held::bytes(bytes, charge)));
                let first = Some(first);
                http::Response::from_parts(head, Body::new(Begun { first, rest }))
            }
            Err(status) => self.refused(status.into_http()),
        }
    }

    /// Has its connection keep what an answer without a body is charged. Without room for it the caller is told that, in fewer words.
    fn refused(&self, response: http::Response<Body>) -> http::Response<Body> {
        let entries = response.headers().iter();
        let bytes = entries.map(|(name, value)| name.as_str().len() + value.len());
        let charge = self.unread.charge_beside(bytes.sum(), ANSWER_BYTES);
        let (charge, response) = match charge {
            Ok(charge) => (Some(charge), response),
            Err(status) => (None, status.into_http()),
        };
        if let Some(connection) = &self.connection {
            connection.keep(charge);
        }
        response
    }

    fn refuse_now(&self, status: Status) -> Boxed<Result<http::Response<Body>, Infallible>> {
        Box::pin(std::future::ready(Ok(self.refused(status.into_http()))))
    }
}

/// Bytes of an answer, and what they are charged, until the last of them is written or dropped.
struct Held<C> {
    bytes: Bytes,
    _charge: C,
}

impl<C: Send + 'static> Held<C> {
    fn bytes(bytes: Bytes, charge: C) -> Bytes {
        Bytes::from_owner(Self {
            bytes,
            _charge: charge,
        })
    }
}

impl<C> AsRef<[u8]> for Held<C> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body whose first frame was looked at.
struct Begun {
    first: Option<Result<Frame<Bytes>, Status>>,
    rest: Body,
}

impl http_body::Body for Begun {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}

/// The body of a stream of [`Answers`]: each frame carries what its messages are charged.
struct Carrying {
    messages: Body,
    given: Given,
}

impl http_body::Body for Carrying {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let next = ready!(Pin::new(&mut self.messages).poll_frame(cx));
        let charges = std::mem::take(&mut *self.given.0.lock());
        let carry = |frame: Frame<Bytes>| frame.map_data(|bytes| Held::bytes(bytes, charges));
        Poll::Ready(next.map(|frame| frame.map(carry)))
    }

    fn is_end_stream(&self) -> bool {
        self.messages.is_end_stream()
    }
}

#[cfg(test)]
mod tests;
