//! memcached, Redis and in-process caches behind one trait, for the sidecar's purgers and for clients.
//!
//! A [`Cache`] holds bytes under an address (here: a *key*) until a TTL ends, and may forget them at any moment. Nothing
//! here knows classes, tokens or envelopes: those are the client's. What this crate answers for is the transport:
//!
//! * every operation ends within a stated deadline, and while a server is known to be down it fails at once;
//! * requests of many tasks share few connections, and a cancelled request never hands its answer to another one;
//! * deletes and reads of many keys travel as one pipeline;
//! * every failure is a typed [`CacheError`] that names the server, or the limit and the value that broke it.
//!
//! Open one by URL with [`connect`]; the forms are listed at [`CacheConfig`]. Caches spawn tasks on the Tokio runtime
//! they are opened in, and end them when dropped.

mod backoff;
mod bounded;
mod config;
#[cfg(any(test, feature = "contract-tests"))]
pub mod contract;
mod error;
mod key;
mod memcached;
mod memory;
mod redis_cache;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use bounded::{BoundedMap, BoundedMapLimits};
pub use config::{CacheConfig, ConfigError};
pub use error::{CacheError, KeyProblem};
pub use key::{KEY_BYTES_MAX, TTL_MAX, check_key, check_ttl};
pub use memcached::{MemcachedCache, MemcachedConfig, Placement, ServerAddress};
pub use memory::{MemoryCache, MemoryConfig};
pub use redis_cache::{RedisCache, RedisConfig};

/// A store of bytes by key that may forget.
///
/// Keys obey memcached's rule everywhere (see [`check_key`]): one set of addresses suits every cache. TTLs above
/// [`TTL_MAX`] are shortened to it, a TTL of zero is refused. An implementation may keep a value for less than its TTL
/// and never for longer, with one exception: a cache counts time in [grains](Cache::ttl_grain), a TTL is rounded down to
/// whole ones, and up to one when below that. Who must not have that does not store for less than a grain.
#[async_trait]
pub trait Cache: Send + Sync + 'static {
    /// The kind of cache, for logs and metric labels: `memcached`, `redis` or `memory`.
    fn name(&self) -> &'static str;

    /// Where it is, for people: the servers, without any password.
    fn target(&self) -> &str;

    /// The shortest time that it keeps a value for: memcached counts in whole seconds, Redis in milliseconds. Zero when it
    /// keeps every TTL as it is.
    ///
    /// A TTL that is not below this ends in time, up to a grain early. A cache that does not say is taken to count in
    /// seconds: too coarse a grain costs hits, too fine a one serves what has lapsed.
    fn ttl_grain(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// The value at `key`; `None` when absent, expired or marked stale.
    async fn get(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        let hit = self.get_even_stale(key).await?;
        Ok(hit.filter(|hit| !hit.stale).map(|hit| hit.value))
    }

    /// The value at `key`, also when it was [marked stale](Cache::mark_stale_many): for serving the old value while one
    /// reader computes the new one.
    async fn get_even_stale(&self, key: &str) -> Result<Option<Hit>, CacheError>;

    /// The values at `keys`, in their order, in as few round trips as the cache allows; stale ones are `None`.
    ///
    /// Where several servers hold the keys and some of them fail, their keys count as absent; it is an error only when
    /// no server answered at all, or when a key is malformed.
    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Bytes>>, CacheError>;

    /// Stores `value` at `key` for at most `ttl`, replacing what is there and its stale mark.
    ///
    /// With several replicas it succeeds when at least one stored it.
    async fn set(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), CacheError>;

    /// Deletes `keys`. A failure of some keys does not hinder the others; `failed` lists what to try again.
    ///
    /// A key that breaks the key rule cannot be in the cache and counts as absent.
    async fn delete_many(&self, keys: &[String]) -> DeleteOutcome;

    /// Marks `keys` stale where the cache can (memcached and in-process), else deletes them.
    ///
    /// A stale value is a miss for [`get`](Cache::get) and visible to [`get_even_stale`](Cache::get_even_stale) until
    /// its TTL ends or a new value is set. Marked and deleted alike count as `deleted`.
    async fn mark_stale_many(&self, keys: &[String]) -> DeleteOutcome;
}

/// What [`Cache::get_even_stale`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The stored bytes.
    pub value: Bytes,
    /// It was marked stale: use it only where policy allows an old value.
    pub stale: bool,
    /// Stale, and this caller is the first to see it since it was marked: it is the one to compute the new value.
    pub refill: bool,
}

/// What became of the keys of one [`Cache::delete_many`] or [`Cache::mark_stale_many`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "failed deletes are to be tried again"]
pub struct DeleteOutcome {
    /// How many keys were there and are deleted (or marked stale) now.
    pub deleted: usize,
    /// How many keys were not there.
    pub absent: usize,
    /// The keys whose fate is unknown on at least one server, in the order given.
    pub failed: Vec<String>,
    /// The first failure, when there was one.
    pub cause: Option<CacheError>,
}

impl DeleteOutcome {
    /// Whether no key needs another try.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty()
    }
}

/// Opens the cache that `url` describes; the forms are listed at [`CacheConfig`].
///
/// It does not wait for servers: one that is down makes operations fail until it is back. Must be called inside a Tokio
/// runtime.
pub fn connect(url: &str) -> Result<Arc<dyn Cache>, ConfigError> {
    url.parse::<CacheConfig>()?.open()
}
