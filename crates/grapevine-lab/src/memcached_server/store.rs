//! The items: values with client flags, a CAS number, an end, and memcached's stale mark.
//!
//! An item marked stale is still found; the first to find it is told to replace it (*won*), the others that somebody
//! does. A set replaces the item and with it the mark. Expiry times are memcached's: 0 for never, below 0 for at once, up
//! to thirty days relative, above as Unix time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use grapevine_cache::{BoundedMap, BoundedMapLimits};
use tokio::time::Instant;

use super::{MemcachedServerConfig, MemcachedServerStats};

const RELATIVE_SECONDS_MAX: i64 = 60 * 60 * 24 * 30;

/// Ends further away than this are never: ten years.
const FAR_AWAY: Duration = Duration::from_hours(10 * 365 * 24);

#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) value: Bytes,
    pub(super) flags: u32,
    pub(super) cas: u64,
    stale: bool,
    won: bool,
}

/// What a look-up found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) item: Item,
    /// Whole seconds left, `None` for no end.
    pub(super) seconds_left: Option<u64>,
    /// The item is stale.
    pub(super) stale: bool,
    /// It is stale, and this is the first look-up since: the one to replace it.
    pub(super) won: bool,
}

/// When to store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    Always,
    Absent,
    Present,
    Cas(u64),
}

/// A value to store.
#[derive(Debug, Clone)]
pub(super) struct New {
    pub(super) value: Bytes,
    pub(super) flags: u32,
    pub(super) exptime: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SetOutcome {
    /// Stored, with this CAS number.
    Done(u64),
    /// The condition does not hold.
    Declined,
    OtherCas,
    NotFound,
    /// It is larger than everything may be together.
    OutOfMemory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChangeOutcome {
    Done,
    NotFound,
    OtherCas,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    Now(u64),
    NotFound,
    NotANumber,
}

#[derive(Debug)]
pub(super) struct Store {
    items: BoundedMap<Item>,
    next_cas: u64,
    flush_at: Option<Instant>,
    stats: MemcachedServerStats,
}

impl Store {
    pub(super) fn new(config: MemcachedServerConfig) -> Self {
        Self {
            items: BoundedMap::new(BoundedMapLimits {
                entries_max: config.max_items,
                bytes_max: config.max_bytes,
            }),
            next_cas: 1,
            flush_at: None,
            stats: MemcachedServerStats::default(),
        }
    }

    pub(super) fn stats(&self) -> MemcachedServerStats {
        MemcachedServerStats {
            evictions: self.items.evictions(),
            items: as_u64(self.items.len()),
            bytes: as_u64(self.items.bytes()),
            ..self.stats
        }
    }

    /// `claims`: whether finding a stale item makes this look-up the one to replace it; classic reads know nothing of it.
    pub(super) fn get(&mut self, key: &[u8], claims: bool, now: Instant) -> Option<Found> {
        self.stats.gets += 1;
        self.flush_when_due(now);
        let expires = self.items.expires(key, now)?;
        let item = self.items.get_mut(key, now)?;
        self.stats.hits += 1;
        let found = Found {
            stale: item.stale,
            won: item.stale && !item.won,
            seconds_left: expires.map(|end| (end - now).as_secs()),
            item: item.clone(),
        };
        item.won |= item.stale && claims;
        Some(found)
    }

    pub(super) fn set(
        &mut self,
        key: &[u8],
        new: New,
        condition: Condition,
        now: Instant,
    ) -> SetOutcome {
        self.flush_when_due(now);
        let present = self.items.get_mut(key, now).map(|item| item.cas);
        match (condition, present) {
            (Condition::Absent, Some(_)) | (Condition::Present, None) => {
                return SetOutcome::Declined;
            }
            (Condition::Cas(_), None) => return SetOutcome::NotFound,
            (Condition::Cas(expected), Some(cas)) if cas != expected => {
                return SetOutcome::OtherCas;
            }
            _ => {}
        }
        self.stats.sets += 1;
        let cas = self.next_cas();
        let size_bytes = new.value.len();
        let item = Item {
            value: new.value,
            flags: new.flags,
            cas,
            stale: false,
            won: false,
        };
        match self
            .items
            .insert(key, item, size_bytes, end_of(new.exptime, now), now)
        {
            Ok(()) => SetOutcome::Done(cas),
            Err(_) => SetOutcome::OutOfMemory,
        }
    }

    /// A value that cannot be stored takes the old one with it: better none than one that was to be replaced.
    pub(super) fn forget_replaced(&mut self, key: &[u8], now: Instant) {
        self.items.remove(key, now);
    }

    pub(super) fn delete(&mut self, key: &[u8], cas: Option<u64>, now: Instant) -> ChangeOutcome {
        let changed = self.check(key, cas, now);
        if changed == ChangeOutcome::Done {
            self.items.remove(key, now);
        }
        self.count_delete(changed)
    }

    /// Marks the item stale; `exptime` gives it another end.
    pub(super) fn mark_stale(
        &mut self,
        key: &[u8],
        cas: Option<u64>,
        exptime: Option<i64>,
        now: Instant,
    ) -> ChangeOutcome {
        let changed = self.check(key, cas, now);
        if changed == ChangeOutcome::Done {
            let new_cas = self.next_cas();
            if let Some(item) = self.items.get_mut(key, now) {
                item.stale = true;
                item.won = false;
                item.cas = new_cas;
            }
            if let Some(exptime) = exptime {
                self.items.set_expires(key, end_of(exptime, now), now);
            }
        }
        self.count_delete(changed)
    }

    pub(super) fn touch(&mut self, key: &[u8], exptime: i64, now: Instant) -> bool {
        self.flush_when_due(now);
        self.items.set_expires(key, end_of(exptime, now), now)
    }

    /// `incr` wraps, `decr` stops at zero.
    pub(super) fn count(&mut self, key: &[u8], delta: u64, up: bool, now: Instant) -> Counted {
        self.flush_when_due(now);
        let Some(expires) = self.items.expires(key, now) else {
            return Counted::NotFound;
        };
        let Some(item) = self.items.get_mut(key, now) else {
            return Counted::NotFound;
        };
        let Some(old) = super::frame::number::<u64>(&item.value) else {
            return Counted::NotANumber;
        };
        let number = if up {
            old.wrapping_add(delta)
        } else {
            old.saturating_sub(delta)
        };
        let mut item = item.clone();
        item.value = number.to_string().into();
        item.cas = self.next_cas();
        let size_bytes = item.value.len();
        // It takes the place of a number, so that it fits is all but certain; if not, the counter is gone.
        match self.items.insert(key, item, size_bytes, expires, now) {
            Ok(()) => Counted::Now(number),
            Err(_) => Counted::NotFound,
        }
    }

    pub(super) fn clear(&mut self) {
        self.items.clear();
    }

    pub(super) fn flush_after(&mut self, delay_seconds: u32, now: Instant) {
        if delay_seconds == 0 {
            self.clear();
        } else {
            self.flush_at = Some(now + Duration::from_secs(delay_seconds.into()));
        }
    }

    fn flush_when_due(&mut self, now: Instant) {
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush_at = None;
            self.clear();
        }
    }

    fn check(&mut self, key: &[u8], cas: Option<u64>, now: Instant) -> ChangeOutcome {
        self.flush_when_due(now);
        match self.items.get_mut(key, now) {
            None => ChangeOutcome::NotFound,
            Some(item) if cas.is_some_and(|cas| cas != item.cas) => ChangeOutcome::OtherCas,
            Some(_) => ChangeOutcome::Done,
        }
    }

    fn count_delete(&mut self, changed: ChangeOutcome) -> ChangeOutcome {
        match changed {
            ChangeOutcome::Done => self.stats.deletes += 1,
            ChangeOutcome::NotFound => self.stats.delete_misses += 1,
            ChangeOutcome::OtherCas => {}
        }
        changed
    }

    fn next_cas(&mut self) -> u64 {
        self.next_cas += 1;
        self.next_cas - 1
    }
}

pub(super) fn as_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn end_of(exptime: i64, now: Instant) -> Option<Instant> {
    let seconds = match exptime {
        0 => return None,
        1..=RELATIVE_SECONDS_MAX => exptime,
        i64::MIN..0 => 0,
        absolute => absolute.saturating_sub(unix_seconds()).max(0),
    };
    let left = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    (left <= FAR_AWAY).then(|| now + left)
}

pub(super) fn unix_seconds() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
