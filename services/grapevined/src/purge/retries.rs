//! The addresses that a cache is to be asked about again: one entry per address, however often it failed.
//!
//! Entries stand in the order in which they are due, and in the order of their first failure; when there are too many, the
//! oldest in the second order gives way. No clock and no randomness: the lane brings both.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use grapevine_core::event::PurgeMode;
use grapevine_core::names::Address;
use tokio::time::Instant;

/// One address, between attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) address: Address,
    pub(super) mode: PurgeMode,
    /// Not tried any more from here on.
    pub(super) expires: Instant,
    /// How often it was tried.
    pub(super) attempts: u32,
    /// The order of first failures; `None` before the set knew it.
    pub(super) age: Option<u64>,
}

/// What is known of a waiting address.
#[derive(Debug)]
struct Known {
    mode: PurgeMode,
    expires: Instant,
    attempts: u32,
    age: u64,
    due: Instant,
}

/// The set.
#[derive(Debug)]
pub(super) struct Retries {
    known: HashMap<Address, Known>,
    by_due: BTreeMap<(Instant, u64), Address>,
    by_age: BTreeMap<u64, Address>,
    next_age: u64,
    limit: usize,
}

/// What [`Retries::take_due`] took out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// To be tried now, all in one mode.
    pub(super) batch: Vec<Waiting>,
    /// How many others had expired.
    pub(super) expired: usize,
}

impl Retries {
    /// An empty set for at most so many addresses.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            known: HashMap::new(),
            by_due: BTreeMap::new(),
            by_age: BTreeMap::new(),
            next_age: 0,
            limit,
        }
    }

    /// How many addresses wait.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Puts an address back, to be tried at `due`. If it waits already (it was invalidated again while it was being
    /// tried, or while it waited), the earlier of the two times and the harder of the two modes count, and it is wanted
    /// for as long as either wanted it. Says how many were crowded out: 0 or 1.
    pub(super) fn add(&mut self, waiting: Waiting, due: Instant) -> usize {
        match self.known.entry(waiting.address.clone()) {
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                if waiting.mode == PurgeMode::Hard {
                    known.mode = PurgeMode::Hard;
                }
                known.expires = known.expires.max(waiting.expires);
                known.attempts = known.attempts.max(waiting.attempts);
                if due < known.due {
                    self.by_due.remove(&(known.due, known.age));
                    known.due = due;
                    self.by_due.insert((due, known.age), waiting.address);
                }
                0
            }
            Entry::Vacant(entry) => {
                let age = waiting.age.unwrap_or(self.next_age);
                self.next_age = self.next_age.max(age + 1);
                self.by_due.insert((due, age), waiting.address.clone());
                self.by_age.insert(age, waiting.address);
                entry.insert(Known {
                    mode: waiting.mode,
                    expires: waiting.expires,
                    attempts: waiting.attempts,
                    age,
                    due,
                });
                self.crowd_out()
            }
        }
    }

    fn crowd_out(&mut self) -> usize {
        if self.known.len() <= self.limit {
            return 0;
        }
        let (_, oldest) = self
            .by_age
            .pop_first()
            .expect("invariant: every address has an age");
        let known = self
            .known
            .remove(&oldest)
            .expect("invariant: what has an age is known");
        self.by_due.remove(&(known.due, known.age));
        1
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.by_due.first_key_value().map(|((due, _), _)| *due)
    }

    /// Takes out what is due, at most `max` addresses of one mode, and drops what has expired on the way.
    pub(super) fn take_due(&mut self, now: Instant, max: usize) -> Due {
        let mut taken = Due::default();
        while taken.batch.len() < max
            && let Some(entry) = self.by_due.first_entry()
            && entry.key().0 <= now
        {
            let known = &self.known[entry.get()];
            let expired = known.expires <= now;
            if !expired
                && taken
                    .batch
                    .first()
                    .is_some_and(|first| first.mode != known.mode)
            {
                break;
            }
            let address = entry.remove();
            let known = self
                .known
                .remove(&address)
                .expect("invariant: what is due is known");
            self.by_age.remove(&known.age);
            if expired {
                taken.expired += 1;
            } else {
                taken.batch.push(Waiting {
                    address,
                    mode: known.mode,
                    expires: known.expires,
                    attempts: known.attempts,
                    age: Some(known.age),
                });
            }
        }
        taken
    }
}

/// The pause before the attempt that follows `attempts` failed ones: `min`, doubled for each further one up to `max`, less
/// up to half of it. `random` is at least 0 and below 1.
pub(super) fn pause(attempts: u32, min: Duration, max: Duration, random: f64) -> Duration {
    let doublings = attempts.saturating_sub(1).min(31);
    let pause = min.saturating_mul(1 << doublings).min(max);
    pause.mul_f64(1.0 - random / 2.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn waiting(address: &str, mode: PurgeMode, expires: Instant) -> Waiting {
        Waiting {
            address: Address::parse(address).unwrap(),
            mode,
            expires,
            attempts: 1,
            age: None,
        }
    }

    fn names(due: &Due) -> Vec<&str> {
        due.batch
            .iter()
            .map(|waiting| waiting.address.as_str())
            .collect()
    }

    #[test]
    fn addresses_are_taken_when_due_by_mode_and_dropped_when_expired() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut retries = Retries::new(10);
        retries.add(waiting("b", PurgeMode::Hard, at(9)), at(2));
        retries.add(waiting("a", PurgeMode::Hard, at(9)), at(1));
        retries.add(waiting("s", PurgeMode::Soft, at(9)), at(3));
        retries.add(waiting("x", PurgeMode::Hard, at(3)), at(3));
        assert_eq!(retries.next_due(), Some(at(1)));
        assert_eq!(retries.take_due(now, 10), Due::default());
        let due = retries.take_due(at(4), 10);
        assert_eq!(names(&due), ["a", "b"]);
        let due = retries.take_due(at(4), 10);
        assert_eq!((names(&due), due.expired), (vec!["s"], 1));
        assert_eq!((retries.len(), retries.next_due()), (0, None));
        assert!(retries.by_age.is_empty());
    }

    #[test]
    fn one_address_waits_once_and_the_stronger_wish_counts() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut retries = Retries::new(10);
        retries.add(waiting("a", PurgeMode::Soft, at(9)), at(5));
        retries.add(waiting("a", PurgeMode::Hard, at(7)), at(2));
        retries.add(waiting("a", PurgeMode::Soft, at(8)), at(6));
        assert_eq!((retries.len(), retries.next_due()), (1, Some(at(2))));
        let due = retries.take_due(at(2), 10);
        assert_eq!(due.batch[0].mode, PurgeMode::Hard);
        assert_eq!(due.batch[0].expires, at(9));
    }

    #[test]
    fn g10_at_the_limit_the_oldest_gives_way_also_after_it_was_tried_again() {
        let now = Instant::now();
        let later = now + Duration::from_secs(9);
        let mut retries = Retries::new(2);
        assert_eq!(retries.add(waiting("old", PurgeMode::Hard, later), now), 0);
        let tried = retries.take_due(now, 1).batch.remove(0);
        assert_eq!(
            retries.add(waiting("newer", PurgeMode::Hard, later), now),
            0
        );
        assert_eq!(retries.add(tried, now), 0);
        assert_eq!(
            retries.add(waiting("newest", PurgeMode::Hard, later), now),
            1
        );
        assert_eq!(names(&retries.take_due(now, 9)), ["newer", "newest"]);
        assert_eq!((retries.by_age.len(), retries.by_due.len()), (0, 0));
    }

    #[test]
    fn pauses_double_up_to_their_bound_and_jitter_halves_them_at_most() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(10));
        let full = |attempts| pause(attempts, min, max, 0.0);
        assert_eq!(
            [full(0), full(1), full(2), full(3)].map(|d| d.as_millis()),
            [50, 50, 100, 200]
        );
        assert_eq!((full(9), full(u32::MAX)), (max, max));
        assert_eq!(pause(2, min, max, 0.5), Duration::from_millis(75));
    }
}
