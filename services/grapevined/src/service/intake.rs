//! Calls on their way in, all of them together bounded in bytes.
//!
//! A message is kept from its first byte until its call is answered: while the rest of it arrives, while it waits for a
//! session or the disk. HTTP/2 lets a thousand connections begin a thousand messages each, so every byte that came is
//! charged for. Without room the call is refused and nothing was done. Small messages, by the length that they declare,
//! have an eighth of the room to themselves, so that those who send large ones do not keep others from calling.
//!
//! Of a large message that goes on after its first frame all the rest is reserved: of many that arrive at once some would
//! else fill the room with their beginnings, and none of them would become whole. A message that was begun and not
//! finished holds its room against nobody who comes with a whole one: where there is none left, what falls behind gives way
//! (`begun`). And within half a minute it has to be whole in any case.
//!
//! What is decoded may be many times what came: so a message is charged for at least a quarter of what it will be then
//! (`weight`), and the room bounds both.
//!
//! A call is kept before anything of its message came, with all its metadata. It is charged for from its head on, and is
//! then a message that was begun: it gives way, and has half a minute.

mod begun;
mod weight;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;

use self::begun::{Part, Pool};
use self::weight::{DECODED_FACTOR, Shape, Walk};
use crate::telemetry::{Counter, Counters};
use crate::wire::status::exhausted;

/// The largest message that counts as small.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// When to try again: what is under way is answered by then, but for calls that wait.
const RETRY: Duration = Duration::from_millis(200);
/// What bounds it, as the configuration calls it.
const LIMIT: &str = "limits.calls_bytes_max";
/// How long a message that was begun may take to be whole.
const MESSAGE_WAIT: Duration = Duration::from_secs(30);
/// How long a stream of messages may be silent between two of them.
pub(crate) const STREAM_WAIT: Duration = Duration::from_mins(5);
/// What a call costs whose message has not come, beside its metadata.
const HEAD_BYTES: usize = 4 << 10;
/// What an entry of metadata costs, beside its name and value.
const ENTRY_BYTES: usize = 100;
/// What every call's metadata costs: it is charged for what is beyond.
const METADATA_FREE_BYTES: usize = 2 << 10;

/// Room for calls.
#[derive(Clone, Debug)]
pub(crate) struct Intake {
    large: Arc<Pool>,
    small: Arc<Pool>,
    bytes_max: usize,
    counters: Arc<Counters>,
}

/// What a call takes up. It ends with the last of its clones: the body's, and that of whoever answers the call.
pub(super) type Charge = Arc<Mutex<Option<OwnedSemaphorePermit>>>;

impl Intake {
    pub(crate) fn new(bytes_max: usize, counters: Arc<Counters>) -> Self {
        let small = bytes_max / 8;
        Self {
            large: Arc::new(Pool::large(bytes_max - small)),
            small: Arc::new(Pool::small(small)),
            bytes_max,
            counters,
        }
    }

    /// A request's body that is charged as it comes, from its head on. Of a call that is a stream a message was dealt with
    /// when the next one is asked for; any other is asked for more as soon as its message is read.
    pub(super) fn counted(
        &self,
        head: &http::request::Parts,
        body: Body,
        streams: bool,
    ) -> Result<(Body, Charge), Status> {
        let charge = Charge::default();
        let metadata = metadata_bytes(&head.headers);
        let pool = &self.small;
        self.charge(&charge, (pool, HEAD_BYTES + metadata), None)?;
        let part = pool.begin(&charge, 0, Instant::now());
        let arriving = Arriving {
            rest: body,
            streams,
            intake: self.clone(),
            charge: charge.clone(),
            head: HEAD_BYTES + metadata,
            metadata: metadata.saturating_sub(METADATA_FREE_BYTES),
            whole: false,
            framing: Framing::new(weight::shape(head.uri.path())),
            deadline: Some(Box::pin(sleep(MESSAGE_WAIT))),
            between: false,
            part: Some(part),
        };
        Ok((Body::new(arriving), charge))
    }

    /// The pool that a message of this size is charged to.
    fn pool(&self, bytes: usize) -> &Arc<Pool> {
        if bytes <= SMALL_BYTES_MAX {
            &self.small
        } else {
            &self.large
        }
    }

    /// Has a call take up so many bytes of a pool, more or fewer than before. What was begun and falls behind gives way, but
    /// for the call's own.
    fn charge(
        &self,
        charge: &Charge,
        (pool, bytes): (&Pool, usize),
        own: Option<&Part>,
    ) -> Result<(), Status> {
        // Others may take what was made room for: then they are asked to give way, too.
        while !pool.charge(charge, bytes) {
            let Some(gave_way) = pool.make_room((charge, bytes), own, Instant::now()) else {
                self.counters.refused(LIMIT);
                return Err(self.no_room(&format!("no room for a call of {bytes} bytes or more")));
            };
            let gave_way = gave_way as u64;
            self.counters.add(Counter::IntakeRejected, gave_way);
            self.counters
                .at_limit((LIMIT, ""), "half-sent calls give way", gave_way);
        }
        Ok(())
    }

    fn no_room(&self, what: &str) -> Status {
        let most = self.bytes_max;
        let message = format!(
            "{what}: others are under way; the limit is {most} bytes (limits.calls_bytes_max)"
        );
        exhausted(message, RETRY)
    }
}

/// What a call's metadata take up.
fn metadata_bytes(headers: &http::HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + ENTRY_BYTES)
        .sum()
}

/// Where a body stands in gRPC's framing: each message has five bytes before it, the last four of which are its length.
#[derive(Debug, Default)]
struct Framing {
    /// What its messages are, if it is known.
    shape: Option<Shape>,
    /// The walk through the message that is not whole, once its head is.
    walk: Option<Walk>,
    /// What the messages that became whole with the last frame are when decoded.
    decoded: usize,
    head: [u8; 5],
    head_bytes: usize,
    /// Of the message whose head is whole, what is missing.
    missing: usize,
    /// What came of a message that is not whole, its head included, and in how many frames.
    begun: usize,
    frames: usize,
}

impl Framing {
    fn new(shape: Option<Shape>) -> Self {
        Self {
            shape,
            ..Self::default()
        }
    }

    /// Takes a frame.
    fn take(&mut self, bytes: &[u8]) {
        self.decoded = 0;
        let goes_on = self.begun + bytes.len();
        self.read(bytes);
        self.frames = match self.begun {
            0 => 0,
            begun if begun == goes_on => self.frames + 1,
            // What had begun before is whole, and this frame begins another one.
            _ => 1,
        };
    }

    /// The size of the message that is not whole, its head included, as far as it is known.
    fn declared(&self) -> usize {
        self.begun + self.missing
    }

    /// What comes of all that the last frame brought or went on with once it is decoded.
    fn decoded(&self) -> usize {
        self.decoded + self.walk.as_ref().map_or(0, Walk::decoded)
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let next = if self.missing > 0 {
                let next = self.missing.min(bytes.len());
                self.missing -= next;
                if let Some(walk) = &mut self.walk {
                    walk.take(&bytes[..next]);
                }
                next
            } else {
                let next = (self.head.len() - self.head_bytes).min(bytes.len());
                let end = self.head_bytes + next;
                self.head[self.head_bytes..end].copy_from_slice(&bytes[..next]);
                self.head_bytes = end;
                if end == self.head.len() {
                    let [_, length @ ..] = self.head;
                    self.missing = u32::from_be_bytes(length) as usize;
                    self.walk = Some(Walk::new(self.shape, self.missing));
                }
                next
            };
            self.begun += next;
            bytes = &bytes[next..];
            if self.head_bytes == self.head.len() && self.missing == 0 {
                *self = Self {
                    decoded: self.decoded(),
                    ..Self::new(self.shape)
                };
            }
        }
    }
}

/// A request's body.
struct Arriving {
    rest: Body,
    /// Whether more messages than one may come.
    streams: bool,
    intake: Intake,
    charge: Charge,
    /// What its head was charged for: so much at least as long as its message is not whole.
    head: usize,
    /// What its metadata are charged for.
    metadata: usize,
    /// Whether the message of a call that takes one came. Nothing may come then but the end, and that within the same time.
    whole: bool,
    framing: Framing,
    /// When the message that has begun is to be whole, or the next one of a stream is to begin.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Whether the next message of a stream is awaited.
    between: bool,
    /// Its entry among what was begun, from its head on, unless its first frame was all of it.
    part: Option<Part>,
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.streams && self.framing.begun == 0 {
            // It may be silent for a while, and must not keep others out meanwhile. Its metadata were read.
            self.part = None;
            self.metadata = 0;
            self.head = 0;
            *self.charge.lock() = None;
            if !self.between {
                self.between = true;
                self.deadline = Some(Box::pin(sleep(STREAM_WAIT)));
            }
        }
        if self.part.as_ref().is_some_and(|part| part.gave_way(cx)) {
            return Poll::Ready(Some(Err(self.gave_way())));
        }
        let Poll::Ready(next) = Pin::new(&mut self.rest).poll_frame(cx) else {
            let Some(deadline) = &mut self.deadline else {
                return Poll::Pending;
            };
            ready!(deadline.as_mut().poll(cx));
            return Poll::Ready(Some(Err(self.stalled())));
        };
        if let Some(Ok(frame)) = &next
            && let Some(data) = frame.data_ref()
            // An empty frame ends a body, and says nothing about what came before it.
            && !data.is_empty()
            && let Err(status) = self.came(data)
        {
            return Poll::Ready(Some(Err(status)));
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.rest.size_hint()
    }
}

impl Arriving {
    /// Charges for a frame, and keeps account of the message that it begins, goes on with or ends.
    fn came(&mut self, data: &[u8]) -> Result<(), Status> {
        if self.whole {
            let bytes = data.len();
            return Err(Status::invalid_argument(format!(
                "this call takes one message, and {bytes} bytes came behind it"
            )));
        }
        let kept = self.framing.begun + data.len();
        self.framing.take(data);
        self.between = false;
        let (declared, frames) = (self.framing.declared(), self.framing.frames);
        let decoded = self.framing.decoded().div_ceil(DECODED_FACTOR);
        let pool = self.intake.pool(declared.max(kept).max(decoded)).clone();
        let reserves = frames > 1 && declared > SMALL_BYTES_MAX;
        let wanted = if reserves { declared.max(kept) } else { kept };
        let wanted = wanted.max(decoded) + self.metadata;
        let begun = self.framing.begun > 0;
        let wanted = if begun { wanted.max(self.head) } else { wanted };
        let part = self.part.as_ref();
        self.intake.charge(&self.charge, (&pool, wanted), part)?;
        if !begun {
            self.whole = !self.streams;
            // Its handler is called at the end of the body, and that has to come, too.
            self.deadline = self.whole.then(|| Box::pin(sleep(MESSAGE_WAIT)));
            // Where it gave way while it became whole, its room is gone.
            return match self.part.take().map(Part::end) {
                Some(false) => Err(self.gave_way()),
                Some(true) | None => Ok(()),
            };
        }
        if frames == 1 {
            self.deadline = Some(Box::pin(sleep(MESSAGE_WAIT)));
            self.part = None;
        }
        match &mut self.part {
            Some(part) if part.is_of(&pool) => part.goes_on(self.framing.begun),
            // It has just been seen to be large, if there was one.
            part => *part = Some(pool.begin(&self.charge, self.framing.begun, Instant::now())),
        }
        Ok(())
    }

    fn gave_way(&self) -> Status {
        self.intake.no_room(&format!(
            "of a message that was begun {} bytes had come when its room was needed",
            self.framing.begun
        ))
    }

    fn stalled(&self) -> Status {
        if self.between {
            let seconds = STREAM_WAIT.as_secs();
            return Status::deadline_exceeded(format!(
                "no message came on this stream for {seconds} s, which is the limit; open another one"
            ));
        }
        let (begun, missing) = (self.framing.begun, self.framing.missing);
        let seconds = MESSAGE_WAIT.as_secs();
        if self.whole {
            return Status::deadline_exceeded(format!(
                "the message of this call came {seconds} s ago and its end did not; the limit is {seconds} s"
            ));
        }
        Status::deadline_exceeded(format!(
            "a message begun {seconds} s ago is not whole: {begun} bytes of it came and {missing} are missing; the limit is {seconds} s"
        ))
    }
}

#[cfg(test)]
mod tests;
