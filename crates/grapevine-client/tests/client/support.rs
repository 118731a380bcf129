//! What the tests share: clients with patient deadlines, a cache that can be told to misbehave, conditions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use grapevine_cache::{Cache, CacheError, DeleteOutcome, Hit, MemoryCache, MemoryConfig};
use grapevine_client::{CachedClient, Client, ClientBuilder};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::fake::Fake;

/// Longer than any machine under test load needs, so that only what must be awaited is.
pub(crate) const PATIENT: Duration = Duration::from_secs(20);

/// A client whose deadlines do not fire on a busy machine.
pub(crate) fn patient(endpoint: &str) -> ClientBuilder {
    Client::builder(endpoint)
        .resolve_deadline(PATIENT)
        .commit_deadline(PATIENT)
        .call_deadline(PATIENT)
        .invalidate_slack(PATIENT)
        .backoff(Duration::from_millis(1), Duration::from_millis(20))
}

/// A sidecar, a cache and a client of both.
pub(crate) struct Setup {
    pub(crate) fake: Fake,
    pub(crate) cache: Arc<MoodyCache>,
    pub(crate) cached: CachedClient,
}

pub(crate) fn setup() -> Setup {
    setup_with(|builder| builder)
}

pub(crate) fn setup_with(change: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Setup {
    let fake = Fake::unix();
    let cache = Arc::new(MoodyCache::new());
    let client = change(patient(&fake.endpoint)).build().unwrap();
    let cached = CachedClient::new(client, Arc::clone(&cache) as _);
    Setup {
        fake,
        cache,
        cached,
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENT;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// From now on this test's clock moves only when it is told to (`tokio::time::advance`): deadlines are then exact, however
/// busy the machine is. Left to itself a paused clock jumps whenever nothing can run, also while an answer is on its way
/// from the sidecar, whose runtime is another one; so one task keeps running.
pub(crate) fn stop_the_clock() {
    tokio::time::pause();
    tokio::spawn(async {
        loop {
            tokio::task::yield_now().await;
        }
    });
}

/// [`until`], for a clock that stands.
pub(crate) async fn until_soon(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENT;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::task::yield_now().await;
    }
}

/// The in-process cache, which can be made to fail and to hold its writes back.
pub(crate) struct MoodyCache {
    inner: MemoryCache,
    pub(crate) fails: AtomicBool,
    /// When set, a write waits for a permit.
    pub(crate) write_permits: Mutex<Option<Arc<Semaphore>>>,
    /// Writes that have come to that point.
    pub(crate) writes_begun: AtomicU64,
    pub(crate) ttls: Mutex<Vec<Duration>>,
    /// TTLs are rounded as memcached rounds them, to whole ones of these but to one at least.
    pub(crate) ttl_grain: Mutex<Duration>,
}

impl MoodyCache {
    fn new() -> Self {
        Self {
            inner: MemoryCache::new(MemoryConfig::default()),
            fails: AtomicBool::new(false),
            write_permits: Mutex::default(),
            writes_begun: AtomicU64::new(0),
            ttls: Mutex::default(),
            ttl_grain: Mutex::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.inner.len()
    }

    fn mood(&self) -> Result<(), CacheError> {
        // An ill-formed key is the simplest real error to come by.
        if self.fails.load(Ordering::SeqCst) {
            return Err(grapevine_cache::check_key("").unwrap_err());
        }
        Ok(())
    }
}

#[async_trait]
impl Cache for MoodyCache {
    fn name(&self) -> &'static str {
        "moody"
    }

    fn target(&self) -> &'static str {
        "a test"
    }

    fn ttl_grain(&self) -> Duration {
        *self.ttl_grain.lock()
    }

    async fn get_even_stale(&self, key: &str) -> Result<Option<Hit>, CacheError> {
        self.mood()?;
        self.inner.get_even_stale(key).await
    }

    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Bytes>>, CacheError> {
        self.mood()?;
        self.inner.get_many(keys).await
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), CacheError> {
        self.mood()?;
        let permits = self.write_permits.lock().clone();
        self.writes_begun.fetch_add(1, Ordering::SeqCst);
        if let Some(permits) = permits {
            permits.acquire().await.unwrap().forget();
        }
        self.ttls.lock().push(ttl);
        let grain = self.ttl_grain();
        let kept = match ttl.as_nanos().checked_div(grain.as_nanos()) {
            None => ttl,
            Some(grains) => grain * u32::try_from(grains).unwrap().max(1),
        };
        self.inner.set(key, value, kept).await
    }

    async fn delete_many(&self, keys: &[String]) -> DeleteOutcome {
        self.inner.delete_many(keys).await
    }

    async fn mark_stale_many(&self, keys: &[String]) -> DeleteOutcome {
        self.inner.mark_stale_many(keys).await
    }
}
