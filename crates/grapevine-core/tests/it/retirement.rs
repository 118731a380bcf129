//! Runs that are over are retired: they are followed no more, and what they bumped stays bumped.

use std::time::Duration;

use grapevine_core::event::{Bump, BumpEvent, Floor, Match, PurgeMode};
use grapevine_core::id::{EventId, Incarnation, Lane};
use grapevine_core::machine::effects::{Freshness, Input, PeerMessage, Span};
use grapevine_core::progress::{LaneProgress, OriginHead};
use grapevine_core::vector::VersionVector;
use grapevine_core::versions::bucket_of;

use crate::world::{World, class};

/// Longer than a run must have been over, and twice as long as the pause between two looks.
const LONG: Duration = Duration::from_millis(250);

fn retiring(size: usize) -> World {
    World::running_with(size, |config| {
        config.limits.old_runs_max = 0;
        config.retire_after = Duration::from_millis(200);
        config.member_timeout = Duration::from_secs(5);
    })
}

fn restart(world: &mut World, at: usize) {
    world.crash(at);
    world.start(at);
    world.connect_all();
    world.converge().unwrap();
}

/// Lets time pass in which runs are retired.
fn wait(world: &mut World) {
    for _ in 0..6 {
        world.advance(LONG);
        world.settle();
    }
    world.converge().unwrap();
}

fn name(world: &World, at: usize) -> Incarnation {
    world.core(at).roster().history.unwrap().as_retirements()
}

fn retired_up_to(world: &World, at: usize) -> u64 {
    let lane = world.core(at).progress().lane(name(world, at), Lane::Bump);
    lane.map_or(0, LaneProgress::watermark)
}

fn bump(path: &str) -> BumpEvent {
    BumpEvent::Bump(Bump {
        classes: vec![class(path)],
        matching: Match::Any,
        purge: PurgeMode::Hard,
    })
}

/// Gives a node events of a run as if a linked peer had passed them on.
fn pass_on(world: &mut World, at: usize, from: usize, first: EventId, event: BumpEvent) {
    let from = world.incarnation(from);
    let message = PeerMessage::Bumps {
        origin: first.origin,
        first: first.sequence,
        events: vec![event.into()],
    };
    world.input(at, Input::Peer { from, message });
}

#[test]
fn g12_runs_that_are_over_are_retired_everywhere_and_tokens_agree() {
    let mut world = retiring(3);
    let old = world.incarnation(0);
    world.invalidate(0, &["p/1"]);
    world.converge().unwrap();
    let before = world.token(1, &["p/1"]);
    restart(&mut world, 0);
    wait(&mut world);
    for at in 0..3 {
        let core = world.core(at);
        assert!(!core.progress().knows(old), "{}", world.describe());
        assert!(
            core.has_all(&[EventId {
                origin: old,
                sequence: 1
            }]),
            "G5: a session still counts"
        );
        assert_eq!(world.token(at, &["p/1"]), world.token(0, &["p/1"]));
        assert_ne!(world.token(at, &["p/1"]), before);
        assert_eq!(world.token(at, &["q"]), world.token(0, &["q"]));
    }
    // Nothing of it is left on disk, and a start finds the same tokens.
    let token = world.token(1, &["p/1"]);
    let recovered = world.nodes[1].disk.recover();
    let runs = recovered.progress.iter().map(|lane| lane.origin);
    assert!(runs.into_iter().all(|run| run != old));
    let class = &recovered
        .classes
        .iter()
        .find(|it| it.class == class("p/1"))
        .unwrap();
    assert_eq!(class.entries.get(old), 0);
    restart(&mut world, 1);
    assert_eq!(world.token(1, &["p/1"]), token);
}

/// What a node's disk says of a run in a class.
fn stored(world: &World, at: usize, path: &str, run: Incarnation) -> u64 {
    let recovered = world.nodes[at].disk.recover();
    let class = recovered
        .classes
        .into_iter()
        .find(|it| it.class == class(path));
    class.map_or(0, |class| class.entries.get(run))
}

/// A floor that dominates what a class says from a retirement on does not dominate what is on disk of it until that is
/// rewritten; and afterwards nobody names the class any more.
#[test]
fn g12_a_class_that_a_floor_swallows_before_it_is_rewritten_is_not_left_on_disk() {
    let mut world = retiring(3);
    let old = world.incarnation(0);
    world.invalidate(0, &["p/1"]);
    world.converge().unwrap();
    restart(&mut world, 0);
    let between = |world: &World| retired_up_to(world, 1) > 0 && stored(world, 1, "p/1", old) > 0;
    for _ in 0..100 {
        if !world.work() {
            world.advance(Duration::from_millis(10));
        }
        if between(&world) {
            break;
        }
    }
    assert!(between(&world), "it is rewritten at once");
    let id = world.next_event(0);
    let retired = (name(&world, 1), retired_up_to(&world, 1));
    let floor = Floor {
        top: class("p"),
        bucket: bucket_of("p/1"),
        vector: [retired].into_iter().collect(),
    };
    pass_on(&mut world, 1, 0, id, BumpEvent::Floor(floor));
    let held = world.core(1).versions();
    let held = held.bucket_classes(&class("p"), bucket_of("p/1"));
    assert_eq!(held, [], "swallowed");
    for _ in 0..10 {
        world.work();
    }
    assert_eq!(stored(&world, 1, "p/1", old), 0);
}

#[test]
fn g11_who_lacks_events_of_a_retired_run_takes_a_snapshot_before_it_is_fresh() {
    let mut world = retiring(3);
    let old = world.incarnation(0);
    let copy = world.nodes[2].disk.clone();
    // An event that the third node never sees.
    world.crash(2);
    world.invalidate(0, &["p/1"]);
    world.converge_without(2);
    for at in 0..2 {
        // Gossip knows no third one: its seat is lost after a while.
        world.input(at, Input::Seen(Vec::new()));
    }
    let pass = |world: &mut World| {
        for _ in 0..40 {
            world.advance(LONG);
            world.settle();
        }
    };
    pass(&mut world);
    assert_eq!(world.core(1).roster().seats.len(), 2);
    world.crash(0);
    world.start(0);
    world.connect(0, 1);
    pass(&mut world);
    assert!(!world.core(1).progress().knows(old), "{}", world.describe());
    world.nodes[2].disk = copy;
    world.start(2);
    world.connect_all();
    world.converge().unwrap();
    let snapshots = world.core(2).counters().snapshots_adopted;
    assert!(snapshots > 0, "nobody else could tell");
    assert_eq!(retired_up_to(&world, 2), retired_up_to(&world, 1));
    assert!(!world.core(2).progress().knows(old));
    assert_eq!(world.token(2, &["p/1"]), world.token(1, &["p/1"]));
}

/// Views repeat two retirements here; the third node is away for more.
#[test]
fn g7_who_lost_track_of_what_is_retired_holds_nobody_up() {
    let mut world = World::running_with(3, |config| {
        config.limits.old_runs_max = 0;
        config.limits.retired_max = 2;
        config.retire_after = Duration::from_millis(200);
        config.member_timeout = Duration::from_secs(5);
    });
    let old = world.incarnation(0);
    for path in ["p/1", "p/2"] {
        world.invalidate(0, &[path]);
        world.converge().unwrap();
    }
    // What it knows of that run is two events, one of them by its number only.
    world.cut(0, 2);
    world.cut(1, 2);
    world.invalidate(0, &["p/3"]);
    world.settle();
    let lane = |world: &World| {
        let progress = world.core(2).progress();
        progress
            .lane(old, Lane::Bump)
            .map(|lane| (lane.watermark(), lane.head()))
    };
    let told = OriginHead {
        incarnation: old,
        bump: 3,
        directory: 0,
    };
    let from = world.incarnation(1);
    let message = PeerMessage::Grant {
        nonce: 0,
        duration: Duration::ZERO,
        settled: false,
        heads: vec![told],
        span: Span::default(),
        lacked: Vec::new(),
    };
    world.input(2, Input::Peer { from, message });
    assert_eq!(lane(&world), Some((2, 3)));
    let pass = |world: &mut World, rounds| {
        for _ in 0..rounds {
            world.settle();
            world.advance(Duration::from_millis(100));
        }
    };
    for at in 0..2 {
        world.input(at, Input::Seen(Vec::new()));
    }
    pass(&mut world, 80);
    assert_eq!(
        world.core(1).roster().seats.len(),
        2,
        "{}",
        world.describe()
    );
    for _ in 0..4 {
        world.invalidate(0, &["p/4"]);
        pass(&mut world, 2);
        world.crash(0);
        world.start(0);
        world.connect(0, 1);
        pass(&mut world, 80);
    }
    let view = world.core(1).roster();
    assert!(view.retired.forgotten() > 0, "{view:?}");
    assert!(view.retired.head(old).is_none(), "{view:?}");
    assert!(!world.core(1).progress().knows(old));
    let everything = view.everything;
    world.connect_all();
    pass(&mut world, 40);
    let reason = world.nodes[2].stopped.as_ref().unwrap();
    assert!(reason.contains("away for more"), "{reason}");
    world.crash(2);
    world.start(2);
    world.connect_all();
    pass(&mut world, 40);
    for at in 0..3 {
        let state = world.core(at).freshness(world.now);
        assert_eq!(state, Freshness::Fresh, "{}", world.describe());
        for path in ["p/1", "p/2", "p/3", "p/4", "q"] {
            assert_eq!(world.token(at, &[path]), world.token(1, &[path]), "{path}");
        }
    }
    assert_eq!(
        world.core(1).roster().everything,
        everything,
        "nothing was missed"
    );
}

/// A disk from when its sidecar was alone, put back: it takes itself for alone until it meets the others.
#[test]
fn g1_g12_who_is_alone_retires_nothing() {
    let mut world = retiring(2);
    let pass = |world: &mut World| {
        for _ in 0..40 {
            world.advance(LONG);
            world.settle();
        }
    };
    world.invalidate(1, &["p/1"]);
    world.converge().unwrap();
    let old = world.incarnation(1);
    world.input(1, Input::Drain);
    world.settle();
    assert_eq!(world.core(0).roster().seats.len(), 1);
    world.crash(1);
    let copy = world.nodes[0].disk.clone();
    pass(&mut world);
    assert!(world.core(0).progress().knows(old), "it is alone");
    world.start(1);
    world.connect_all();
    world.converge().unwrap();
    world.invalidate(1, &["p/2"]);
    world.converge().unwrap();
    restart(&mut world, 1);
    pass(&mut world);
    assert!(!world.core(1).progress().knows(old), "two retire");
    world.crash(0);
    world.nodes[0].disk = copy;
    world.start(0);
    pass(&mut world);
    assert!(world.core(0).roster().retired.is_empty());
    world.connect_all();
    world.converge().unwrap();
    pass(&mut world);
    world.converge().unwrap();
    for path in ["p/1", "p/2", "q"] {
        let (one, other) = (world.token(0, &[path]), world.token(1, &[path]));
        assert_eq!(one, other, "G12: {path}");
    }
    for at in 0..2 {
        assert!(!world.core(at).progress().knows(old));
    }
}

#[test]
fn g2_g3_a_floor_of_who_has_retired_lends_no_token_to_who_has_not() {
    let mut world = retiring(2);
    restart(&mut world, 0);
    wait(&mut world);
    let history = name(&world, 1);
    // A floor of a peer that is ahead: what it retired may be anything.
    let id = world.next_event(0);
    let mut vector: VersionVector = [(id.origin, id.sequence)].into_iter().collect();
    vector.raise(history, 1_000);
    let floor = Floor {
        top: class("p"),
        bucket: bucket_of("p/1"),
        vector: vector.clone(),
    };
    pass_on(&mut world, 1, 0, id, BumpEvent::Floor(floor));
    let state = world.core(1).freshness(world.now);
    assert!(matches!(state, Freshness::CatchingUp(_)), "{state:?}");
    let mut known = grapevine_core::versions::Versions::new();
    let bumps = world.core(1).versions().everything_bumps();
    known.join_class(&grapevine_core::store::RecoveredClass {
        class: class("*"),
        entries: bumps,
        conjunctions: Vec::new(),
    });
    known.join_floor(&Floor {
        top: class("p"),
        bucket: bucket_of("p/1"),
        vector,
    });
    let shared = known.token(&[class("p/1")], None);
    assert_ne!(
        world.token(1, &["p/1"]),
        shared,
        "it knows less than who gives that token"
    );
    assert!(world.resolve(1, "x", &["p/1"]).bypass);
}

/// A floor that says of a bucket of `p` what it says of another history's retirements.
fn floor_of_elsewhere(world: &mut World, number: u64) -> Incarnation {
    let elsewhere = Incarnation::new(0xdead).unwrap();
    let elsewhere = elsewhere.as_history().as_retirements();
    let id = world.next_event(0);
    let head = world.core(1).progress().lane(id.origin, Lane::Bump);
    let sequence = head.map_or(0, LaneProgress::head) + 1;
    let id = EventId { sequence, ..id };
    let vector = [(id.origin, sequence), (elsewhere, number)];
    let floor = Floor {
        top: class("p"),
        bucket: bucket_of("p/1"),
        vector: vector.into_iter().collect(),
    };
    pass_on(world, 1, 0, id, BumpEvent::Floor(floor));
    elsewhere
}

#[test]
fn g3_tokens_of_one_catching_up_do_not_come_back_in_the_next() {
    let mut world = retiring(2);
    let origin = floor_of_elsewhere(&mut world, 1);
    let first = world.token(1, &["q"]);
    // The rest of what is retired there comes as a snapshot.
    let from = world.incarnation(0);
    let say = |world: &mut World, message| world.input(1, Input::Peer { from, message });
    let (lane, id) = (Lane::Bump, 1);
    say(
        &mut world,
        PeerMessage::Compacted {
            origin,
            lane,
            first: 1,
        },
    );
    let head = OriginHead {
        incarnation: origin,
        bump: 1,
        directory: 0,
    };
    say(
        &mut world,
        PeerMessage::SnapshotBegin {
            id,
            cut: vec![head],
        },
    );
    say(&mut world, PeerMessage::SnapshotEnd { id });
    for _ in 0..200 {
        world.settle();
        world.advance(Duration::from_millis(20));
        if world.core(1).freshness(world.now) == Freshness::Fresh {
            break;
        }
    }
    assert_eq!(world.core(1).freshness(world.now), Freshness::Fresh);
    let between = world.token(1, &["q"]);
    floor_of_elsewhere(&mut world, 2);
    let second = world.token(1, &["q"]);
    assert!(first != between && between != second && second != first);
}

#[test]
fn g12_a_late_bump_of_a_retired_run_counts_alike_whenever_it_comes() {
    let mut world = retiring(3);
    let old = world.incarnation(0);
    world.invalidate(0, &["p/1"]);
    world.converge().unwrap();
    restart(&mut world, 0);
    // One node has it before the retirement (it is not whole then) or after it, the others hear of it by repair.
    let late = EventId {
        origin: old,
        sequence: 2,
    };
    wait(&mut world);
    let before = world.token(2, &["p/2"]);
    pass_on(&mut world, 1, 0, late, bump("p/2"));
    world.converge().unwrap();
    for at in 0..3 {
        assert!(world.core(at).has_all(&[late]));
        assert_ne!(world.token(at, &["p/2"]), before, "G1: it is not lost");
        for path in ["p/1", "p/2"] {
            assert_eq!(
                world.token(at, &[path]),
                world.token(1, &[path]),
                "{path} at {at}"
            );
        }
    }
    wait(&mut world);
    assert!(!world.core(0).progress().knows(old), "and is retired anew");
    // What lies below is old news.
    let token = world.token(1, &["p/1"]);
    pass_on(
        &mut world,
        1,
        0,
        EventId {
            origin: old,
            sequence: 1,
        },
        bump("p/1"),
    );
    assert_eq!(world.token(1, &["p/1"]), token);
    assert!(!world.core(1).progress().knows(old));
}

#[test]
fn g2_a_run_that_was_retired_ends() {
    let mut world = retiring(3);
    let away = world.incarnation(2);
    world.invalidate(2, &["p/1"]);
    world.converge().unwrap();
    // Cut off for so long that its seat is lost and nobody waits for it.
    world.cut(0, 2);
    world.cut(1, 2);
    for at in 0..2 {
        world.input(at, Input::Seen(Vec::new()));
    }
    for _ in 0..60 {
        world.advance(LONG);
        world.settle();
    }
    assert!(
        !world.core(0).progress().knows(away),
        "{}",
        world.describe()
    );
    world.connect_all();
    world.settle();
    let reason = world.nodes[2].stopped.as_ref().unwrap();
    assert!(reason.contains("retired"), "{reason}");
    // Its last words may tell that it has the view.
    let mut seated = world.core(0).roster().seats.values();
    assert!(seated.all(|run| *run != away), "no view seats it");
}

#[test]
fn g1_what_is_stored_is_rewritten_again_after_a_crash_in_between() {
    let mut world = World::running_with(2, |config| {
        config.limits.old_runs_max = 0;
        config.retire_after = Duration::from_millis(200);
    });
    for at in 0..3_000 {
        world.invalidate(0, &[&format!("p/{at}")]);
    }
    world.converge().unwrap();
    let old = world.incarnation(0);
    restart(&mut world, 0);
    for _ in 0..20 {
        world.advance(Duration::from_millis(50));
        while world.core(1).progress().knows(old) && world.work() {}
    }
    assert!(!world.core(1).progress().knows(old));
    let rows = |world: &World| {
        let recovered = world.nodes[1].disk.recover();
        let rows = recovered.classes.iter();
        rows.filter(|row| row.entries.get(old) > 0).count()
    };
    assert!(rows(&world) > 0, "it is under way");
    let token = world.token(1, &["p/7"]);
    restart(&mut world, 1);
    assert_eq!(world.token(1, &["p/7"]), token);
    assert_eq!(rows(&world), 0);
    assert!(!world.core(1).progress().knows(old));
    assert_eq!(world.token(0, &["p/7"]), token);
}

/// `GRAPEVINE_RESTARTS` sets how many.
#[test]
fn g10_origins_stay_within_their_bound_over_thousands_of_restarts() {
    let restarts = std::env::var("GRAPEVINE_RESTARTS").ok();
    let restarts = restarts.map_or(300, |text| text.parse().unwrap());
    let mut world = World::running_with(3, |config| {
        config.limits.old_runs_max = 8;
        config.retire_after = Duration::from_millis(200);
        config.limits.classes_per_top_max = 64;
    });
    let mut most = (0, 0);
    let mut seen = std::collections::HashSet::new();
    for round in 0..restarts {
        let at = round % 3;
        let path = format!("p/{}", round * 7 % 200);
        let before = world.token((at + 1) % 3, &[&path]);
        world.invalidate(at, &[&path]);
        world.converge_on(&[Lane::Bump]).unwrap();
        let token = world.token((at + 1) % 3, &[&path]);
        assert_ne!(token, before, "G1: {path}");
        assert!(
            seen.insert((path.clone(), token)),
            "G2: {path} has an old token"
        );
        restart(&mut world, at);
        for other in 0..3 {
            let (one, two) = (world.token(other, &[&path]), world.token(at, &[&path]));
            assert_eq!(one, two, "G12: {path}, restart {round}");
            let core = world.core(other);
            most.0 = most.0.max(core.progress().len());
            most.1 = most.1.max(core.versions().origins());
        }
        for _ in 0..5 {
            world.advance(Duration::from_millis(110));
            world.settle();
        }
        world.transcript.clear();
        for node in &mut world.nodes {
            node.applied.clear();
        }
    }
    println!(
        "{restarts} restarts: at most {} lanes and {} origins in memory",
        most.0, most.1
    );
    // Kept runs, those of the members, those not over for long enough, a lot under way, the history and its retirements.
    assert!(most.0 <= 40 && most.1 <= 40, "{most:?}");
    assert!(world.core(0).roster().retired.len() <= grapevine_core::roster::RETIRED_MAX);
}
