//! Connections on their way in: so many at a time, and only such as speak.
//!
//! A connection beyond the limit is closed at once: its caller goes to another sidecar, where it would hang otherwise. Where
//! probes come there is no other sidecar to go to, and whoever is not answered has this one ended: there the oldest connection is
//! closed instead, so that connections that only stand there, however many, keep no probe out. One
//! that has not sent HTTP/2's preface within a few seconds is closed, too; later on HTTP/2's own pings find who is gone.
//! When the system has no room for a further connection (`EMFILE`), the listener pauses: the connection stays in the
//! system's queue, and accepting would fail again and again without end.

use std::collections::VecDeque;
use std::future::Future as _;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tracing::{info, warn};

use super::connection::Connection;
use crate::telemetry::{Counter, Counters};

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
    /// Whether the last one to come found no place: each burst is told once.
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

    /// A place, if there is one; `instead` says what becomes of connections if not.
    fn enter(&self, instead: &str) -> Option<OwnedSemaphorePermit> {
        let place = self.places.clone().try_acquire_owned().ok();
        let full = place.is_none();
        if full {
            self.counters.inc(Counter::ConnectionsRefused);
        }
        if self.full.swap(full, Ordering::Relaxed) != full {
            let (whose, most) = (self.whose, self.most);
            if full {
                warn!(whose, most, "{instead} (limits.connections_max)");
            } else {
                info!(whose, "connections are taken again");
            }
        }
        place
    }
}

/// The connections of a listener in the order in which they came, so that the oldest can be told to give way.
#[derive(Default)]
struct Line(VecDeque<oneshot::Sender<()>>);

impl Line {
    /// Takes a further one, of `most` at a time.
    fn join(&mut self, most: usize) -> oneshot::Receiver<()> {
        // Those that have ended stay in it until they would be as many as the others.
        if self.0.len() >= most.saturating_mul(2) {
            self.0.retain(|tell| !tell.is_closed());
        }
        let (tell, told) = oneshot::channel();
        self.0.push_back(tell);
        told
    }

    /// Has the oldest end.
    fn end_oldest(&mut self) {
        while let Some(tell) = self.0.pop_front() {
            // An error means that it has ended by itself.
            if tell.send(()).is_ok() {
                return;
            }
        }
    }
}

type Acquired = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// The connections that a listener accepts.
pub(super) struct Incoming<L: Accept> {
    listener: L,
    door: Door,
    /// Where the oldest one gives way.
    line: Option<Line>,
    /// One for which another is giving way.
    waiting: Option<(L::Io, Acquired)>,
    /// What ends those without a call, once it changes.
    stop: Option<watch::Receiver<bool>>,
    pause: Option<Pin<Box<Sleep>>>,
    failing: bool,
}

impl<L: Accept> Incoming<L> {
    pub(super) fn new(listener: L, door: Door) -> Self {
        Self {
            listener,
            door,
            line: None,
            waiting: None,
            stop: None,
            pause: None,
            failing: false,
        }
    }

    /// The same, where the oldest connection ends in favour of one that finds no place.
    pub(super) fn giving_way(mut self) -> Self {
        self.line = Some(Line::default());
        self
    }

    /// The same, where connections without a call end when `stop` changes.
    pub(super) fn stopping(mut self, stop: watch::Receiver<bool>) -> Self {
        self.stop = Some(stop);
        self
    }

    fn connection(&mut self, io: L::Io, place: OwnedSemaphorePermit) -> Connection<L::Io> {
        let mut connection = Connection::new(io, place);
        if let Some(line) = &mut self.line {
            connection = connection.giving_way(line.join(self.door.most));
        }
        if let Some(stop) = &self.stop {
            connection = connection.stopping(stop.clone());
        }
        connection
    }
}

impl<L: Accept> Stream for Incoming<L> {
    type Item = io::Result<Connection<L::Io>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some((_, place)) = &mut self.waiting {
                let place = ready!(place.as_mut().poll(cx));
                let place = place.expect("invariant: nobody closes the places");
                if let Some((io, _)) = self.waiting.take() {
                    return Poll::Ready(Some(Ok(self.connection(io, place))));
                }
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok(io) => {
                    self.failing = false;
                    let instead = match &self.line {
                        Some(_) => "the oldest connections are closed for new ones",
                        None => "connections are refused",
                    };
                    if let Some(place) = self.door.enter(instead) {
                        return Poll::Ready(Some(Ok(self.connection(io, place))));
                    }
                    let places = self.door.places.clone();
                    if let Some(line) = &mut self.line {
                        line.end_oldest();
                        self.waiting = Some((io, Box::pin(places.acquire_owned())));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::atomic::AtomicUsize;

    use tokio::io::AsyncReadExt as _;
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

    #[tokio::test]
    async fn g10_the_oldest_connection_that_is_left_gives_way_to_a_new_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = door(2);
        let mut incoming = Incoming::new(listener, door.clone()).giving_way();
        // Many have come and gone: they are remembered only until then.
        for _ in 0..20 {
            let _caller = TcpStream::connect(address).await.unwrap();
            incoming.next().await.unwrap().unwrap();
        }
        assert!(incoming.line.as_ref().unwrap().0.len() <= 4);
        assert_eq!(door.counters.get(Counter::ConnectionsRefused), 0);
        let mut callers = Vec::new();
        let mut taken = VecDeque::new();
        for _ in 0..2 {
            callers.push(TcpStream::connect(address).await.unwrap());
            taken.push_back(incoming.next().await.unwrap().unwrap());
        }
        for _ in 0..3 {
            callers.push(TcpStream::connect(address).await.unwrap());
            let mut oldest = taken.pop_front().unwrap();
            let read = async move { oldest.read(&mut [0]).await.unwrap_err().kind() };
            // It is read from as long as it lives, as a server does; and its place is free when it has been dropped.
            let (ended, next) = tokio::join!(read, incoming.next());
            assert_eq!(ended, ErrorKind::ConnectionAborted);
            taken.push_back(next.unwrap().unwrap());
        }
        assert_eq!(door.counters.get(Counter::ConnectionsRefused), 3);
        assert_eq!(door.places.available_permits(), 0);
    }
}
