//! Connections on their way in: so many at a time, and only such as speak.
//!
//! A connection beyond the limit is closed at once: its caller goes to another sidecar, where it would hang otherwise. One
//! that has not sent HTTP/2's preface within a few seconds is closed, too; later on HTTP/2's own pings find who is gone.
//! When the system has no room for a further connection (`EMFILE`), the listener pauses: the connection stays in the
//! system's queue, and accepting would fail again and again without end.

use std::future::Future as _;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tonic::transport::server::Connected;
use tracing::{info, warn};

use crate::engine::OfConnection;
use crate::telemetry::{Counter, Counters};

/// The length of HTTP/2's client preface.
const PREFACE_BYTES: usize = 24;
/// How long a connection may take to send it.
const PREFACE_WAIT: Duration = Duration::from_secs(10);
/// The pause after the system refused a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// What listens.
pub(super) trait Accept: Unpin + Send + 'static {
    /// What it accepts.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Io>>;
}

impl Accept for TcpListener {
    type Io = TcpStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        let (stream, _) = ready!(self.poll_accept(cx))?;
        // Small messages leave at once: the server's own setting does not reach listeners bound elsewhere. An error means
        // that the caller is gone already.
        let _ = stream.set_nodelay(true);
        Poll::Ready(Ok(stream))
    }
}

impl Accept for UnixListener {
    type Io = UnixStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        let (stream, _) = ready!(self.poll_accept(cx))?;
        Poll::Ready(Ok(stream))
    }
}

/// The places of one or several listeners.
#[derive(Clone, Debug)]
pub(super) struct Door {
    whose: &'static str,
    most: usize,
    places: Arc<Semaphore>,
    /// Whether the last one to come was sent away: each burst is told once.
    full: Arc<AtomicBool>,
    counters: Arc<Counters>,
}

impl Door {
    pub(super) fn new(whose: &'static str, most: usize, counters: Arc<Counters>) -> Self {
        Self {
            whose,
            most,
            places: Arc::new(Semaphore::new(most)),
            full: Arc::default(),
            counters,
        }
    }

    fn enter(&self) -> Option<OwnedSemaphorePermit> {
        let place = self.places.clone().try_acquire_owned().ok();
        let full = place.is_none();
        if full {
            self.counters.inc(Counter::ConnectionsRefused);
        }
        if self.full.swap(full, Ordering::Relaxed) != full {
            let (whose, most) = (self.whose, self.most);
            if full {
                warn!(
                    whose,
                    most, "connections are refused (limits.connections_max)"
                );
            } else {
                info!(whose, "connections are taken again");
            }
        }
        place
    }
}

/// The connections that a listener accepts.
pub(super) struct Incoming<L> {
    listener: L,
    door: Door,
    pause: Option<Pin<Box<Sleep>>>,
    failing: bool,
}

impl<L: Accept> Incoming<L> {
    pub(super) fn new(listener: L, door: Door) -> Self {
        Self {
            listener,
            door,
            pause: None,
            failing: false,
        }
    }
}

impl<L: Accept> Stream for Incoming<L> {
    type Item = io::Result<Connection<L::Io>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok(io) => {
                    self.failing = false;
                    if let Some(place) = self.door.enter() {
                        return Poll::Ready(Some(Ok(Connection::new(io, place))));
                    }
                }
                // The caller's own.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionAborted
                            | ErrorKind::ConnectionReset
                            | ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        let whose = self.door.whose;
                        warn!(whose, %error, "no connections are accepted for the moment");
                    }
                    self.pause = Some(Box::pin(sleep(PAUSE)));
                }
            }
        }
    }
}

/// A connection that has a place.
pub(super) struct Connection<Io> {
    io: Io,
    /// What its calls have of what there is a share of for each connection.
    taken: OfConnection,
    /// What is missing of the preface, and until when it may be.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    _place: OwnedSemaphorePermit,
}

impl<Io> Connection<Io> {
    fn new(io: Io, place: OwnedSemaphorePermit) -> Self {
        Self {
            io,
            taken: OfConnection::default(),
            preface: Some((PREFACE_BYTES, Box::pin(sleep(PREFACE_WAIT)))),
            _place: place,
        }
    }
}

impl<Io> Connected for Connection<Io> {
    type ConnectInfo = OfConnection;

    fn connect_info(&self) -> OfConnection {
        self.taken.clone()
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Connection<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        let Some((missing, deadline)) = &mut self.preface else {
            return read;
        };
        match read {
            Poll::Pending => {
                ready!(deadline.as_mut().poll(cx));
                Poll::Ready(Err(ErrorKind::TimedOut.into()))
            }
            Poll::Ready(result) => {
                *missing = missing.saturating_sub(buffer.filled().len() - before);
                if *missing == 0 {
                    self.preface = None;
                }
                Poll::Ready(result)
            }
        }
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Connection<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::atomic::AtomicUsize;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;
    use tokio_stream::StreamExt as _;

    use super::*;

    /// A system without room for a connection.
    #[derive(Default)]
    struct Exhausted(Arc<AtomicUsize>);

    impl Accept for Exhausted {
        type Io = TcpStream;

        fn poll_accept(&self, _: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Poll::Ready(Err(io::Error::from_raw_os_error(24)))
        }
    }

    fn door(most: usize) -> Door {
        Door::new("tests", most, Arc::new(Counters::new()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_system_without_room_is_asked_ten_times_a_second() {
        let asked = Arc::new(AtomicUsize::new(0));
        let mut incoming = Incoming::new(Exhausted(asked.clone()), door(1));
        let second = tokio::time::timeout(Duration::from_secs(1), incoming.next()).await;
        assert!(second.is_err());
        let asked = asked.load(Ordering::Relaxed);
        assert!((5..=11).contains(&asked), "{asked} times");
    }

    #[tokio::test]
    async fn g10_connections_beyond_the_limit_are_closed_and_places_come_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = door(2);
        let mut incoming = Incoming::new(listener, door.clone());
        let mut callers = Vec::new();
        for _ in 0..3 {
            callers.push(TcpStream::connect(address).await.unwrap());
        }
        let first = incoming.next().await.unwrap().unwrap();
        let _second = incoming.next().await.unwrap().unwrap();
        let read = async { callers[2].read(&mut [0]).await };
        tokio::select! {
            closed = read => assert!(!matches!(closed, Ok(1..)), "{closed:?}"),
            _ = incoming.next() => panic!("a third one was taken"),
        }
        assert_eq!(door.counters.get(Counter::ConnectionsRefused), 1);
        drop(first);
        let _fourth = TcpStream::connect(address).await.unwrap();
        incoming.next().await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_ends_and_one_that_spoke_does_not() {
        let (_silent, io) = tokio::io::duplex(64);
        let place = || Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
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
        let later = tokio::time::timeout(10 * PREFACE_WAIT, connection.read(&mut [0; 64])).await;
        assert!(later.is_err(), "{later:?}");
    }
}
