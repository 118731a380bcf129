//! A connection that has a place, and when it ends without its caller's doing.
//!
//! - It has not sent HTTP/2's preface within a few seconds.
//! - It gives way to a newer one, where its listener says so.
//! - The server stops, and it has no call. HTTP/2's own way asks the caller, who has to answer, before it closes the
//!   connection: a caller who does not would hold the drain for as long as that may take.
//!
//! For the last one, which streams are open is read from the frames that pass. HTTP's library does not tell: a service is
//! done with an answer when the library has it, and it may be there for as long as the caller reads slowly.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;

use super::streams::{PREFACE_BYTES, Streams};
use crate::engine::OfConnection;

/// How long a connection may take to send HTTP/2's preface.
const PREFACE_WAIT: Duration = Duration::from_secs(10);
/// Calls without an answer beside which nothing more is read while answers wait for a caller to read them.
const UNANSWERED_MAX: usize = 64;
/// How long a connection without a call stays while the server stops. Callers who read what they are sent have answered by
/// then, and calls that were on their way have come.
pub(super) const IDLE_WAIT: Duration = Duration::from_millis(500);

/// See the module.
pub(super) struct Connection<Io> {
    io: Io,
    /// What its calls have of what there is a share of for each connection.
    taken: OfConnection,
    streams: Streams,
    /// What is missing of the preface, and until when it may be.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    stops: Option<Stops>,
    gives_way: GivesWay,
    blocked: Blocked,
    _place: OwnedSemaphorePermit,
}

/// Of a connection whose server stops some day.
struct Stops {
    /// Changes when it does.
    stop: watch::Receiver<bool>,
    /// Until when it may be without a call, once it is.
    idle: Option<Pin<Box<Sleep>>>,
}

impl Stops {
    /// Ready when a connection has been without a call for long enough.
    fn poll_over(&mut self, cx: &mut Context<'_>, streams: &Streams) -> Poll<()> {
        // An error means that nobody can stop it any more, which is as good as being told to.
        let stopping = !matches!(self.stop.has_changed(), Ok(false));
        if !stopping || !streams.are_done() {
            self.idle = None;
            return Poll::Pending;
        }
        let idle = self.idle.get_or_insert_with(|| Box::pin(sleep(IDLE_WAIT)));
        idle.as_mut().poll(cx)
    }
}

/// Whether a connection ends when its listener wants its place.
enum GivesWay {
    Never,
    WhenTold(oneshot::Receiver<()>),
    Now,
}

impl GivesWay {
    /// An error once it is told to. Otherwise it is woken then.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Self::WhenTold(told) = self {
            *self = match Pin::new(told).poll(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => Self::Now,
                // The listener is there no more, and wants nothing.
                Poll::Ready(Err(_)) => Self::Never,
            };
        }
        match self {
            Self::Now => Err(ErrorKind::ConnectionAborted.into()),
            _ => Ok(()),
        }
    }
}

/// Whether a caller does not read what it is sent.
#[derive(Default)]
struct Blocked {
    is: bool,
    /// Who is to read again once it does.
    reader: Option<Waker>,
}

impl Blocked {
    /// Something was written, or could not be.
    fn note(&mut self, is: bool) {
        self.is = is;
        if !is && let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Whether nothing more is to be read for now; then it is woken when that changes.
    fn holds_up(&mut self, unanswered: usize, cx: &Context<'_>) -> bool {
        let holds_up = self.is && unanswered >= UNANSWERED_MAX;
        if holds_up {
            self.reader = Some(cx.waker().clone());
        }
        holds_up
    }
}

impl<Io> Connection<Io> {
    pub(super) fn new(io: Io, place: OwnedSemaphorePermit) -> Self {
        Self {
            io,
            taken: OfConnection::default(),
            streams: Streams::default(),
            preface: Some((PREFACE_BYTES, Box::pin(sleep(PREFACE_WAIT)))),
            stops: None,
            gives_way: GivesWay::Never,
            blocked: Blocked::default(),
            _place: place,
        }
    }

    /// The same, which ends when it has no call and `stop` has changed.
    pub(super) fn stopping(mut self, stop: watch::Receiver<bool>) -> Self {
        self.stops = Some(Stops { stop, idle: None });
        self
    }

    /// The same, which ends when it is told to.
    pub(super) fn giving_way(mut self, told: oneshot::Receiver<()>) -> Self {
        self.gives_way = GivesWay::WhenTold(told);
        self
    }
}

impl<Io> Connected for Connection<Io> {
    type ConnectInfo = OfConnection;

    fn connect_info(&self) -> OfConnection {
        self.taken.clone()
    }
}

impl<Io> Connection<Io> {
    /// For what cannot go on: an error once the server stops and there has been no call for long enough. Otherwise it is woken
    /// then.
    fn poll_stuck(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(stops) = &mut self.stops else {
            return Poll::Pending;
        };
        ready!(stops.poll_over(cx, &self.streams));
        Poll::Ready(ErrorKind::ConnectionAborted.into())
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Connection<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.gives_way.check(cx)?;
        if this.blocked.holds_up(this.streams.unanswered(), cx) {
            return this.poll_stuck(cx).map(Err);
        }
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut this.io).poll_read(cx, buffer) else {
            if let Some((_, deadline)) = &mut this.preface
                && deadline.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Err(ErrorKind::TimedOut.into()));
            }
            return this.poll_stuck(cx).map(Err);
        };
        let came = &buffer.filled()[before..];
        if let Some((missing, _)) = &mut this.preface {
            *missing = missing.saturating_sub(came.len());
            if *missing == 0 {
                this.preface = None;
            }
        }
        this.streams.came(came);
        Poll::Ready(read)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Connection<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.gives_way.check(cx)?;
        let written = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.blocked.note(written.is_pending());
        let Poll::Ready(written) = written else {
            // Nothing is read while a GOAWAY waits for room, so this is where the time of a caller who reads nothing is over.
            return this.poll_stuck(cx).map(Err);
        };
        let written = written?;
        let refusals = this.streams.went(&bytes[..written]);
        this.taken.written(refusals, this.streams.unanswered());
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let flushed = ready!(Pin::new(&mut this.io).poll_flush(cx));
        // Nobody reads again after the last answer until something comes: this has it read when its time is over.
        if let Some(stops) = &mut this.stops {
            let _ = stops.poll_over(cx, &this.streams);
        }
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.gives_way.check(cx)?;
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.blocked.note(written.is_pending());
        let Poll::Ready(written) = written else {
            return this.poll_stuck(cx).map(Err);
        };
        let written = written?;
        let (mut left, mut refusals) = (written, 0);
        for slice in slices {
            let part = left.min(slice.len());
            refusals += this.streams.went(&slice[..part]);
            left -= part;
        }
        this.taken.written(refusals, this.streams.unanswered());
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use futures::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Semaphore;
    use tokio::time::{Instant, timeout};

    use super::*;

    fn place() -> OwnedSemaphorePermit {
        Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_ends_and_one_that_spoke_does_not() {
        let (_silent, io) = tokio::io::duplex(64);
        let mut connection = Connection::new(io, place());
        let begun = Instant::now();
        let ended = connection.read(&mut [0; 64]).await.unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), PREFACE_WAIT);

        let (mut speaks, io) = tokio::io::duplex(64);
        let mut connection = Connection::new(io, place());
        speaks
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(connection.read(&mut [0; 64]).await.unwrap(), PREFACE_BYTES);
        let later = timeout(10 * PREFACE_WAIT, connection.read(&mut [0; 64])).await;
        assert!(later.is_err(), "{later:?}");
    }

    /// A frame without a payload.
    fn frame(kind: u8, flags: u8, stream: u8) -> [u8; 9] {
        [0, 0, 0, kind, flags, 0, 0, 0, stream]
    }

    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const END_OF_HEADERS: u8 = 4;
    /// Of the stream and of its headers.
    const END_OF_BOTH: u8 = 5;

    /// How writing one slice, or several, ends.
    async fn write(
        connection: &mut Connection<tokio::io::DuplexStream>,
        bytes: &[u8],
        vectored: bool,
    ) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            let connection = Pin::new(&mut *connection);
            if vectored {
                connection.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
            } else {
                connection.poll_write(cx, bytes)
            }
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_whose_socket_is_full_when_the_goaway_is_due_does_not_hold_the_drain() {
        let (answer, goaway) = (frame(HEADERS, END_OF_BOTH, 1), frame(GOAWAY, 0, 0));
        // With the answer the socket is full, or it has room for a part of the GOAWAY.
        for (room, vectored) in [(3, false), (3, true), (5, false), (5, true)] {
            let (mut caller, io) = tokio::io::duplex(room);
            let (stop, stopped) = watch::channel(false);
            let mut connection = Connection::new(io, place()).stopping(stopped);
            connection.streams.came(&[0; PREFACE_BYTES]);
            connection.streams.came(&frame(HEADERS, END_OF_BOTH, 1));
            stop.send(true).unwrap();
            // A call that has no answer yet is not cut off, however slowly its caller reads.
            let (mut answered, mut waits) = (0, 0);
            while answered < answer.len() {
                let part = write(&mut connection, &answer[answered..], vectored);
                if let Ok(written) = timeout(10 * IDLE_WAIT, part).await {
                    answered += written.unwrap();
                } else {
                    waits += 1;
                    caller.read_exact(&mut vec![0; room]).await.unwrap();
                }
            }
            assert!(waits > 0, "there was room for all of it");
            let since = Instant::now();
            let mut left = &goaway[..];
            let ended = loop {
                let part = write(&mut connection, left, vectored);
                match timeout(10 * IDLE_WAIT, part).await.expect("it stays") {
                    Ok(written) => left = &left[written..],
                    Err(ended) => break ended,
                }
            };
            assert_eq!(ended.kind(), ErrorKind::ConnectionAborted);
            assert_eq!(since.elapsed(), IDLE_WAIT);
        }
    }

    #[tokio::test]
    async fn g10_a_refusal_is_charged_until_it_is_written() {
        let room = Arc::new(Semaphore::new(40));
        let charge = || Arc::clone(&room).try_acquire_many_owned(10).ok();
        for vectored in [false, true] {
            let (_caller, io) = tokio::io::duplex(1_000);
            let mut connection = Connection::new(io, place());
            let calls = connection.connect_info();
            connection.streams.came(&[0; PREFACE_BYTES]);
            // The last three are a call that waits, and streams whose answers have begun.
            for stream in [1, 3, 5, 7, 9, 11, 13] {
                let call = frame(HEADERS, END_OF_BOTH, stream);
                connection.streams.came(&call);
            }
            for stream in [11, 13] {
                let begun = frame(HEADERS, END_OF_HEADERS, stream);
                write(&mut connection, &begun, vectored).await.unwrap();
            }
            for _ in [1, 3, 5, 7] {
                calls.keep(charge());
            }
            assert_eq!(room.available_permits(), 0);
            let refusal = frame(HEADERS, END_OF_BOTH, 1);
            for (bytes, left) in [
                // A part of it is not all of it.
                (&refusal[..4], 0),
                (&refusal[4..], 10),
                // Nor is the end of an answer that had begun.
                (&frame(HEADERS, END_OF_BOTH, 11), 10),
                (&frame(HEADERS, END_OF_BOTH, 5), 20),
            ] {
                let written = write(&mut connection, bytes, vectored).await.unwrap();
                assert_eq!((written, room.available_permits()), (bytes.len(), left));
            }
            // Of 3, 7 and 9 two are reset: no more than one refusal is left, whatever is written.
            for stream in [3, 7] {
                connection.streams.came(&frame(RST_STREAM, 0, stream));
            }
            let ping = frame(PING, 0, 0);
            write(&mut connection, &ping, vectored).await.unwrap();
            assert_eq!(room.available_permits(), 30);
            drop((connection, calls));
            assert_eq!(room.available_permits(), 40);
        }
    }

    /// Remembers that it was woken.
    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Release);
        }
    }

    #[tokio::test]
    async fn g10_of_a_caller_who_does_not_read_few_calls_are_read() {
        let call = |number: u8| frame(HEADERS, END_OF_BOTH, 2 * number + 1);
        let unanswered_max = u8::try_from(UNANSWERED_MAX).unwrap();
        for vectored in [false, true] {
            let (mut caller, io) = tokio::io::duplex(110 * 9);
            let mut connection = Connection::new(io, place());
            connection.streams.came(&[0; PREFACE_BYTES]);
            let mut buffer = [0; 9];
            // Many are no reason while it reads what it is sent.
            for number in 0..=unanswered_max {
                caller.write_all(&call(number)).await.unwrap();
                connection.read_exact(&mut buffer).await.unwrap();
            }
            while write(&mut connection, &call(0), vectored)
                .now_or_never()
                .is_some()
            {}
            caller.write_all(&call(unanswered_max + 1)).await.unwrap();
            let woken = Arc::new(Woken::default());
            let mut read = |connection: &mut Connection<tokio::io::DuplexStream>| {
                let waker = Waker::from(Arc::clone(&woken));
                let mut buffer = ReadBuf::new(&mut buffer);
                Pin::new(connection).poll_read(&mut Context::from_waker(&waker), &mut buffer)
            };
            assert!(read(&mut connection).is_pending());
            caller.read_exact(&mut [0; 900]).await.unwrap();
            assert!(read(&mut connection).is_pending());
            assert!(!woken.0.load(Ordering::Acquire));
            write(&mut connection, &call(1), vectored).await.unwrap();
            assert!(woken.0.load(Ordering::Acquire));
            assert!(read(&mut connection).is_ready());
            // With one less they are read though it does not read.
            while write(&mut connection, &call(2), vectored)
                .now_or_never()
                .is_some()
            {}
            caller.write_all(&call(unanswered_max + 2)).await.unwrap();
            assert!(read(&mut connection).is_ready());
            caller.write_all(&call(unanswered_max + 3)).await.unwrap();
            assert!(read(&mut connection).is_pending());
        }
    }

    #[tokio::test]
    async fn a_connection_that_gives_way_ends_though_its_caller_reads_nothing() {
        let (_caller, io) = tokio::io::duplex(64);
        let (tell, told) = oneshot::channel();
        let mut connection = Connection::new(io, place()).giving_way(told);
        let written = async { connection.write_all(&[0; 1_000]).await };
        let told = async { tell.send(()).unwrap() };
        let (written, ()) = tokio::join!(written, told);
        assert_eq!(written.unwrap_err().kind(), ErrorKind::ConnectionAborted);
        // And however often it is asked.
        for _ in 0..2 {
            let read = connection.read(&mut [0; 64]).await.unwrap_err();
            assert_eq!(read.kind(), ErrorKind::ConnectionAborted);
        }
        // Where nobody can tell it any more, it stays.
        let (mut caller, io) = tokio::io::duplex(64);
        let mut connection = Connection::new(io, place()).giving_way(oneshot::channel().1);
        caller.write_all(b"PRI").await.unwrap();
        assert_eq!(connection.read(&mut [0; 64]).await.unwrap(), 3);
        assert_eq!(connection.write(b"SET").await.unwrap(), 3);
    }
}
