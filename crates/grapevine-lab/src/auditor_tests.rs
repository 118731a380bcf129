//! That the auditor catches what it should and nothing else: single verdicts first, then whole caches, broken ones and a right one,
//! under one seeded schedule of overlapping reads and writes.

use std::collections::HashMap;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;

const OBJECT: CounterId = CounterId(1);
const GROUP: CounterId = CounterId(2);
const PLAIN: Subject = Subject {
    object: OBJECT,
    group: None,
};
const GROUPED: Subject = Subject {
    object: OBJECT,
    group: Some(GROUP),
};

fn court() -> (Arc<Truth>, Auditor) {
    let truth = Arc::new(Truth::new(1_024));
    let auditor = Auditor::new(Arc::clone(&truth));
    (truth, auditor)
}

fn versions(object: u64, group: u64) -> Versions {
    Versions { object, group }
}

fn ns(age: u64) -> Duration {
    Duration::from_nanos(age)
}

#[test]
fn the_latest_value_is_fresh() {
    let (truth, auditor) = court();
    truth.commit(OBJECT, Moment(10));
    truth.acknowledge(OBJECT, 1);
    let begun = auditor.begin(PLAIN, Promise::Everyone, || Moment(20));
    assert_eq!(auditor.judge(&begun, versions(1, 0)), Verdict::Fresh);
}

#[test]
fn an_old_value_after_the_write_returned_is_stale_with_its_age() {
    let (truth, auditor) = court();
    for at in [10, 20, 30] {
        truth.commit(OBJECT, Moment(at));
    }
    truth.acknowledge(OBJECT, 3);
    let begun = auditor.begin(PLAIN, Promise::Everyone, || Moment(100));
    assert_eq!(
        auditor.judge(&begun, versions(2, 0)),
        Verdict::Stale { age: ns(70) }
    );
    assert_eq!(
        auditor.judge(&begun, versions(0, 0)),
        Verdict::Stale { age: ns(90) }
    );
}

#[test]
fn an_old_value_while_the_write_call_runs_lags_and_is_not_stale() {
    let (truth, auditor) = court();
    truth.commit(OBJECT, Moment(10));
    let begun = auditor.begin(PLAIN, Promise::Everyone, || Moment(25));
    truth.acknowledge(OBJECT, 1);
    assert_eq!(
        auditor.judge(&begun, versions(0, 0)),
        Verdict::Lagging { age: ns(15) }
    );
}

#[test]
fn a_write_committed_after_the_read_began_is_not_held_against_it() {
    let (truth, auditor) = court();
    let begun = auditor.begin(PLAIN, Promise::Everyone, || Moment(5));
    truth.commit(OBJECT, Moment(10));
    truth.acknowledge(OBJECT, 1);
    assert_eq!(auditor.judge(&begun, versions(0, 0)), Verdict::Fresh);
    assert_eq!(auditor.judge(&begun, versions(1, 0)), Verdict::Fresh);
}

#[test]
fn a_value_between_the_promised_and_the_latest_lags() {
    let (truth, auditor) = court();
    truth.commit(OBJECT, Moment(10));
    truth.commit(OBJECT, Moment(20));
    truth.acknowledge(OBJECT, 1);
    let begun = auditor.begin(PLAIN, Promise::Everyone, || Moment(50));
    assert_eq!(
        auditor.judge(&begun, versions(1, 0)),
        Verdict::Lagging { age: ns(30) }
    );
    assert_eq!(
        auditor.judge(&begun, versions(0, 0)),
        Verdict::Stale { age: ns(40) }
    );
}

#[test]
fn a_group_write_makes_the_objects_value_old() {
    let (truth, auditor) = court();
    truth.commit(GROUP, Moment(10));
    truth.acknowledge(GROUP, 1);
    let begun = auditor.begin(GROUPED, Promise::Everyone, || Moment(20));
    assert_eq!(
        auditor.judge(&begun, versions(0, 0)),
        Verdict::Stale { age: ns(10) }
    );
    assert_eq!(auditor.judge(&begun, versions(0, 1)), Verdict::Fresh);
    let ungrouped = auditor.begin(PLAIN, Promise::Everyone, || Moment(20));
    assert_eq!(auditor.judge(&ungrouped, versions(0, 0)), Verdict::Fresh);
}

#[test]
fn a_session_is_owed_its_own_writes_and_no_others() {
    let (truth, auditor) = court();
    let mut past = SessionPast::default();
    past.wrote(OBJECT, truth.commit(OBJECT, Moment(10)));
    truth.commit(OBJECT, Moment(20));
    truth.acknowledge(OBJECT, 2);
    let begun = auditor.begin(PLAIN, Promise::Session(&past), || Moment(30));
    assert_eq!(
        auditor.judge(&begun, versions(0, 0)),
        Verdict::Stale { age: ns(20) }
    );
    assert_eq!(
        auditor.judge(&begun, versions(1, 0)),
        Verdict::Lagging { age: ns(10) }
    );
    let nothing = SessionPast::default();
    let begun = auditor.begin(PLAIN, Promise::Session(&nothing), || Moment(30));
    assert!(matches!(
        auditor.judge(&begun, versions(0, 0)),
        Verdict::Lagging { .. }
    ));
}

#[test]
fn with_no_promise_nothing_is_stale_and_the_age_still_counts() {
    let (truth, auditor) = court();
    truth.commit(OBJECT, Moment(1_000));
    truth.acknowledge(OBJECT, 1);
    let begun = auditor.begin(PLAIN, Promise::Nobody, || Moment(61_000));
    assert_eq!(
        auditor.judge(&begun, versions(0, 0)),
        Verdict::Lagging { age: ns(60_000) }
    );
}

#[test]
fn a_version_that_nobody_wrote_is_told_apart() {
    let (truth, auditor) = court();
    truth.commit(OBJECT, Moment(1));
    let begun = auditor.begin(PLAIN, Promise::Everyone, || Moment(2));
    assert_eq!(auditor.judge(&begun, versions(2, 0)), Verdict::Ahead);
}

#[test]
fn a_tally_counts_stale_reads_as_lagging_too() {
    let mut tally = Tally::default();
    tally.count(Verdict::Fresh);
    tally.count(Verdict::Lagging { age: ns(5) });
    let mut other = Tally::default();
    other.count(Verdict::Stale { age: ns(50) });
    other.count(Verdict::Ahead);
    tally.merge(&other);
    assert_eq!(
        (tally.reads, tally.stale, tally.lagging, tally.ahead),
        (4, 1, 2, 1)
    );
    assert_eq!((tally.age.total(), tally.oldest()), (2, ns(50)));
}

/// What is right or wrong with a cache of the schedule below.
#[derive(Clone, Copy, PartialEq)]
enum Cache {
    /// A write deletes the entry before it returns; a fill is stored only if no write was told since the fill's read.
    Right,
    /// Fills are stored whatever was told since.
    Unfenced,
    /// Nobody tells it of a write.
    Untold,
    /// A write returns first and is told some steps later.
    ToldLate,
    /// It is never asked.
    Bypassed,
}

enum Step {
    /// A read: asks the cache, then perhaps the source.
    Look(Begun, CounterId),
    /// A fill on its way: the value, and the writes told when it was read.
    Store(Begun, CounterId, Versions, u64),
    /// A write that is committed and not yet told to the cache.
    Tell(CounterId, u64),
}

/// Runs reads and writes of 20 objects in small steps that a seed interleaves; at most 12 are under way at a time.
fn run(kind: Cache, seed: u64) -> (Tally, u64) {
    let (truth, auditor) = court();
    let mut random = SmallRng::seed_from_u64(seed);
    let (mut tally, mut hits) = (Tally::default(), 0);
    let mut cache = HashMap::<CounterId, Versions>::new();
    let mut told = HashMap::<CounterId, u64>::new();
    let mut under_way: Vec<Step> = Vec::new();
    let subject = |object| Subject {
        object,
        group: None,
    };
    let objects: Vec<CounterId> = (0..20).map(CounterId).collect();
    for moment in 0..40_000_u64 {
        let now = Moment(moment * 1_000);
        if under_way.len() < 12 {
            let object = *objects.choose(&mut random).unwrap();
            if random.random_bool(0.07) {
                let version = truth.commit(object, now);
                if matches!(kind, Cache::ToldLate | Cache::Untold) {
                    truth.acknowledge(object, version);
                }
                under_way.push(Step::Tell(object, version));
            } else {
                let begun = auditor.begin(subject(object), Promise::Everyone, || now);
                under_way.push(Step::Look(begun, object));
            }
            continue;
        }
        match under_way.swap_remove(random.random_range(0..under_way.len())) {
            Step::Look(begun, object) => {
                if let Some(shown) = cache.get(&object).filter(|_| kind != Cache::Bypassed) {
                    hits += 1;
                    tally.count(auditor.judge(&begun, *shown));
                } else {
                    let stamp = told.get(&object).copied().unwrap_or(0);
                    let value = truth.committed(subject(object));
                    under_way.push(Step::Store(begun, object, value, stamp));
                }
            }
            Step::Store(begun, object, value, stamp) => {
                tally.count(auditor.judge(&begun, value));
                if kind == Cache::Unfenced || told.get(&object).copied().unwrap_or(0) == stamp {
                    cache.insert(object, value);
                }
            }
            Step::Tell(object, version) => {
                if kind != Cache::Untold {
                    cache.remove(&object);
                    *told.entry(object).or_default() += 1;
                    truth.acknowledge(object, version);
                }
            }
        }
    }
    (tally, hits)
}

#[test]
fn g3_control_a_fenced_cache_shows_no_stale_read_and_hits() {
    for seed in 0..10 {
        let (tally, hits) = run(Cache::Right, seed);
        assert_eq!((tally.stale, tally.ahead), (0, 0), "seed {seed}");
        assert!(
            hits > tally.reads / 2,
            "seed {seed}: {hits} of {}",
            tally.reads
        );
        assert!(
            tally.lagging > 0,
            "seed {seed}: writes under way must show as lagging reads"
        );
    }
}

#[test]
fn g3_control_deletes_without_a_fence_are_caught() {
    for seed in 0..10 {
        let (tally, _) = run(Cache::Unfenced, seed);
        assert!(tally.stale > 0, "seed {seed}");
    }
}

#[test]
fn control_no_invalidation_is_caught() {
    let (tally, _) = run(Cache::Untold, 1);
    assert!(tally.stale > tally.reads / 2);
}

#[test]
fn control_writes_that_return_before_they_are_told_are_caught() {
    let (tally, _) = run(Cache::ToldLate, 1);
    assert!(tally.stale > 0);
}

#[test]
fn control_never_caching_is_never_stale_and_never_hits() {
    let (tally, hits) = run(Cache::Bypassed, 1);
    assert_eq!((tally.stale, tally.lagging, hits), (0, 0, 0));
}
