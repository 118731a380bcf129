//! Virtual time, and a cache that does what a test tells it: up, down, hanging, or failing some keys.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use grapevine_cache::{CacheError, DeleteOutcome, Hit};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::*;
use crate::purge::Attempt;
use crate::telemetry::Counter;

const MINUTE: Duration = Duration::from_mins(1);

/// How a scripted cache answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Up,
    /// Fails at once.
    Down,
    /// Takes so long, then succeeds.
    Slow(Duration),
    /// Takes so long, then fails.
    Hanging(Duration),
    /// Succeeds for keys that end in an even digit.
    Half,
    /// Every second call fails.
    Flapping,
    /// Every call panics.
    Panics,
}

#[derive(Debug)]
struct Scripted {
    manner: Mutex<Manner>,
    held: Mutex<BTreeSet<String>>,
    stale: Mutex<BTreeSet<String>>,
    calls: Mutex<Vec<(Instant, usize)>>,
    in_flight: AtomicUsize,
    in_flight_max: AtomicUsize,
}

impl Scripted {
    fn new(manner: Manner) -> Arc<Self> {
        Arc::new(Self {
            manner: Mutex::new(manner),
            held: Mutex::default(),
            stale: Mutex::default(),
            calls: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            in_flight_max: AtomicUsize::new(0),
        })
    }

    fn hold(&self, addresses: &[Address]) {
        self.held
            .lock()
            .extend(addresses.iter().map(ToString::to_string));
    }

    fn become_(&self, manner: Manner) {
        *self.manner.lock() = manner;
    }

    fn calls(&self) -> usize {
        self.calls.lock().len()
    }

    async fn answer(&self, keys: &[String], mode: PurgeMode) -> DeleteOutcome {
        let number = {
            let mut calls = self.calls.lock();
            calls.push((Instant::now(), keys.len()));
            calls.len()
        };
        let now_in_flight = 1 + self.in_flight.fetch_add(1, Ordering::SeqCst);
        self.in_flight_max
            .fetch_max(now_in_flight, Ordering::SeqCst);
        let manner = *self.manner.lock();
        if let Manner::Slow(time) | Manner::Hanging(time) = manner {
            sleep(time).await;
        }
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        assert!(
            manner != Manner::Panics,
            "the cache panics, as the test wants it"
        );
        let mut outcome = DeleteOutcome::default();
        for key in keys {
            let fails = match manner {
                Manner::Up | Manner::Slow(_) => false,
                Manner::Down | Manner::Hanging(_) | Manner::Panics => true,
                Manner::Half => !key.ends_with(['0', '2', '4', '6', '8']),
                Manner::Flapping => number % 2 == 1,
            };
            if fails {
                outcome.failed.push(key.clone());
                outcome.cause = Some(CacheError::TimedOut {
                    server: "scripted".to_owned(),
                    after: Duration::ZERO,
                });
            } else if mode == PurgeMode::Soft && self.held.lock().contains(key) {
                self.stale.lock().insert(key.clone());
                outcome.deleted += 1;
            } else if self.held.lock().remove(key) {
                outcome.deleted += 1;
            } else {
                outcome.absent += 1;
            }
        }
        outcome
    }
}

#[async_trait]
impl Cache for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn target(&self) -> &'static str {
        "nowhere"
    }

    async fn get_even_stale(&self, _key: &str) -> Result<Option<Hit>, CacheError> {
        Ok(None)
    }

    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Bytes>>, CacheError> {
        Ok(vec![None; keys.len()])
    }

    async fn set(&self, key: &str, _value: Bytes, _ttl: Duration) -> Result<(), CacheError> {
        self.held.lock().insert(key.to_owned());
        Ok(())
    }

    async fn delete_many(&self, keys: &[String]) -> DeleteOutcome {
        self.answer(keys, PurgeMode::Hard).await
    }

    async fn mark_stale_many(&self, keys: &[String]) -> DeleteOutcome {
        self.answer(keys, PurgeMode::Soft).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_there_is_deleted_and_the_first_attempt_is_told() {
    let cache = Scripted::new(Manner::Up);
    let there = addresses("a", 1_500);
    cache.hold(&there);
    let (purger, counters) = purger(vec![cache.clone()], |config| config.batch_max = 500);
    let all = [there, addresses("absent", 7)].concat();
    let attempt = purger.submit(job(all)).first_attempt().await;
    let expected = Attempt {
        purged: 1_500,
        absent: 7,
        ..Attempt::default()
    };
    assert_eq!(attempt, expected);
    assert_eq!(cache.calls(), 4, "three full batches and a rest");
    assert!(cache.held.lock().is_empty());
    assert_eq!(counters.get(Counter::PurgeDeleted), 1_500);
    assert_eq!(counters.get(Counter::PurgeAbsent), 7);
    assert_eq!(purger.backlog(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn without_caches_and_without_addresses_nothing_is_waited_for() {
    let (purger_of_none, _) = purger(Vec::new(), |_| {});
    let attempt = purger_of_none
        .submit(job(addresses("a", 3)))
        .first_attempt()
        .await;
    assert_eq!(attempt, Attempt::default());
    let (purger, _) = purger(vec![Scripted::new(Manner::Up)], |_| {});
    assert_eq!(
        purger.submit(job(Vec::new())).first_attempt().await,
        Attempt::default()
    );
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_is_down_gets_the_deletes_when_it_is_back() {
    let cache = Scripted::new(Manner::Down);
    let there = addresses("a", 100);
    cache.hold(&there);
    let (purger, counters) = purger(vec![cache.clone()], |_| {});
    let attempt = purger.submit(job(there)).first_attempt().await;
    assert_eq!((attempt.purged, attempt.pending), (0, 100));
    assert_eq!(purger.backlog(), (0, 100));
    sleep(MINUTE).await;
    assert_eq!(purger.backlog(), (0, 100), "it is not forgotten");
    cache.become_(Manner::Up);
    // The longest pause is ten seconds.
    settled(&purger, Duration::from_secs(11)).await;
    assert!(cache.held.lock().is_empty());
    assert_eq!(counters.get(Counter::PurgeDeleted), 100);
    assert!(counters.get(Counter::PurgeRetried) >= 200);
    assert_eq!(
        counters.get(Counter::PurgeFailed),
        counters.get(Counter::PurgeRetried)
    );
}

#[tokio::test(start_paused = true)]
async fn pauses_between_attempts_grow_to_their_bound() {
    let cache = Scripted::new(Manner::Down);
    let (purger, _) = purger(vec![cache.clone()], |config| {
        config.retry_interval_min = Duration::from_millis(100);
        config.retry_interval_max = Duration::from_secs(5);
    });
    let _ = purger.submit(job(addresses("a", 10)));
    sleep(MINUTE).await;
    let times: Vec<Instant> = cache.calls.lock().iter().map(|(time, _)| *time).collect();
    let pauses: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (index, pause) in pauses.iter().enumerate() {
        let full = Duration::from_millis(100 << index.min(6)).min(Duration::from_secs(5));
        let slack = Duration::from_millis(2);
        assert!(
            *pause + slack >= full / 2 && *pause <= full + slack,
            "{index}: {pause:?} of {full:?}"
        );
    }
    // 6.3 s until the bound is reached, then one every 2.5 to 5 s; all ten addresses in each.
    assert!((15..=36).contains(&times.len()), "{}", times.len());
    assert!(cache.calls.lock().iter().all(|(_, keys)| *keys == 10));
}

#[tokio::test(start_paused = true)]
async fn only_what_failed_is_tried_again() {
    let cache = Scripted::new(Manner::Half);
    let there = addresses("a", 10);
    cache.hold(&there);
    let (purger, _) = purger(vec![cache.clone()], |_| {});
    let attempt = purger.submit(job(there)).first_attempt().await;
    assert_eq!((attempt.purged, attempt.pending), (5, 5));
    cache.become_(Manner::Up);
    settled(&purger, MINUTE).await;
    assert!(cache.held.lock().is_empty());
    let sizes: Vec<usize> = cache.calls.lock().iter().map(|(_, keys)| *keys).collect();
    assert_eq!(sizes, [10, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_flapping_cache_loses_nothing() {
    let cache = Scripted::new(Manner::Flapping);
    let there = addresses("a", 5_000);
    cache.hold(&there);
    let (purger, _) = purger(vec![cache.clone()], |config| config.batch_max = 10);
    for part in there.chunks(7) {
        let _ = purger.submit(job(part.to_vec()));
    }
    settled(&purger, 10 * MINUTE).await;
    assert!(cache.held.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hanging_cache_delays_nobody_beyond_the_deadline_and_calls_stay_bounded() {
    let cache = Scripted::new(Manner::Hanging(Duration::from_secs(5)));
    let there = addresses("a", 100);
    cache.hold(&there);
    let (purger, _) = purger(vec![cache.clone()], |config| {
        config.batch_max = 10;
        config.concurrency = 4;
    });
    let begun = Instant::now();
    let attempt = purger
        .submit(job(there.clone()))
        .first_attempt_within(Duration::from_secs(1))
        .await;
    assert_eq!(begun.elapsed(), Duration::from_secs(1));
    assert_eq!((attempt.purged, attempt.pending), (0, 100));
    sleep(MINUTE).await;
    // New deletes still get through beside the retries: the second half of the calls is theirs.
    cache.become_(Manner::Slow(Duration::from_millis(100)));
    let fresh = purger.submit(job(addresses("b", 10)));
    let attempt = fresh.first_attempt_within(Duration::from_secs(6)).await;
    assert_eq!((attempt.absent, attempt.pending), (10, 0));
    settled(&purger, MINUTE).await;
    assert!(cache.held.lock().is_empty());
    assert_eq!(cache.in_flight_max.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn a_delete_is_given_up_when_its_value_has_ended() {
    let cache = Scripted::new(Manner::Down);
    let (purger, counters) = purger(vec![cache.clone()], |_| {});
    let living = |name, count, seconds| Job {
        lifetime: Duration::from_secs(seconds),
        ..job(addresses(name, count))
    };
    let _ = purger.submit(living("a", 3, 20));
    let _ = purger.submit(living("b", 4, 90));
    sleep(Duration::from_secs(10)).await;
    assert_eq!(counters.get(Counter::PurgeExpired), 0);
    // An expired one leaves at its next turn, at most ten seconds later.
    sleep(Duration::from_secs(21)).await;
    assert_eq!(counters.get(Counter::PurgeExpired), 3);
    sleep(MINUTE + Duration::from_secs(11)).await;
    assert_eq!(counters.get(Counter::PurgeExpired), 7);
    assert_eq!(purger.backlog(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn g10_the_retry_set_is_bounded_and_what_gives_way_is_counted() {
    let cache = Scripted::new(Manner::Down);
    let old = addresses("old", 100);
    let new = addresses("new", 100);
    cache.hold(&[old.clone(), new.clone()].concat());
    let (purger, counters) = purger(vec![cache.clone()], |config| {
        config.retry_addresses_max = 100;
    });
    let _ = purger.submit(job(old.clone())).first_attempt().await;
    let attempt = purger.submit(job(new)).first_attempt().await;
    assert_eq!(attempt.pending, 100);
    assert_eq!(purger.backlog().1, 100);
    assert_eq!(counters.get(Counter::PurgeExpired), 100);
    cache.become_(Manner::Up);
    settled(&purger, MINUTE).await;
    let left = cache.held.lock().clone();
    let expected: BTreeSet<String> = old.iter().map(ToString::to_string).collect();
    assert_eq!(left, expected, "the oldest gave way");
}

#[tokio::test(start_paused = true)]
async fn g10_a_full_queue_refuses_counts_and_answers() {
    let cache = Scripted::new(Manner::Slow(Duration::from_secs(1)));
    let (purger, counters) = purger(vec![cache.clone()], |config| {
        config.queue_addresses_max = 50;
        config.batch_max = 10;
        config.concurrency = 2;
    });
    // A list larger than the queue is taken whole: its memory is there already.
    let large = purger.submit(job(addresses("a", 60)));
    let refused = purger.submit(job(addresses("b", 5)));
    let attempt = refused.first_attempt().await;
    assert_eq!((attempt.dropped, attempt.pending), (5, 0));
    assert_eq!(counters.get(Counter::PurgeDropped), 5);
    assert_eq!(large.first_attempt().await.absent, 60);
    let attempt = purger.submit(job(addresses("b", 5))).first_attempt().await;
    assert_eq!((attempt.dropped, attempt.absent), (0, 5));
}

#[tokio::test(start_paused = true)]
async fn every_cache_gets_every_delete_whatever_the_others_do() {
    let up = Scripted::new(Manner::Up);
    let down = Scripted::new(Manner::Down);
    let there = addresses("a", 30);
    up.hold(&there);
    down.hold(&there);
    let (purger, _) = purger(vec![up.clone(), down.clone()], |_| {});
    let attempt = purger.submit(job(there)).first_attempt().await;
    assert_eq!((attempt.purged, attempt.pending), (30, 30));
    assert!(up.held.lock().is_empty());
    assert_eq!(up.calls(), 1);
    down.become_(Manner::Up);
    settled(&purger, MINUTE).await;
    assert!(down.held.lock().is_empty());
    assert_eq!(up.calls(), 1, "the one that was up is left alone");
}

#[tokio::test(start_paused = true)]
async fn a_soft_purge_marks_and_a_hard_one_of_the_same_address_wins() {
    let cache = Scripted::new(Manner::Up);
    let there = addresses("a", 4);
    cache.hold(&there);
    let (purger, _) = purger(vec![cache.clone()], |_| {});
    let soft = |addresses| Job {
        mode: PurgeMode::Soft,
        ..job(addresses)
    };
    assert_eq!(
        purger
            .submit(soft(there.clone()))
            .first_attempt()
            .await
            .purged,
        4
    );
    assert_eq!((cache.stale.lock().len(), cache.held.lock().len()), (4, 4));
    cache.stale.lock().clear();
    cache.become_(Manner::Down);
    let _ = purger
        .submit(job(there[..2].to_vec()))
        .first_attempt()
        .await;
    let _ = purger.submit(soft(there)).first_attempt().await;
    assert_eq!(purger.backlog().1, 4);
    cache.become_(Manner::Up);
    settled(&purger, MINUTE).await;
    let held: Vec<String> = cache.held.lock().iter().cloned().collect();
    assert_eq!(held, ["a2", "a3"]);
    assert_eq!(cache.stale.lock().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn shutting_down_finishes_what_can_be_finished_within_its_bound() {
    let cache = Scripted::new(Manner::Slow(Duration::from_secs(1)));
    let there = addresses("a", 10);
    cache.hold(&there);
    let (purger_up, _) = purger(vec![cache.clone()], |_| {});
    let submission = purger_up.submit(job(there));
    assert_eq!(purger_up.shutdown(Duration::from_secs(5)).await, 0);
    assert_eq!(submission.first_attempt().await.purged, 10);

    let (purger_down, _) = purger(vec![Scripted::new(Manner::Down)], |_| {});
    let first = purger_down.submit(job(addresses("a", 10)));
    let begun = Instant::now();
    assert_eq!(purger_down.shutdown(Duration::from_secs(5)).await, 10);
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    assert_eq!(first.first_attempt().await.pending, 10);
    let late = purger_down
        .submit(job(addresses("b", 1)))
        .first_attempt()
        .await;
    assert_eq!(late, Attempt::default());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_panics_is_tried_again_and_takes_no_place_for_ever() {
    let cache = Scripted::new(Manner::Panics);
    let there = addresses("a", 100);
    cache.hold(&there);
    let (purger, counters) = purger(vec![cache.clone()], |config| {
        config.batch_max = 10;
        config.concurrency = 2;
    });
    let attempt = purger.submit(job(there)).first_attempt_within(MINUTE).await;
    assert_eq!((attempt.purged, attempt.pending), (0, 100));
    assert_eq!(
        purger.backlog(),
        (0, 100),
        "nothing waits for a first attempt"
    );
    assert!(counters.get(Counter::PurgeFailed) >= 100);
    cache.become_(Manner::Up);
    settled(&purger, MINUTE).await;
    assert!(cache.held.lock().is_empty());
    assert_eq!(purger.shutdown(Duration::from_secs(1)).await, 0);
}
