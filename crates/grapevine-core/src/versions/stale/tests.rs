#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::event::Floor;
use crate::id::Incarnation;
use crate::vector::VersionVector;
use crate::versions::bucket_of;

const WINDOW: Duration = Duration::from_secs(5);
const AT: Time = Time::from_start(Duration::from_secs(1_000));

fn class(path: &str) -> ClassPath {
    ClassPath::parse(path).unwrap()
}

fn id(origin: u128, sequence: u64) -> EventId {
    let origin = Incarnation::new(origin).unwrap();
    EventId { origin, sequence }
}

fn vector(entries: &[(u128, u64)]) -> VersionVector {
    let entries = entries.iter();
    entries
        .map(|(origin, sequence)| (id(*origin, *sequence).origin, *sequence))
        .collect()
}

/// Versions with the tokens that a value of two classes may carry.
struct Known(Versions);

impl Known {
    /// One soft bump of `cart/13` was applied, the second event of the first run. With it what is told stale for it.
    fn soft() -> (Self, Token) {
        let mut known = Self(Versions::new());
        let before = known.0.token(&Self::of(), None);
        known.apply(id(1, 2), &["cart/13"], PurgeMode::Soft);
        assert_eq!(known.stale(AT), [before]);
        (known, before)
    }

    fn of() -> [ClassPath; 2] {
        [class("cart/13"), class("list/1")]
    }

    fn apply(&mut self, id: EventId, paths: &[&str], purge: PurgeMode) {
        let bump = Bump {
            classes: paths.iter().map(|path| class(path)).collect(),
            matching: Match::Any,
            purge,
        };
        self.0.keep_stale(id, &bump, WINDOW, AT);
        self.0.apply_bump(id, &bump);
    }

    fn stale(&self, now: Time) -> Vec<Token> {
        self.0.stale_tokens(&Self::of(), WINDOW, now)
    }
}

#[test]
fn g3_a_state_that_was_taken_over_ends_stale_serving() {
    // What a peer's state holds may be a hard bump: another run's, or one that the soft bump overtook here, which changes no
    // token.
    for hidden in [(2, 1), (1, 2)] {
        let (mut known, _) = Known::soft();
        let anchor = class("cart/13");
        known.0.join_part(&anchor, &[], &vector(&[hidden]));
        assert_eq!(known.stale(AT), [], "{hidden:?}");
    }
    // The same with a conjunction that the soft bump covers already.
    let (mut known, _) = Known::soft();
    let anchor = class("cart/13");
    let others = [class("list/1")];
    assert!(!known.0.join_part(&anchor, &others, &vector(&[(1, 1)])));
    assert_eq!(known.stale(AT), []);
}

#[test]
fn g3_an_eviction_ends_stale_serving() {
    let (mut known, before) = Known::soft();
    let floor = |bucket| Floor {
        top: class("cart"),
        bucket,
        vector: vector(&[(2, 1)]),
    };
    // Its run has not applied the soft bump, so that what was kept and what holds differ under it, too.
    known.0.apply_floor(id(2, 1), &floor(bucket_of("cart/13")));
    assert_eq!(known.stale(AT), []);
    assert_ne!(known.0.token(&Known::of(), None), before, "G2");
}

#[test]
fn g7_a_window_ends_when_it_is_over_and_not_when_something_else_happens() {
    let (known, before) = Known::soft();
    let almost = WINDOW.checked_sub(Duration::from_nanos(1)).unwrap();
    assert_eq!(known.stale(AT.plus(almost)), [before]);
    assert_eq!(known.stale(AT.plus(WINDOW)), []);
    let brief = Duration::from_secs(1);
    let tokens = known.0.stale_tokens(&Known::of(), brief, AT.plus(brief));
    assert_eq!(tokens, [], "a policy's own window counts");
}

#[test]
fn g7_a_soft_bump_that_a_later_one_overtook_takes_no_place() {
    let (mut known, first) = Known::soft();
    let second = known.0.token(&Known::of(), None);
    for sequence in [4, 3] {
        known.apply(id(1, sequence), &["cart/13"], PurgeMode::Soft);
    }
    assert_eq!(known.stale(AT), [second, first]);
}

#[test]
fn g10_what_is_kept_is_bounded_in_each_class_and_in_all() {
    let (mut known, _) = Known::soft();
    for sequence in 3..10 {
        known.apply(id(1, sequence), &["cart/13"], PurgeMode::Soft);
    }
    assert_eq!(known.0.stale.count, GENERATIONS_PER_CLASS_MAX);
    let many = u64::try_from(GENERATIONS_MAX).unwrap();
    for sequence in 10..many + 1_000 {
        let path = format!("item/{sequence}");
        known.apply(id(1, sequence), &[&path], PurgeMode::Soft);
    }
    let kept = &known.0.stale;
    assert_eq!(kept.count, GENERATIONS_MAX);
    assert!(kept.ages.len() <= 2 * GENERATIONS_MAX);
    let held: usize = kept.by_class.values().map(Vec::len).sum();
    assert_eq!(held, GENERATIONS_MAX);
    assert_eq!(known.stale(AT), [], "the oldest go first");
}

#[test]
fn g10_a_class_of_too_many_runs_is_not_kept() {
    let (mut known, _) = Known::soft();
    let runs = u128::try_from(GENERATION_ENTRIES_MAX).unwrap();
    for run in 2..=runs + 1 {
        known.apply(id(run, 1), &["cart/13"], PurgeMode::Soft);
    }
    assert_ne!(known.stale(AT), [], "as many as there may be");
    known.apply(id(runs + 2, 1), &["cart/13"], PurgeMode::Soft);
    assert_eq!(known.stale(AT), []);
}
