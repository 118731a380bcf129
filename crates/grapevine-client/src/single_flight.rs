//! Single flight: of the callers in this process that miss the same value at the same moment, one computes it.
//!
//! A flight belongs to a key, and the key holds the token: callers meet only when their look-ups knew the same bumps, so
//! a caller never gets a value whose read began before an invalidation that its own look-up had seen (G3).
//!
//! The right to compute is a semaphore's single permit. Who gets it leads. When the leader has a result it *publishes*:
//! the result is set and the semaphore closed, which wakes all waiters at once. When the leader goes without one (it
//! panicked, or its caller was cancelled), its permit comes free and the next waiter leads with its own function: nobody
//! hangs, nobody needs to be told. A published flight stays in the table until its leader has stored the value, so that
//! callers who come in that moment are served too.
//!
//! One caller can still fall between: it missed in the cache, then the leader stored, finished and was removed, then the
//! caller joined and leads a new flight. Counts of finished flights, in slots by key, tell it to look into the cache
//! once more. The table holds one entry per key that somebody is waiting for: it is bounded by the callers.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Slots of finished flights. More make it rarer that another key's flight costs a second look into the cache.
const SLOTS: usize = 1_024;
/// Parts of the table, each with its lock.
const SHARDS: usize = 16;

/// The flights under way.
pub(crate) struct Flights<K, R> {
    shards: Vec<Mutex<HashMap<K, Entry<R>>>>,
    finished: Vec<AtomicU32>,
    hasher: RandomState,
}

struct Entry<R> {
    flight: Arc<Flight<R>>,
    /// Participants that hold on to it; the last one removes it.
    held_by: usize,
}

struct Flight<R> {
    turn: Semaphore,
    /// How many have led so far.
    leaders: AtomicU32,
    result: OnceLock<R>,
}

/// How often flights of a key's slot had finished at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Finished(u32);

/// A caller's part in a flight. It ends, for everybody's good, when it is dropped.
pub(crate) struct Seat<'a, K: Hash + Eq + Clone, R: Clone> {
    flights: &'a Flights<K, R>,
    key: K,
    flight: Arc<Flight<R>>,
}

/// What waiting for one's turn came to.
pub(crate) enum Turn<'a, K: Hash + Eq + Clone, R: Clone> {
    /// The caller is to compute.
    Lead(Lead<'a, K, R>),
    /// Another one has computed.
    Follow(R),
}

/// The right to compute. Dropped without a published result, it passes to the next waiter.
pub(crate) struct Lead<'a, K: Hash + Eq + Clone, R: Clone> {
    seat: &'a Seat<'a, K, R>,
    _permit: SemaphorePermit<'a>,
    after_another: bool,
    published: bool,
}

impl<K: Hash + Eq + Clone, R: Clone> Flights<K, R> {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(HashMap::new())).collect(),
            finished: (0..SLOTS).map(|_| AtomicU32::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }

    /// To be taken before the look into the cache, and compared after joining.
    pub(crate) fn finished(&self, key: &K) -> Finished {
        Finished(self.slot(key).load(Ordering::Acquire))
    }

    /// Takes a seat in the key's flight, the first one or the next.
    pub(crate) fn sit(&self, key: K) -> Seat<'_, K, R> {
        let mut shard = self.shard(&key).lock();
        let entry = shard.entry(key.clone()).or_insert_with(|| Entry {
            flight: Arc::new(Flight {
                turn: Semaphore::new(1),
                leaders: AtomicU32::new(0),
                result: OnceLock::new(),
            }),
            held_by: 0,
        });
        entry.held_by += 1;
        let flight = Arc::clone(&entry.flight);
        Seat {
            flights: self,
            key,
            flight,
        }
    }

    fn hash(&self, key: &K) -> usize {
        let hash = self.hasher.hash_one(key);
        usize::try_from(hash & 0xffff_ffff).expect("invariant: 32 bits fit")
    }

    fn shard(&self, key: &K) -> &Mutex<HashMap<K, Entry<R>>> {
        &self.shards[self.hash(key) % SHARDS]
    }

    fn slot(&self, key: &K) -> &AtomicU32 {
        &self.finished[(self.hash(key) / SHARDS) % SLOTS]
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

impl<K: Hash + Eq + Clone, R: Clone> Seat<'_, K, R> {
    /// Waits until there is a result or nobody else computes one.
    pub(crate) async fn turn(&self) -> Turn<'_, K, R> {
        match self.flight.turn.acquire().await {
            Ok(permit) => Turn::Lead(Lead {
                seat: self,
                _permit: permit,
                after_another: self.flight.leaders.fetch_add(1, Ordering::Relaxed) > 0,
                published: false,
            }),
            Err(_closed) => {
                let result = self.flight.result.get();
                Turn::Follow(
                    result
                        .expect("invariant: the result is set before the flight is closed")
                        .clone(),
                )
            }
        }
    }
}

impl<K: Hash + Eq + Clone, R: Clone> Lead<'_, K, R> {
    /// Whether another leader went without a result.
    pub(crate) fn after_another(&self) -> bool {
        self.after_another
    }

    /// Whether a flight of this key may have finished since `before`: its value may be in the cache.
    pub(crate) fn others_finished_since(&self, before: Finished) -> bool {
        self.seat.flights.finished(&self.seat.key) != before
    }

    /// Hands the result to everybody who waits, and to those who come until this is dropped.
    pub(crate) fn publish(&mut self, result: R) {
        if self.seat.flight.result.set(result).is_ok() {
            self.published = true;
            self.seat.flight.turn.close();
        }
    }
}

impl<K: Hash + Eq + Clone, R: Clone> Drop for Lead<'_, K, R> {
    fn drop(&mut self) {
        if !self.published {
            return;
        }
        let Seat {
            flights,
            key,
            flight,
        } = self.seat;
        let mut shard = flights.shard(key).lock();
        if shard
            .get(key)
            .is_some_and(|entry| Arc::ptr_eq(&entry.flight, flight))
        {
            shard.remove(key);
        }
        flights.slot(key).fetch_add(1, Ordering::AcqRel);
    }
}

impl<K: Hash + Eq + Clone, R: Clone> Drop for Seat<'_, K, R> {
    fn drop(&mut self) {
        let mut shard = self.flights.shard(&self.key).lock();
        let Some(entry) = shard.get_mut(&self.key) else {
            return;
        };
        if !Arc::ptr_eq(&entry.flight, &self.flight) {
            return;
        }
        entry.held_by -= 1;
        if entry.held_by == 0 {
            shard.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    type Test = Flights<&'static str, u32>;

    #[tokio::test]
    async fn the_first_leads_and_the_others_get_its_result() {
        let flights = Arc::new(Test::new());
        let seat = flights.sit("k");
        let Turn::Lead(mut lead) = seat.turn().await else {
            panic!("nobody else is there");
        };
        let waiters: Vec<_> = (0..1_000)
            .map(|_| {
                let flights = Arc::clone(&flights);
                tokio::spawn(async move {
                    let seat = flights.sit("k");
                    match seat.turn().await {
                        Turn::Lead(_) => None,
                        Turn::Follow(result) => Some(result),
                    }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        lead.publish(7);
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), Some(7));
        }
        let before = flights.finished(&"k");
        drop(lead);
        drop(seat);
        assert_eq!(flights.len(), 0);
        assert_ne!(flights.finished(&"k"), before);
    }

    #[tokio::test]
    async fn a_leader_that_goes_passes_its_turn_on() {
        let flights = Test::new();
        let (first, second, third) = (flights.sit("k"), flights.sit("k"), flights.sit("k"));
        let Turn::Lead(lead) = first.turn().await else {
            panic!("nobody else is there");
        };
        assert!(!lead.after_another());
        drop(lead);
        drop(first);
        let Turn::Lead(mut lead) = second.turn().await else {
            panic!("the first one went");
        };
        assert!(lead.after_another());
        lead.publish(8);
        assert!(matches!(third.turn().await, Turn::Follow(8)));
        drop(lead);
        drop((second, third));
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn seats_given_up_leave_nothing_behind() {
        let flights = Test::new();
        let before = flights.finished(&"k");
        drop((flights.sit("k"), flights.sit("k")));
        assert_eq!(flights.len(), 0);
        assert_eq!(flights.finished(&"k"), before);
    }

    #[tokio::test]
    async fn a_new_flight_beside_a_finished_one_is_kept_apart() {
        let flights = Test::new();
        let (first, follower) = (flights.sit("k"), flights.sit("k"));
        let Turn::Lead(mut lead) = first.turn().await else {
            panic!("nobody else is there");
        };
        let before = flights.finished(&"k");
        lead.publish(1);
        drop(lead);
        let late = flights.sit("k");
        drop((first, follower));
        assert_eq!(flights.len(), 1);
        let Turn::Lead(lead) = late.turn().await else {
            panic!("the first flight is over");
        };
        assert!(lead.others_finished_since(before));
    }
}
