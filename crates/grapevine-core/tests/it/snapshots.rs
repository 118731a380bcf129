//! Fills that read inside a database snapshot which is older than their look-up (G3, race 3 of the design).

use std::time::Duration;

use grapevine_core::id::Incarnation;
use grapevine_core::lease::ReadSnapshot;
use grapevine_core::machine::effects::{
    CondemnReason, Filling, LeaseClaim, Query, Resolution, SnapshotClaim, Verdict,
};
use grapevine_core::policy::{Pattern, Policy, PolicySet, Strategy};
use grapevine_core::versions::Stamp;

use crate::world::{World, address, class};

const LEASE: Duration = Duration::from_secs(20);
const TTL: Duration = Duration::from_secs(40);
/// Of every strategy that bumps concern.
const FENCED: [&str; 3] = ["v/1/x", "r/1/x", "b/1/x"];

fn world() -> World {
    let policy = |pattern: &str, strategy| Policy {
        pattern: Pattern::parse(pattern).unwrap(),
        strategy,
        ttl: TTL,
        jitter_percent: 0,
        ..Policy::fallback()
    };
    let list = vec![
        policy("v/**", Strategy::Versioned),
        policy("r/**", Strategy::Registered),
        policy("b/**", Strategy::Bucketed(8)),
        policy("t/**", Strategy::Ttl),
    ];
    let policies = PolicySet::new(list, Policy::fallback()).unwrap();
    World::running_with(3, |config| config.policies = policies.clone())
}

impl World {
    fn open(&self, at: usize) -> ReadSnapshot {
        self.core(at).open_snapshot(LEASE, self.now)
    }

    fn inside(&self, at: usize, snapshot: SnapshotClaim, path: &str) -> Resolution {
        let query = Query {
            address: address("x"),
            classes: vec![class(path)],
            slice: None,
        };
        let core = self.core(at);
        core.resolve_in(snapshot, &query, self.now, 0).unwrap()
    }

    fn commit_inside(&mut self, at: usize, path: &str, resolution: &Resolution) -> Verdict {
        let claim = LeaseClaim::Lease(resolution.lease);
        let call = self.register(at, "x", &[path], claim);
        self.settle();
        self.verdict(at, call).unwrap()
    }

    fn bumped(&mut self, at: usize, path: &str) {
        self.invalidate(at, &[path]);
        self.settle();
    }
}

const BUMPED: Verdict = Verdict::Condemned(CondemnReason::Bumped);
const UNKNOWN: Verdict = Verdict::Condemned(CondemnReason::LeaseUnknown);

#[test]
fn g3_what_an_old_snapshot_shows_is_not_stored_under_a_newer_token() {
    for path in FENCED {
        let (top, _) = path.split_once('/').unwrap();
        for (bumped, by, concerns) in [
            (path.to_owned(), 0, true),
            (path.to_owned(), 1, true),
            (format!("{top}/1"), 2, true),
            ("*".to_owned(), 1, true),
            (format!("{top}/2"), 1, false),
            (format!("{path}/below"), 1, false),
        ] {
            let mut world = world();
            // Opened; the database's snapshot begins; a write becomes visible outside of it and is bumped; the fill looks up.
            let snapshot = SnapshotClaim::Snapshot(world.open(0));
            let before = world.token(0, &[path]);
            world.bumped(by, &bumped);
            let inside = world.inside(0, snapshot, path);
            assert_eq!(
                inside.filling == Filling::Forbidden,
                concerns,
                "{path}: {bumped}"
            );
            // The token is the present one: a hit is as good as outside.
            let outside = world.inside(0, SnapshotClaim::Absent, path);
            assert_eq!(inside.token, outside.token);
            assert_eq!(inside.targets, outside.targets);
            assert_eq!(before != outside.token, concerns);
            let verdict = world.commit_inside(0, path, &inside);
            assert_eq!(verdict == BUMPED, concerns, "{path}: {verdict:?}");
            // The control: without the snapshot the same fill is accepted, under the present token.
            assert!(outside.filling != Filling::Forbidden);
            let control = world.commit_inside(0, path, &outside);
            assert_eq!(control, Verdict::Accepted(outside.token));
        }
    }
}

#[test]
fn g3_a_bump_after_the_look_up_condemns_as_it_does_outside_of_snapshots() {
    for path in FENCED {
        let mut world = world();
        let snapshot = SnapshotClaim::Snapshot(world.open(0));
        let inside = world.inside(0, snapshot, path);
        assert!(inside.filling != Filling::Forbidden);
        world.bumped(1, path);
        assert_ne!(world.token(0, &[path]), inside.token);
        assert_eq!(world.commit_inside(0, path, &inside), BUMPED);
        // What the fill found to matter, too.
        let inside = world.inside(0, snapshot, "v/other");
        assert!(inside.filling != Filling::Forbidden);
        let claim = LeaseClaim::Lease(inside.lease);
        let call = world.register(0, "x", &["v/other", path], claim);
        world.settle();
        assert_eq!(world.verdict(0, call), Some(BUMPED));
    }
}

#[test]
fn g3_a_snapshot_that_says_nothing_here_forbids_fills_and_fails_no_read() {
    let mut world = world();
    let snapshot = world.open(0);
    let foreign = ReadSnapshot {
        incarnation: Incarnation::new(0xfe).unwrap(),
        ..snapshot
    };
    let of_the_future = ReadSnapshot {
        stamp: Stamp(u64::MAX),
        ..snapshot
    };
    let claims = [foreign, of_the_future, world.open(1)].map(SnapshotClaim::Snapshot);
    for claim in claims.into_iter().chain([SnapshotClaim::Malformed]) {
        for path in ["v/1", "r/1", "b/1", "t/1"] {
            let inside = world.inside(0, claim, path);
            assert!(
                inside.filling == Filling::Forbidden && !inside.bypass,
                "{path}: {claim:?}"
            );
            assert_eq!(inside.token, world.token(0, &[path]));
            assert!(inside.lease_duration.is_zero());
            assert_eq!(world.commit_inside(0, path, &inside), UNKNOWN);
        }
    }
    let known = world.inside(0, SnapshotClaim::Snapshot(snapshot), "v/1");
    assert!(known.filling != Filling::Forbidden);
    // A run before.
    world.crash(0);
    world.start(0);
    world.connect_all();
    world.converge().unwrap();
    assert!(
        world
            .inside(0, SnapshotClaim::Snapshot(snapshot), "v/1")
            .filling
            == Filling::Forbidden
    );
}

#[test]
fn g3_leases_end_with_the_snapshot_and_its_age_is_taken_off_the_time_to_live() {
    let mut world = world();
    let snapshot = world.open(0);
    let claim = SnapshotClaim::Snapshot(snapshot);
    for at in 0..4 {
        let spent = Duration::from_secs(5) * at;
        for path in ["v/1", "t/1"] {
            let inside = world.inside(0, claim, path);
            assert!(inside.filling != Filling::Forbidden);
            assert_eq!(inside.lease.ends, snapshot.ends);
            assert_eq!(inside.lease_duration, LEASE.saturating_sub(spent));
            assert_eq!(
                inside.ttl,
                TTL.saturating_sub(spent),
                "a value is as old as the snapshot"
            );
        }
        world.advance(Duration::from_secs(5));
        world.settle();
    }
    assert!(
        world.inside(0, claim, "v/1").filling == Filling::Forbidden,
        "it is over"
    );
    // One that holds for longer than a value may live.
    let core = world.core(0);
    let long = core.open_snapshot(TTL * 2, world.now);
    let none = core.open_snapshot(Duration::ZERO, world.now);
    let lease = world.resolve(0, "x", &["v/1"]).lease;
    assert_eq!(none.ends, lease.ends, "as long as a fill lease");
    for _ in 0..8 {
        let inside = world.inside(0, SnapshotClaim::Snapshot(long), "t/1");
        assert!(inside.filling != Filling::Forbidden);
        world.advance(Duration::from_secs(5));
        world.settle();
    }
    assert!(
        world
            .inside(0, SnapshotClaim::Snapshot(long), "t/1")
            .filling
            == Filling::Forbidden
    );
}

#[test]
fn g3_bumps_do_not_concern_what_lapses() {
    let mut world = world();
    let snapshot = SnapshotClaim::Snapshot(world.open(0));
    world.bumped(0, "t/1");
    assert!(world.inside(0, snapshot, "t/1").filling != Filling::Forbidden);
}
