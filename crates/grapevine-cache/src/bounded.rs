//! A map bounded in entries and in bytes, whose entries end at a time.
//!
//! When a limit would be passed, the entries least in use make room: keys stand in a queue in the order of their
//! insertion, a use sets a mark, and the entry at the front is dropped when unmarked, else it loses the mark and goes
//! to the back (the clock, or second-chance, algorithm). So a use costs no reordering, and an eviction costs a few steps.
//!
//! Removing or replacing an entry leaves its place in the queue behind; a place whose number is not the entry's current
//! one is skipped, and the queue is swept once it is twice as long as the map. Expired entries go when they are met: by
//! a look-up, or at the front of the queue. The clock is the caller's: every call that needs one is given `now`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

/// What one entry costs beyond its key and value: the map's and the queue's own memory, roughly.
const ENTRY_OVERHEAD_BYTES: usize = 112;

/// The queue is swept when it is longer than this and twice as long as the map.
const SWEEP_ABOVE_PLACES: usize = 64;

/// How much a [`BoundedMap`] may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundedMapLimits {
    /// Most entries. Raising it costs memory.
    pub entries_max: usize,
    /// Most bytes of keys, values and about 112 bytes of overhead for each. Raising it costs memory.
    pub bytes_max: usize,
}

/// A map from byte strings to `V`, bounded in entries and bytes, with an end for each entry.
#[derive(Debug)]
pub struct BoundedMap<V> {
    limits: BoundedMapLimits,
    entries: HashMap<Arc<[u8]>, Entry<V>>,
    places: VecDeque<Place>,
    bytes: usize,
    next_number: u64,
    evictions: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    weight_bytes: usize,
    expires: Option<Instant>,
    number: u64,
    used: bool,
}

#[derive(Debug)]
struct Place {
    key: Arc<[u8]>,
    number: u64,
}

impl<V> Entry<V> {
    fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

impl<V> BoundedMap<V> {
    /// An empty map.
    pub fn new(limits: BoundedMapLimits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            places: VecDeque::new(),
            bytes: 0,
            next_number: 0,
            evictions: 0,
        }
    }

    /// How many entries there are, expired ones that nobody has met included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The bytes held, overhead included; never above the limit.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many unexpired entries had to make room since the start.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// The largest value size (in the sense of [`insert`](Self::insert)) that fits beside a key of the longest length.
    pub fn value_bytes_max(limits: BoundedMapLimits) -> usize {
        limits
            .bytes_max
            .saturating_sub(ENTRY_OVERHEAD_BYTES + crate::KEY_BYTES_MAX)
    }

    /// The live entry at `key`, counted as a use.
    pub fn get_mut(&mut self, key: &[u8], now: Instant) -> Option<&mut V> {
        if self.entries.get(key)?.is_expired(now) {
            self.take(key);
            return None;
        }
        let entry = self.entries.get_mut(key)?;
        entry.used = true;
        Some(&mut entry.value)
    }

    /// Changes when the live entry at `key` ends (`None`: never); says whether there was one.
    pub fn set_expires(&mut self, key: &[u8], expires: Option<Instant>, now: Instant) -> bool {
        if self.get_mut(key, now).is_none() {
            return false;
        }
        if let Some(entry) = self.entries.get_mut(key) {
            entry.expires = expires;
        }
        true
    }

    /// When the live entry at `key` ends: `None` without an entry, `Some(None)` when it does not end.
    pub fn expires(&self, key: &[u8], now: Instant) -> Option<Option<Instant>> {
        let entry = self.entries.get(key)?;
        (!entry.is_expired(now)).then_some(entry.expires)
    }

    /// Puts `value` of `value_bytes` at `key`, replacing what is there and evicting others as needed.
    ///
    /// Gives the value back when it alone is over the limit; the old entry is gone then as well.
    pub fn insert(
        &mut self,
        key: &[u8],
        value: V,
        value_bytes: usize,
        expires: Option<Instant>,
        now: Instant,
    ) -> Result<(), V> {
        self.take(key);
        let weight_bytes = value_bytes.saturating_add(key.len() + ENTRY_OVERHEAD_BYTES);
        if weight_bytes > self.limits.bytes_max || self.limits.entries_max == 0 {
            return Err(value);
        }
        while self.entries.len() >= self.limits.entries_max
            || self.bytes + weight_bytes > self.limits.bytes_max
        {
            self.evict_one(now);
        }
        self.sweep();
        let number = self.next_number;
        self.next_number += 1;
        self.bytes += weight_bytes;
        let key: Arc<[u8]> = key.into();
        self.places.push_back(Place {
            key: Arc::clone(&key),
            number,
        });
        let entry = Entry {
            value,
            weight_bytes,
            expires,
            number,
            used: false,
        };
        self.entries.insert(key, entry);
        Ok(())
    }

    /// Removes the entry at `key`; `None` when there was no live one.
    pub fn remove(&mut self, key: &[u8], now: Instant) -> Option<V> {
        let entry = self.take(key)?;
        (!entry.is_expired(now)).then_some(entry.value)
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.places.clear();
        self.bytes = 0;
    }

    fn take(&mut self, key: &[u8]) -> Option<Entry<V>> {
        let entry = self.entries.remove(key)?;
        self.bytes -= entry.weight_bytes;
        Some(entry)
    }

    fn evict_one(&mut self, now: Instant) {
        let place = self
            .places
            .pop_front()
            .expect("invariant: every entry has a place in the queue");
        let Some(entry) = self.entries.get_mut(&place.key) else {
            return;
        };
        if entry.number != place.number {
            return;
        }
        if entry.used && !entry.is_expired(now) {
            entry.used = false;
            self.places.push_back(place);
            return;
        }
        if !entry.is_expired(now) {
            self.evictions += 1;
        }
        self.take(&place.key);
    }

    fn sweep(&mut self) {
        if self.places.len() <= SWEEP_ABOVE_PLACES || self.places.len() / 2 <= self.entries.len() {
            return;
        }
        let entries = &self.entries;
        self.places.retain(|place| {
            entries
                .get(&place.key)
                .is_some_and(|entry| entry.number == place.number)
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use super::*;

    fn map(entries_max: usize, bytes_max: usize) -> BoundedMap<u32> {
        BoundedMap::new(BoundedMapLimits {
            entries_max,
            bytes_max,
        })
    }

    #[test]
    fn the_entry_not_used_makes_room() {
        let now = Instant::now();
        let mut map = map(3, 1 << 20);
        for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
            map.insert(key.as_bytes(), value, 4, None, now).unwrap();
        }
        map.get_mut(b"a", now).unwrap();
        map.insert(b"d", 4, 4, None, now).unwrap();
        assert!(map.get_mut(b"a", now).is_some());
        assert!(map.get_mut(b"b", now).is_none());
        assert_eq!((map.len(), map.evictions()), (3, 1));
    }

    #[test]
    fn bytes_stay_below_the_limit_whatever_is_done() {
        let now = Instant::now();
        let mut map = map(1_000, 20_000);
        let mut state = 7_u64;
        for step in 0..20_000_u32 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let key = format!("k{}", (state >> 33) % 300);
            match (state >> 13) % 4 {
                0 => drop(map.remove(key.as_bytes(), now)),
                1 => drop(map.get_mut(key.as_bytes(), now)),
                _ => map
                    .insert(
                        key.as_bytes(),
                        step,
                        usize::try_from((state >> 40) % 900).unwrap(),
                        None,
                        now,
                    )
                    .unwrap(),
            }
            assert!(map.bytes() <= 20_000);
            assert!(map.places.len() <= 2 * map.len() + SWEEP_ABOVE_PLACES + 1);
        }
        let weights: usize = map.entries.values().map(|entry| entry.weight_bytes).sum();
        assert_eq!(weights, map.bytes());
        map.clear();
        assert_eq!((map.len(), map.bytes()), (0, 0));
    }

    #[test]
    fn a_value_over_the_limit_is_given_back_and_evicts_nobody_else() {
        let now = Instant::now();
        let mut map = map(10, 1_000);
        map.insert(b"small", 1, 10, None, now).unwrap();
        map.insert(b"big", 2, 10, None, now).unwrap();
        assert_eq!(map.insert(b"big", 3, 5_000, None, now), Err(3));
        assert!(map.get_mut(b"big", now).is_none());
        assert!(map.get_mut(b"small", now).is_some());
    }

    #[test]
    fn entries_end_at_their_time_and_not_before() {
        let now = Instant::now();
        let mut map = map(10, 10_000);
        let end = now + Duration::from_secs(5);
        map.insert(b"k", 1, 1, Some(end), now).unwrap();
        assert_eq!(map.expires(b"k", now), Some(Some(end)));
        assert!(map.get_mut(b"k", end - Duration::from_nanos(1)).is_some());
        assert!(map.set_expires(b"k", Some(end + Duration::from_secs(1)), now));
        assert!(map.get_mut(b"k", end).is_some());
        assert!(map.get_mut(b"k", end + Duration::from_secs(1)).is_none());
        assert!(map.is_empty());
        assert!(!map.set_expires(b"k", None, now));
    }
}
