//! Calls on their way in, all of them together bounded in bytes.
//!
//! A message is kept from its first byte until its call is answered: while the rest of it arrives, while it waits for a
//! session or the disk. HTTP/2 lets a thousand connections begin a thousand messages each, so every byte that came is
//! charged for. Without room the call is refused and nothing was done. Small messages have an eighth of the room to
//! themselves, so that those who send large ones do not keep others from calling. A message that was begun has to be whole
//! within half a minute: a caller that stalls would hold its room for as long as it likes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;

use crate::telemetry::{Counter, Counters};
use crate::wire::status::exhausted;

/// The largest message that counts as small.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// When to try again: what is under way is answered by then, but for calls that wait.
const RETRY: Duration = Duration::from_millis(200);
/// How long a message that was begun may take to be whole.
const MESSAGE_WAIT: Duration = Duration::from_secs(30);

/// Room for calls.
#[derive(Clone, Debug)]
pub(crate) struct Intake {
    large: Arc<Semaphore>,
    small: Arc<Semaphore>,
    bytes_max: usize,
    counters: Arc<Counters>,
}

/// What a call takes up. It ends with the last of its clones: the body's, and that of whoever answers the call.
pub(super) type Charge = Arc<Mutex<Option<OwnedSemaphorePermit>>>;

impl Intake {
    pub(crate) fn new(bytes_max: usize, counters: Arc<Counters>) -> Self {
        let small = bytes_max / 8;
        Self {
            large: Arc::new(Semaphore::new(bytes_max - small)),
            small: Arc::new(Semaphore::new(small)),
            bytes_max,
            counters,
        }
    }

    /// A request's body that is charged as it comes. Of a call that is a stream a message was dealt with when the next one
    /// is asked for; any other is asked for more as soon as its message is read.
    pub(super) fn counted(&self, body: Body, streams: bool) -> (Body, Charge) {
        let charge = Charge::default();
        let arriving = Arriving {
            rest: body,
            streams,
            intake: self.clone(),
            charge: charge.clone(),
            framing: Framing::default(),
            deadline: None,
        };
        (Body::new(arriving), charge)
    }

    /// Has a call take up so many bytes, more or fewer than before.
    fn charge(&self, charge: &Charge, bytes: usize) -> Result<(), Status> {
        let (pool, size) = if bytes <= SMALL_BYTES_MAX {
            (&self.small, self.bytes_max / 8)
        } else {
            (&self.large, self.bytes_max - self.bytes_max / 8)
        };
        // One that is larger than all the room takes all of it.
        let wanted = bytes.min(size);
        let mut held = charge.lock();
        let own = held
            .as_ref()
            .filter(|held| Arc::ptr_eq(held.semaphore(), pool))
            .map_or(0, OwnedSemaphorePermit::num_permits);
        if own > wanted {
            let spare = held.as_mut().and_then(|held| held.split(own - wanted));
            drop(spare);
            return Ok(());
        }
        let count = u32::try_from(wanted - own).unwrap_or(u32::MAX);
        let more = pool.clone().try_acquire_many_owned(count).map_err(|_| {
            self.counters.inc(Counter::IntakeRejected);
            let message = format!(
                "no room for a call of {bytes} bytes or more: others are under way; the limit is {} bytes (limits.calls_bytes_max)",
                self.bytes_max
            );
            exhausted(message, RETRY)
        })?;
        match held.as_mut() {
            Some(held) if own > 0 => held.merge(more),
            _ => *held = Some(more),
        }
        Ok(())
    }
}

/// Where a body stands in gRPC's framing: each message has five bytes before it, the last four of which are its length.
#[derive(Debug, Default)]
struct Framing {
    head: [u8; 5],
    head_bytes: usize,
    /// Of the message whose head is whole, what is missing.
    missing: usize,
    /// What came of a message that is not whole, its head included.
    begun: usize,
}

impl Framing {
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let next = if self.missing > 0 {
                let next = self.missing.min(bytes.len());
                self.missing -= next;
                next
            } else {
                let next = (self.head.len() - self.head_bytes).min(bytes.len());
                let end = self.head_bytes + next;
                self.head[self.head_bytes..end].copy_from_slice(&bytes[..next]);
                self.head_bytes = end;
                if end == self.head.len() {
                    let [_, length @ ..] = self.head;
                    self.missing = u32::from_be_bytes(length) as usize;
                }
                next
            };
            self.begun += next;
            bytes = &bytes[next..];
            if self.head_bytes == self.head.len() && self.missing == 0 {
                *self = Self::default();
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
    framing: Framing,
    /// When the message that has begun is to be whole.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.streams && self.framing.begun == 0 {
            // It may be silent for as long as it likes, and must not keep others out meanwhile.
            *self.charge.lock() = None;
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
        {
            let kept = self.framing.begun + data.len();
            let charged = self.intake.charge(&self.charge, kept);
            if let Err(status) = charged {
                return Poll::Ready(Some(Err(status)));
            }
            let before = self.framing.begun;
            self.framing.take(data);
            if self.framing.begun == 0 {
                self.deadline = None;
            } else if self.deadline.is_none() || self.framing.begun < before + data.len() {
                self.deadline = Some(Box::pin(sleep(MESSAGE_WAIT)));
            }
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
    fn stalled(&self) -> Status {
        let (begun, missing) = (self.framing.begun, self.framing.missing);
        let seconds = MESSAGE_WAIT.as_secs();
        Status::deadline_exceeded(format!(
            "a message begun {seconds} s ago is not whole: {begun} bytes of it came and {missing} are missing; the limit is {seconds} s"
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use http_body::Body as _;
    use tokio::sync::mpsc;
    use tokio::time::Instant;
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::*;

    const MIB: usize = 1 << 20;

    /// A body that says what it is told to say.
    struct Told(mpsc::Receiver<Vec<u8>>);

    impl http_body::Body for Told {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            let next = ready!(self.0.poll_recv(cx));
            Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes.into()))))
        }
    }

    fn room(bytes: usize) -> Intake {
        Intake::new(bytes, Arc::new(Counters::new()))
    }

    fn message(bytes: usize) -> Vec<u8> {
        let length = u32::try_from(bytes).unwrap().to_be_bytes();
        [&[0], &length[..], &vec![7; bytes]].concat()
    }

    /// A call, and how to have it say more.
    struct Call {
        says: mpsc::Sender<Vec<u8>>,
        body: Body,
        _charge: Charge,
    }

    impl Call {
        fn begin(intake: &Intake) -> Self {
            Self::of(intake, false)
        }

        fn of(intake: &Intake, streams: bool) -> Self {
            let (says, told) = mpsc::channel(8);
            let (body, charge) = intake.counted(Body::new(Told(told)), streams);
            Self {
                says,
                body,
                _charge: charge,
            }
        }

        async fn say(&mut self, bytes: Vec<u8>) -> Result<(), Status> {
            self.says.send(bytes).await.unwrap();
            self.hear().await
        }

        async fn hear(&mut self) -> Result<(), Status> {
            let next = std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
            next.unwrap().map(drop)
        }
    }

    #[tokio::test]
    async fn g10_calls_under_way_are_bounded_in_bytes_and_their_room_comes_back() {
        let intake = room(16 * MIB);
        let mut calls = Vec::new();
        let mut refused = None;
        while refused.is_none() && calls.len() < 20 {
            let mut call = Call::begin(&intake);
            refused = call.say(message(MIB)).await.err();
            calls.push(call);
        }
        calls.pop();
        let refused = refused.unwrap();
        assert_eq!(
            calls.len(),
            13,
            "seven eighths of the room, and each has a head"
        );
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("limits.calls_bytes_max"));
        assert!(refused.message().contains("16777216"), "{refused}");
        assert!(refused.get_details_retry_info().is_some());
        assert_eq!(intake.counters.get(Counter::IntakeRejected), 1);
        // Small ones have their own.
        let mut small = Call::begin(&intake);
        small.say(message(1_000)).await.unwrap();
        // The body may be gone long before its call is answered.
        let Call {
            body,
            _charge: charge,
            ..
        } = calls.pop().unwrap();
        drop(body);
        Call::begin(&intake).say(message(MIB)).await.unwrap_err();
        drop(charge);
        Call::begin(&intake).say(message(MIB)).await.unwrap();
        drop(calls);
        // One larger than all the room is possible, alone.
        Call::begin(&intake).say(message(20 * MIB)).await.unwrap();
    }

    #[tokio::test]
    async fn g10_a_message_is_charged_for_what_came_of_it_and_a_stream_for_its_last_one() {
        let intake = room(16 * MIB);
        let mut stream = Call::of(&intake, true);
        let large = message(8 * MIB);
        let (first, second) = large.split_at(3 * MIB);
        stream.say(first.to_vec()).await.unwrap();
        assert_eq!(intake.large.available_permits(), 14 * MIB - 3 * MIB);
        stream.say(second.to_vec()).await.unwrap();
        assert_eq!(intake.large.available_permits(), 14 * MIB - large.len());
        // Its handler asks for the next one: that one was dealt with.
        let next = std::future::poll_fn(|cx| {
            Poll::Ready(Pin::new(&mut stream.body).poll_frame(cx).is_pending())
        });
        assert!(next.await);
        assert_eq!(intake.large.available_permits(), 14 * MIB);
        stream.say(message(1_000)).await.unwrap();
        assert_eq!(intake.large.available_permits(), 14 * MIB);
        assert_eq!(intake.small.available_permits(), 2 * MIB - 1_005);
        stream.say(message(100)).await.unwrap();
        assert_eq!(intake.small.available_permits(), 2 * MIB - 105);
        drop(stream);
        assert_eq!(intake.small.available_permits(), 2 * MIB);
        // A call is asked for more at once, and its end is an empty frame: it is under way all the same.
        let mut call = Call::begin(&intake);
        call.say(message(1_000)).await.unwrap();
        call.say(Vec::new()).await.unwrap();
        assert_eq!(intake.small.available_permits(), 2 * MIB - 1_005);
    }

    #[tokio::test(start_paused = true)]
    async fn g10_a_message_that_stalls_is_given_up_and_a_stream_between_two_is_not() {
        let intake = room(16 * MIB);
        let mut call = Call::begin(&intake);
        call.say(message(100)).await.unwrap();
        let silent = tokio::time::timeout(10 * MESSAGE_WAIT, call.hear()).await;
        assert!(silent.is_err(), "{silent:?}");
        let begun = Instant::now();
        call.say(message(100)[..40].to_vec()).await.unwrap();
        tokio::time::advance(MESSAGE_WAIT / 2).await;
        // A few bytes more do not help.
        call.say(vec![7; 3]).await.unwrap();
        let stalled = tokio::time::timeout(10 * MESSAGE_WAIT, call.hear()).await;
        let stalled = stalled.unwrap().unwrap_err();
        assert_eq!(begun.elapsed(), MESSAGE_WAIT);
        assert_eq!(stalled.code(), Code::DeadlineExceeded);
        let message = stalled.message();
        assert!(
            message.contains("43 bytes of it came and 62 are missing"),
            "{message}"
        );
    }

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let sizes = [0, 3, 40, 0, 0, 17, 1];
        let bytes: Vec<u8> = sizes.iter().flat_map(|&size| message(size)).collect();
        let ends = sizes.iter().scan(0, |end, size| {
            *end += size + 5;
            Some(*end)
        });
        let ends: Vec<usize> = ends.collect();
        for cut in 1..=bytes.len() {
            let mut framing = Framing::default();
            let mut came = 0;
            for piece in bytes.chunks(cut) {
                framing.take(piece);
                came += piece.len();
                let whole = ends.iter().rev().find(|end| **end <= came);
                assert_eq!(
                    framing.begun,
                    came - whole.unwrap_or(&0),
                    "cut {cut}, {came}"
                );
            }
            assert_eq!(framing.begun, 0);
        }
    }
}
