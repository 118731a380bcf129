//! One connection to one memcached server, shared by any number of tasks.
//!
//! A worker task owns the connection. Requests reach it through a bounded queue, already encoded; it writes as many as
//! are waiting in one go and keeps, in a first-in-first-out list, who waits for which replies. Replies come in order, so
//! the front of the list owns the next one. A requester that went away (its future was dropped, or its deadline passed)
//! leaves its place in the list: its replies are read and thrown away, and nobody else's are touched.
//!
//! The worker goes through three states:
//!
//! * *connecting*, when nothing bad is known: requests wait in the queue, until their own deadline at most. A connection
//!   counts as up when the server answered `mn`: accepting is not enough, a stopped process does that too.
//! * *up*. When the oldest request is unanswered for longer than the timeout, or the stream is out of step, the
//!   connection is given up and every waiting request fails.
//! * *down*, after a failed attempt or a connection given up: every request is refused at once while the worker tries
//!   again, at growing intervals of at most one second. A connection that had served and was closed in the ordinary way
//!   (the server restarted) goes to *connecting* instead: at once if it lived for a second, else after a delay that grows
//!   as well, while requests wait.
//!
//! So an operation takes at most its timeout, at most one timeout passes before a dead server's requests fail at once,
//! and a server that is back is used at most a second and a timeout later.

mod session;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::session::Session;
use super::address::{ServerAddress, Stream};
use super::wire::{self, Decoder, Kind, OutOfStep, Reply};
use crate::CacheError;
use crate::backoff::{Backoff, SOUND_LIFE};

/// Requests waiting for the worker. When full, requesters wait for room, until their own deadline.
const QUEUE_REQUESTS_MAX: usize = 1_024;

/// Encoded requests that travel together, and where their replies go.
pub(super) struct Request {
    pub(super) kind: Kind,
    /// The encoded lines.
    pub(super) head: Vec<u8>,
    /// A value to follow, and the line end after it.
    pub(super) body: Option<Bytes>,
    pub(super) answer: Answer,
}

type Sender<T> = oneshot::Sender<Result<T, CacheError>>;

/// Where the replies to a request go.
pub(super) enum Answer {
    One(Sender<Reply>),
    Many {
        sender: Sender<Vec<Reply>>,
        replies: Vec<Reply>,
        expected: usize,
    },
}

impl Answer {
    fn expected(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many { expected, .. } => *expected,
        }
    }

    fn is_abandoned(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_closed(),
            Self::Many { sender, .. } => sender.is_closed(),
        }
    }

    // Sending fails only when the requester went away, which is its right.
    fn fail(self, error: CacheError) {
        match self {
            Self::One(sender) => drop(sender.send(Err(error))),
            Self::Many { sender, .. } => drop(sender.send(Err(error))),
        }
    }
}

/// What a worker needs to know.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) address: Arc<ServerAddress>,
    pub(super) timeout: Duration,
    pub(super) value_bytes_max: usize,
}

/// The requesters' side of a connection. The worker ends when it is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) queue: mpsc::Sender<Request>,
    down: Arc<AtomicBool>,
}

impl Connection {
    pub(super) fn spawn(settings: Settings) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_REQUESTS_MAX);
        let down = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            server: settings.address.to_string(),
            settings,
            queue: receiver,
            down: Arc::clone(&down),
        };
        tokio::spawn(worker.run());
        Self {
            queue: sender,
            down,
        }
    }

    /// How many requests wait for the worker.
    pub(super) fn backlog(&self) -> usize {
        QUEUE_REQUESTS_MAX - self.queue.capacity()
    }

    /// Requests would be refused at once.
    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }
}

struct Worker {
    settings: Settings,
    server: String,
    queue: mpsc::Receiver<Request>,
    down: Arc<AtomicBool>,
}

/// Why the worker left a state.
enum End {
    /// The cache was dropped: nobody can ask any more.
    Dropped,
    Failed {
        error: CacheError,
        /// The connection had answered requests, and then ended in the ordinary way.
        restarted: bool,
    },
}

impl Worker {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut refusal = None;
        loop {
            let mut life = Duration::ZERO;
            let end = match self.reach(refusal.as_ref()).await {
                Ok(stream) => {
                    refusal = None;
                    self.down.store(false, Ordering::Relaxed);
                    tracing::debug!(server = %self.server, "connected");
                    let born = Instant::now();
                    let end = Session::new(&mut self, stream).run().await;
                    life = born.elapsed();
                    end
                }
                Err(end) => end,
            };
            let End::Failed { error, restarted } = end else {
                return;
            };
            if restarted {
                tracing::debug!(server = %self.server, %error, "connection ended, connecting again");
                // Requests wait in the queue meanwhile.
                sleep(backoff.delay_after(life)).await;
                continue;
            }
            if self.queue.is_closed() && self.queue.is_empty() {
                // The server goes after the cache, as where both end: nobody asks any more whether it is there.
                return;
            }
            if life >= SOUND_LIFE {
                backoff = Backoff::new();
            }
            let delay = backoff.next_delay();
            if refusal.is_none() {
                tracing::warn!(server = %self.server, %error, "cache server is down, requests fail at once");
            }
            let cause = match error {
                CacheError::Unreachable { cause, .. } => cause,
                other => other.to_string(),
            };
            let error = refusal.insert(self.unreachable(format!(
                "{cause} (it is tried again soon, until then requests fail at once)"
            )));
            self.down.store(true, Ordering::Relaxed);
            if self
                .refuse_until(Instant::now() + delay, error)
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// Opens a connection and sees `mn` answered. Refuses requests meanwhile when the server is known to be down.
    async fn reach(&mut self, refusal: Option<&CacheError>) -> Result<Box<dyn Stream>, End> {
        let attempt = timeout(self.settings.timeout, open(self.settings.clone()));
        tokio::pin!(attempt);
        let result = loop {
            tokio::select! {
                biased;
                result = &mut attempt => break result,
                request = self.queue.recv(), if refusal.is_some() => match (request, refusal) {
                    (Some(request), Some(error)) => request.answer.fail(error.clone()),
                    _ => return Err(End::Dropped),
                },
            }
        };
        let error = match result {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(OpenError::Io(error))) => self.unreachable(error.to_string()),
            Ok(Err(OpenError::OutOfStep(OutOfStep(what)))) => CacheError::Protocol {
                server: self.server.clone(),
                what: format!("{what} to the meta command mn (memcached 1.6 or newer is needed)"),
            },
            Err(_) => self.timed_out(),
        };
        Err(End::Failed {
            error,
            restarted: false,
        })
    }

    async fn refuse_until(&mut self, until: Instant, error: &CacheError) -> Result<(), End> {
        let pause = sleep_until(until);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return Ok(()),
                request = self.queue.recv() => match request {
                    Some(request) => request.answer.fail(error.clone()),
                    None => return Err(End::Dropped),
                },
            }
        }
    }

    fn unreachable(&self, cause: String) -> CacheError {
        CacheError::Unreachable {
            server: self.server.clone(),
            cause,
        }
    }

    fn timed_out(&self) -> CacheError {
        CacheError::TimedOut {
            server: self.server.clone(),
            after: self.settings.timeout,
        }
    }
}

enum OpenError {
    Io(io::Error),
    OutOfStep(OutOfStep),
}

async fn open(settings: Settings) -> Result<Box<dyn Stream>, OpenError> {
    let mut stream = settings.address.open().await.map_err(OpenError::Io)?;
    stream.write_all(wire::NOOP).await.map_err(OpenError::Io)?;
    let mut decoder = Decoder::new(0);
    let mut buffer = BytesMut::with_capacity(64);
    loop {
        if stream.read_buf(&mut buffer).await.map_err(OpenError::Io)? == 0 {
            return Err(OpenError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        match decoder.decode(&mut buffer).map_err(OpenError::OutOfStep)? {
            Some(Reply::Noop) if buffer.is_empty() => return Ok(stream),
            Some(reply) => {
                return Err(OpenError::OutOfStep(OutOfStep(format!(
                    "reply {}",
                    reply.name()
                ))));
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    async fn ends(down: &AtomicBool, worker: impl Future<Output = ()>) -> bool {
        let ended = timeout(Duration::from_secs(10), worker).await;
        assert!(ended.is_ok(), "nobody can ask any more");
        down.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn a_server_that_nobody_asks_any_more_is_not_said_to_be_down() {
        // Nobody listens there once it is dropped.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let settings = Settings {
            address: Arc::new(address.parse().unwrap()),
            timeout: Duration::from_secs(1),
            value_bytes_max: 1_024,
        };
        let worker = |queue| {
            let down = Arc::new(AtomicBool::new(false));
            let worker = Worker {
                server: address.clone(),
                settings: settings.clone(),
                queue,
                down: Arc::clone(&down),
            };
            (down, worker.run())
        };
        let (sender, queue) = mpsc::channel(1);
        drop(sender);
        let (down, run) = worker(queue);
        assert!(!ends(&down, run).await);
        // It is told to whoever still waits for an answer.
        let (sender, queue) = mpsc::channel(1);
        let (answer, told) = oneshot::channel();
        let request = Request {
            kind: Kind::Get,
            head: Vec::new(),
            body: None,
            answer: Answer::One(answer),
        };
        sender.try_send(request).ok().unwrap();
        drop(sender);
        let (down, run) = worker(queue);
        assert!(ends(&down, run).await);
        assert!(told.await.unwrap().is_err());
    }
}
