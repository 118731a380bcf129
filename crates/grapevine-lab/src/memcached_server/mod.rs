//! A small memcached, inside the process: for the demo, for replays without an installed memcached, and for tests.
//!
//! It speaks the text protocol over TCP as memcached 1.6 does: `get`, `gets`, `set`, `add`, `replace`, `cas`, `delete`,
//! `incr`, `decr`, `touch`, `flush_all`, `version`, `verbosity`, `stats`, `quit`, and the meta commands `mg`, `ms`, `md`, `mn`
//! with the flags that clients use, stale marks among them. `append`, `prepend`, `gat`, `ma` and `me` are absent, and answered
//! with `ERROR`; meta flags it does not have with `CLIENT_ERROR invalid flag`.
//!
//! The parts: `frame` cuts the stream into lines and values, `classic` and `meta` obey one command each, `store`
//! holds the items, `session` is one connection. Everything is bounded: items and their bytes (the least used make
//! room), the size of a value (a larger one is refused and skipped over), the length of a line (a longer one ends the
//! connection), connections (one too many is told so and closed), and the output that waits for a slow reader (it is
//! written before the next command is looked at).

mod classic;
mod frame;
mod meta;
mod session;
mod store;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Duration, Instant, sleep};

use self::store::Store;

const TOO_MANY_CONNECTIONS: &[u8] = b"ERROR Too many open connections\r\n";

/// How long to wait when accepting fails, for instance because no file descriptor is left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// The server's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemcachedServerConfig {
    /// Most bytes of items with their keys and overhead. Raising it costs memory. Default 256 MiB.
    pub max_bytes: usize,
    /// Most items. Raising it costs memory. Default 4,000,000.
    pub max_items: usize,
    /// The largest value, in bytes. Raising it lets one connection hold more. Default 1 MiB.
    pub max_value_bytes: usize,
    /// Most connections at once. Raising it costs memory and file descriptors. Default 1,024.
    pub max_connections: usize,
}

impl Default for MemcachedServerConfig {
    fn default() -> Self {
        Self {
            max_bytes: 256 << 20,
            max_items: 4_000_000,
            max_value_bytes: 1 << 20,
            max_connections: 1_024,
        }
    }
}

/// What the server counted since its start. `items` and `bytes` are those of now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemcachedServerStats {
    /// Keys asked for.
    pub gets: u64,
    /// Keys asked for and found.
    pub hits: u64,
    /// Values stored.
    pub sets: u64,
    /// Deletes of keys that were there, stale marks included.
    pub deletes: u64,
    /// Deletes of keys that were not there.
    pub delete_misses: u64,
    /// Items that had to make room.
    pub evictions: u64,
    /// Items held now, expired ones that nobody has met included.
    pub items: u64,
    /// Bytes held now, overhead included.
    pub bytes: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections closed because there were too many.
    pub connections_refused: u64,
}

/// A running server. Dropping it ends it and its connections.
#[derive(Debug)]
pub struct MemcachedServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    /// Owns the connections' tasks.
    acceptor: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    config: MemcachedServerConfig,
    store: Mutex<Store>,
    started: Instant,
    connections: AtomicU64,
    connections_refused: AtomicU64,
    permits: Arc<Semaphore>,
}

impl MemcachedServer {
    /// Listens on `addr` (port 0: any free one) with the default limits.
    pub async fn start(addr: impl ToSocketAddrs) -> io::Result<Self> {
        Self::start_with(addr, MemcachedServerConfig::default()).await
    }

    /// Listens on `addr` (port 0: any free one).
    pub async fn start_with(
        addr: impl ToSocketAddrs,
        config: MemcachedServerConfig,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            config,
            store: Mutex::new(Store::new(config)),
            started: Instant::now(),
            connections: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            permits: Arc::new(Semaphore::new(config.max_connections)),
        });
        let acceptor = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            addr,
            shared,
            acceptor,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it counted.
    pub fn stats(&self) -> MemcachedServerStats {
        self.shared.stats()
    }

    /// Forgets every item, as `flush_all` does.
    pub fn clear(&self) {
        self.shared.store.lock().clear();
    }

    /// Ends the connections and stops listening; the port is free afterwards.
    pub async fn shutdown(mut self) {
        self.acceptor.abort();
        // It was aborted, and panics with nobody's work at stake.
        drop((&mut self.acceptor).await);
    }
}

impl Drop for MemcachedServer {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

impl Shared {
    fn stats(&self) -> MemcachedServerStats {
        MemcachedServerStats {
            connections: self.connections.load(Ordering::Relaxed),
            connections_refused: self.connections_refused.load(Ordering::Relaxed),
            ..self.store.lock().stats()
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // As many as there are permits.
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match Arc::clone(&shared.permits).try_acquire_owned() {
                    Ok(permit) => drop(sessions.spawn(serve(stream, Arc::clone(&shared), permit))),
                    Err(_) => refuse(stream, &shared).await,
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            },
            Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>, _permit: OwnedSemaphorePermit) {
    shared.connections.fetch_add(1, Ordering::Relaxed);
    if let Err(error) = session::run(stream, &shared).await {
        tracing::debug!(%error, "connection ended");
    }
}

async fn refuse(mut stream: TcpStream, shared: &Shared) {
    shared.connections_refused.fetch_add(1, Ordering::Relaxed);
    // A fresh socket's buffer takes a line at once; a peer that is gone already needs none.
    drop(stream.write_all(TOO_MANY_CONNECTIONS).await);
}
