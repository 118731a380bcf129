//! One server: its connections, and the deadline of whoever waits for an answer.
//!
//! Single requests go to the first connection while it keeps up: the more of them share a connection, the more travel in
//! one write and one read (measured in `docs/decisions/0101-memcached-wire.md`). Bulk requests and large values take the
//! others in turn, so that single requests do not queue behind them. A connection that is down is passed over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::connection::{Answer, Connection, Request, Settings};
use super::wire::{Kind, Reply};
use super::{MemcachedConfig, ServerAddress};
use crate::CacheError;

/// Single requests go to the next connection when this many wait for the first one's worker.
const BACKLOG_REQUESTS_MAX: usize = 256;

/// Values from this size on travel with the bulk requests.
const LARGE_VALUE_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Server {
    name: String,
    timeout: Duration,
    connections: Vec<Connection>,
    next: AtomicUsize,
}

/// An answer to come, and until when.
#[derive(Debug)]
pub(super) struct Awaited<T> {
    receiver: oneshot::Receiver<Result<T, CacheError>>,
    deadline: Instant,
}

impl Server {
    pub(super) fn spawn(address: &ServerAddress, config: &MemcachedConfig) -> Self {
        let settings = Settings {
            address: Arc::new(address.clone()),
            timeout: config.timeout,
            value_bytes_max: config.max_value_bytes,
        };
        let connect = |_| Connection::spawn(settings.clone());
        Self {
            name: address.to_string(),
            timeout: config.timeout,
            connections: (0..config.connections_per_server).map(connect).collect(),
            next: AtomicUsize::new(0),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Sends one request; its answer is due a timeout from now.
    pub(super) async fn send(
        &self,
        kind: Kind,
        head: Vec<u8>,
        body: Option<Bytes>,
    ) -> Result<Awaited<Reply>, CacheError> {
        let (sender, receiver) = oneshot::channel();
        let connection = match &body {
            Some(value) if value.len() >= LARGE_VALUE_BYTES => self.for_bulk(),
            _ => self.for_single(),
        };
        let request = Request {
            kind,
            head,
            body,
            answer: Answer::One(sender),
        };
        self.enqueue(connection, request, receiver).await
    }

    /// Sends `count` requests of one kind; the answers to all of them are due a timeout from now.
    pub(super) async fn send_many(
        &self,
        kind: Kind,
        head: Vec<u8>,
        count: usize,
    ) -> Result<Awaited<Vec<Reply>>, CacheError> {
        let (sender, receiver) = oneshot::channel();
        let request = Request {
            kind,
            head,
            body: None,
            answer: Answer::Many {
                sender,
                replies: Vec::with_capacity(count),
                expected: count,
            },
        };
        self.enqueue(self.for_bulk(), request, receiver).await
    }

    /// The answer, by its deadline.
    pub(super) async fn answer<T>(&self, awaited: Awaited<T>) -> Result<T, CacheError> {
        match timeout_at(awaited.deadline, awaited.receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.gone()),
            Err(_) => Err(self.timed_out()),
        }
    }

    pub(super) fn refused(&self, answer: String) -> CacheError {
        CacheError::Refused {
            server: self.name.clone(),
            answer,
        }
    }

    async fn enqueue<T>(
        &self,
        connection: &Connection,
        request: Request,
        receiver: oneshot::Receiver<Result<T, CacheError>>,
    ) -> Result<Awaited<T>, CacheError> {
        let deadline = Instant::now() + self.timeout;
        match timeout_at(deadline, connection.queue.send(request)).await {
            Ok(Ok(())) => Ok(Awaited { receiver, deadline }),
            Ok(Err(_)) => Err(self.gone()),
            Err(_) => Err(self.timed_out()),
        }
    }

    fn for_single(&self) -> &Connection {
        let keeps_up = |connection: &&Connection| {
            !connection.is_down() && connection.backlog() < BACKLOG_REQUESTS_MAX
        };
        self.connections
            .iter()
            .find(keeps_up)
            .unwrap_or_else(|| self.for_bulk())
    }

    fn for_bulk(&self) -> &Connection {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let others = &self.connections[1..];
        (0..others.len())
            .map(|number| &others[first.wrapping_add(number) % others.len()])
            .find(|connection| !connection.is_down())
            .unwrap_or(&self.connections[0])
    }

    fn timed_out(&self) -> CacheError {
        CacheError::TimedOut {
            server: self.name.clone(),
            after: self.timeout,
        }
    }

    /// The worker is no more: its runtime is shutting down.
    fn gone(&self) -> CacheError {
        CacheError::Unreachable {
            server: self.name.clone(),
            cause: "the runtime that held its connection is shutting down".to_owned(),
        }
    }
}
