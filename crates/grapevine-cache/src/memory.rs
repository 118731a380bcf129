//! The in-process cache: one bounded map behind one lock.
//!
//! It is for tests, for the demo and for small programs. Time is Tokio's, so that a test with paused time controls it.
//! Values are shared, not copied. No operation blocks for longer than the lock is held, which is a map operation.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::bounded::{BoundedMap, BoundedMapLimits};
use crate::key::check_size;
use crate::{Cache, CacheError, DeleteOutcome, Hit, check_key, check_ttl};

/// How large a [`MemoryCache`] may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Most bytes of keys, values and overhead. Raising it costs memory. Default 64 MiB.
    pub max_bytes: usize,
    /// Most entries. Raising it costs memory. Default 1,000,000.
    pub max_entries: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            max_bytes: 64 << 20,
            max_entries: 1_000_000,
        }
    }
}

/// A cache in this process; clones share it.
#[derive(Debug, Clone)]
pub struct MemoryCache {
    entries: Arc<Mutex<BoundedMap<Stored>>>,
    value_bytes_max: usize,
    target: Arc<str>,
}

#[derive(Debug)]
struct Stored {
    value: Bytes,
    stale: bool,
    /// Somebody was already told to compute the new value.
    refill_given: bool,
}

impl MemoryCache {
    /// An empty cache.
    pub fn new(config: MemoryConfig) -> Self {
        let limits = BoundedMapLimits {
            entries_max: config.max_entries,
            bytes_max: config.max_bytes,
        };
        Self {
            entries: Arc::new(Mutex::new(BoundedMap::new(limits))),
            value_bytes_max: BoundedMap::<Stored>::value_bytes_max(limits),
            target: format!("memory, {} bytes", config.max_bytes).into(),
        }
    }

    /// How many entries it holds, expired ones that nobody has met included.
    pub fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// Whether it holds no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.lock().is_empty()
    }

    /// How many live entries had to make room since the start.
    pub fn evictions(&self) -> u64 {
        self.entries.lock().evictions()
    }
}

#[async_trait]
impl Cache for MemoryCache {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn target(&self) -> &str {
        &self.target
    }

    fn ttl_grain(&self) -> Duration {
        Duration::ZERO
    }

    async fn get_even_stale(&self, key: &str) -> Result<Option<Hit>, CacheError> {
        check_key(key)?;
        let mut entries = self.entries.lock();
        Ok(entries
            .get_mut(key.as_bytes(), Instant::now())
            .map(|stored| Hit {
                value: stored.value.clone(),
                stale: stored.stale,
                refill: stored.stale && !std::mem::replace(&mut stored.refill_given, true),
            }))
    }

    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Bytes>>, CacheError> {
        keys.iter().try_for_each(|key| check_key(key))?;
        let now = Instant::now();
        let mut entries = self.entries.lock();
        let mut fresh = |key: &String| {
            let stored = entries.get_mut(key.as_bytes(), now)?;
            (!stored.stale).then(|| stored.value.clone())
        };
        Ok(keys.iter().map(&mut fresh).collect())
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), CacheError> {
        check_key(key)?;
        let ttl = check_ttl(ttl)?;
        let size_bytes = value.len();
        check_size(key, size_bytes, self.value_bytes_max)?;
        let now = Instant::now();
        let stored = Stored {
            value,
            stale: false,
            refill_given: false,
        };
        let mut entries = self.entries.lock();
        entries
            .insert(key.as_bytes(), stored, size_bytes, Some(now + ttl), now)
            .map_err(|_| CacheError::TooLarge {
                key: key.to_owned(),
                size_bytes,
                limit_bytes: self.value_bytes_max,
            })
    }

    async fn delete_many(&self, keys: &[String]) -> DeleteOutcome {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        count(keys, |key| entries.remove(key, now).is_some())
    }

    async fn mark_stale_many(&self, keys: &[String]) -> DeleteOutcome {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        count(keys, |key| {
            entries.get_mut(key, now).is_some_and(|stored| {
                stored.stale = true;
                stored.refill_given = false;
                true
            })
        })
    }
}

fn count(keys: &[String], mut was_there: impl FnMut(&[u8]) -> bool) -> DeleteOutcome {
    let deleted = keys.iter().filter(|key| was_there(key.as_bytes())).count();
    DeleteOutcome {
        deleted,
        absent: keys.len() - deleted,
        ..DeleteOutcome::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_value_ends_with_its_ttl_to_the_millisecond() {
        let cache = MemoryCache::new(MemoryConfig::default());
        cache
            .set("k", "v".into(), Duration::from_millis(1_500))
            .await
            .unwrap();
        tokio::time::advance(Duration::from_millis(1_499)).await;
        assert_eq!(cache.get("k").await.unwrap(), Some("v".into()));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(cache.get("k").await.unwrap(), None);
        assert!(cache.is_empty());
    }

    #[tokio::test]
    async fn g10_more_values_than_fit_evict_and_stay_below_the_limit() {
        let cache = MemoryCache::new(MemoryConfig {
            max_bytes: 100_000,
            max_entries: 50,
        });
        for number in 0..1_000 {
            let value = vec![b'x'; 100 * (number % 40)];
            cache
                .set(&format!("k{number}"), value.into(), Duration::from_mins(1))
                .await
                .unwrap();
        }
        assert!(cache.len() <= 50);
        assert!(cache.entries.lock().bytes() <= 100_000);
        assert!(cache.evictions() >= 950);
        assert!(cache.get("k999").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn one_reader_of_a_stale_value_is_told_to_refill() {
        let cache = MemoryCache::new(MemoryConfig::default());
        cache
            .set("k", "v".into(), Duration::from_mins(1))
            .await
            .unwrap();
        assert_eq!(cache.mark_stale_many(&["k".to_owned()]).await.deleted, 1);
        let first = cache.get_even_stale("k").await.unwrap().unwrap();
        let second = cache.get_even_stale("k").await.unwrap().unwrap();
        assert_eq!((first.stale, first.refill), (true, true));
        assert_eq!((second.stale, second.refill), (true, false));
    }
}
