//! Fills from a source that lags behind what bumps announce (race 13 of the design).

use std::time::Duration;

use grapevine_core::machine::effects::{
    CondemnReason, Filling, Freshness, LeaseClaim, Query, Resolution, SnapshotClaim, Verdict,
};
use grapevine_core::policy::{LagRule, Pattern, Policy, PolicySet, Strategy};

use crate::world::{World, address, class};

const LAG: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(10);

fn world() -> World {
    let policy = |pattern: &str, strategy, on_source_lag| Policy {
        pattern: Pattern::parse(pattern).unwrap(),
        strategy,
        source_lag: LAG,
        on_source_lag,
        ..Policy::fallback()
    };
    let list = vec![
        policy("n/**", Strategy::Registered, LagRule::NoStore),
        policy("p/**", Strategy::Registered, LagRule::Primary),
        policy("v/**", Strategy::Versioned, LagRule::NoStore),
        policy("t/**", Strategy::Ttl, LagRule::NoStore),
    ];
    let policies = PolicySet::new(list, Policy::fallback()).unwrap();
    World::running_with(2, |config| config.policies = policies.clone())
}

impl World {
    fn looked_up(&self, at: usize, snapshot: SnapshotClaim, path: &str) -> (Resolution, Filling) {
        let query = Query {
            address: address("x"),
            classes: vec![class(path)],
            slice: None,
        };
        let resolution = self.core(at).resolve_in(snapshot, &query, self.now, 0);
        let resolution = resolution.unwrap();
        let says = resolution.filling;
        (resolution, says)
    }

    fn says(&self, at: usize, path: &str) -> Filling {
        self.looked_up(at, SnapshotClaim::Absent, path).1
    }

    fn commit_filled(&mut self, classes: &[&str], resolution: &Resolution) -> Verdict {
        let call = self.register(0, "x", classes, LeaseClaim::Lease(resolution.lease));
        self.settle();
        self.verdict(0, call).unwrap()
    }
}

/// Within the lag after a bump, wherever that was called for, fills store nothing or are sent to the primary; afterwards all is as
/// ever. Nobody else is concerned.
#[test]
fn g3_fills_within_the_source_lag_of_a_bump_are_not_from_a_replica() {
    let mut world = world();
    world.advance(LAG + STEP);
    let paths = ["n/1", "p/1", "v/1", "t/1", "n/2", "q/1"];
    let says = |world: &World| paths.map(|path| world.says(0, path));
    let calm = [Filling::Free; 6];
    assert_eq!(says(&world), calm);
    for (path, concerned) in [("n/1", 0), ("p", 1), ("v/1", 2)] {
        world.invalidate(1, &[path]);
        world.settle();
        let bumped = world.now;
        let mut expected = calm;
        expected[concerned] = [Filling::Forbidden, Filling::Primary, Filling::Forbidden][concerned];
        while world.now.since(bumped) <= LAG {
            assert_eq!(says(&world), expected, "{path}");
            world.advance(STEP);
        }
        assert_eq!(says(&world), calm, "{path}");
    }
}

/// Who stores all the same is condemned, and so is a value of which a class changed lately that was found on the way only.
#[test]
fn g3_a_fill_from_a_lagging_source_is_condemned() {
    let mut world = world();
    world.advance(LAG + STEP);
    world.invalidate(0, &["n/1"]);
    world.settle();
    let (lagging, says) = world.looked_up(0, SnapshotClaim::Absent, "n/1");
    assert_eq!(says, Filling::Forbidden);
    assert!(lagging.stale.is_empty());
    let verdict = world.commit_filled(&["n/1"], &lagging);
    assert_eq!(verdict, Verdict::Condemned(CondemnReason::Bumped));
    let (other, says) = world.looked_up(0, SnapshotClaim::Absent, "n/2");
    assert_eq!(says, Filling::Free);
    let verdict = world.commit_filled(&["n/2", "n/1"], &other);
    assert_eq!(verdict, Verdict::Condemned(CondemnReason::Bumped));
    let verdict = world.commit_filled(&["n/2", "n/3"], &other);
    assert!(matches!(verdict, Verdict::Accepted(_)), "{verdict:?}");
    // From the primary everything is current.
    world.invalidate(0, &["p/1"]);
    world.settle();
    let (primary, says) = world.looked_up(0, SnapshotClaim::Absent, "p/1");
    assert_eq!(says, Filling::Primary);
    let verdict = world.commit_filled(&["p/1", "n/1"], &primary);
    assert!(matches!(verdict, Verdict::Accepted(_)), "{verdict:?}");
}

/// A database snapshot of a source that lags shows what had been committed as long before it was opened, however long ago that
/// is.
#[test]
fn g3_a_database_snapshot_of_a_lagging_source_is_as_old_as_its_source() {
    let mut world = world();
    world.advance(LAG + STEP);
    world.invalidate(0, &["n/1"]);
    world.settle();
    world.advance(LAG / 2);
    let open = |world: &World| {
        let snapshot = world.core(0).open_snapshot(Duration::ZERO, world.now);
        SnapshotClaim::Snapshot(snapshot)
    };
    let early = open(&world);
    world.advance(LAG + STEP);
    let late = open(&world);
    for _ in 0..3 {
        assert_eq!(world.looked_up(0, early, "n/1").1, Filling::Forbidden);
        assert_eq!(world.looked_up(0, early, "n/2").1, Filling::Free);
        let (fill, says) = world.looked_up(0, late, "n/1");
        assert_eq!(says, Filling::Free);
        let verdict = world.commit_filled(&["n/1"], &fill);
        assert!(matches!(verdict, Verdict::Accepted(_)), "{verdict:?}");
        world.advance(LAG + STEP);
    }
}

/// What was applied before a start may have been applied just before it, and until it has caught up a sidecar cannot say what
/// was: for a lag after that fills store nothing, or read the primary and are stored. What a look-up says holds for its
/// commit.
#[test]
fn g11_after_a_start_every_class_may_lag() {
    let mut world = world();
    world.advance(LAG + STEP);
    world.invalidate(0, &["n/1"]);
    world.settle();
    world.advance(LAG * 2);
    world.crash(0);
    world.start(0);
    let started = world.now;
    let mut caught_up = None;
    let mut seen = [0; 2];
    while world.now.since(started) < LAG * 4 {
        if world.now.since(started) == LAG / 2 {
            world.connect_all();
        }
        world.settle();
        let catching_up = matches!(world.core(0).freshness(world.now), Freshness::CatchingUp(_));
        if !catching_up {
            caught_up.get_or_insert(world.now);
        }
        for path in ["n/1", "n/2", "p/1"] {
            let (resolution, says) = world.looked_up(0, SnapshotClaim::Absent, path);
            let lags = caught_up.is_none_or(|at| world.now.since(at) <= LAG);
            let expected = match (path, lags) {
                (_, false) => Filling::Free,
                ("p/1", true) => Filling::Primary,
                _ => Filling::Forbidden,
            };
            assert_eq!(says, expected, "{path} at {:?}", world.now);
            // A database snapshot that begins now shows no more than that.
            let snapshot = world.core(0).open_snapshot(Duration::ZERO, world.now);
            let snapshot = SnapshotClaim::Snapshot(snapshot);
            let (inside, told) = world.looked_up(0, snapshot, path);
            let forbidden = if lags {
                Filling::Forbidden
            } else {
                Filling::Free
            };
            assert_eq!(told, forbidden, "{path} at {:?}", world.now);
            if resolution.bypass {
                continue;
            }
            for (resolution, says) in [(resolution, says), (inside, told)] {
                let stored = world.commit_filled(&[path], &resolution);
                let accepted = matches!(stored, Verdict::Accepted(_));
                assert_eq!(accepted, says != Filling::Forbidden, "{path}: {stored:?}");
            }
            seen[usize::from(lags)] += 1;
        }
        world.advance(STEP);
    }
    assert!(seen.iter().all(|times| *times > 10), "{seen:?}");
}
