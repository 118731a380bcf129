//! Whoever was away for more retirements than views repeat comes back, and tokens agree (docs/decisions/0014, point 5).

use std::collections::VecDeque;
use std::time::Duration;

use grapevine_core::event::{Bump, BumpEvent, Floor, Match, PurgeMode};
use grapevine_core::id::{EventId, Incarnation, Lane};
use grapevine_core::machine::effects::{Freshness, Input, PeerMessage};
use grapevine_core::progress::OriginHead;
use grapevine_core::roster::Say;
use grapevine_core::store::RecoveredClass;
use grapevine_core::versions::bucket_of;

use crate::world::{World, class};

fn pass(world: &mut World, rounds: usize) {
    for _ in 0..rounds {
        world.settle();
        world.advance(Duration::from_millis(100));
    }
}

/// Three nodes in a view that repeats two retirements.
fn retiring() -> World {
    World::running_with(3, |config| {
        config.limits.old_runs_max = 0;
        config.limits.retired_max = 2;
        config.limits.classes_per_top_max = 4;
        config.retire_after = Duration::from_millis(200);
        config.member_timeout = Duration::from_secs(5);
    })
}

/// Three nodes, of which the third has seen a run's bumps, in classes and in a floor, and was cut off before that run
/// was retired and forgotten. Gives the run, too.
fn one_lost_track() -> (World, Incarnation) {
    let mut world = retiring();
    let old = world.incarnation(0);
    for number in 0..9 {
        world.invalidate(0, &[&format!("p/{number}")]);
        world.converge().unwrap();
    }
    assert!(world.core(0).counters().floors_own > 0);
    world.cut(0, 2);
    world.cut(1, 2);
    for at in 0..2 {
        world.input(at, Input::Seen(Vec::new()));
    }
    pass(&mut world, 80);
    for _ in 0..4 {
        world.invalidate(0, &["s/4"]);
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
    assert!(world.core(2).progress().knows(old));
    (world, old)
}

/// Starts the third one if it has ended, and lets all come together.
fn come_back(world: &mut World) {
    if !world.up(2) {
        world.start(2);
    }
    world.connect_all();
    pass(world, 40);
}

fn assert_on_track(world: &World, old: Incarnation) {
    let paths: Vec<_> = (0..600).map(|number| format!("p/{number}")).collect();
    for at in 0..3 {
        let core = world.core(at);
        assert_eq!(
            core.freshness(world.now),
            Freshness::Fresh,
            "{at} {}",
            world.describe()
        );
        assert!(!core.progress().knows(old), "{}", world.describe());
        for path in paths.iter().map(String::as_str).chain(["p", "q", "s/4"]) {
            let (here, there) = (world.token(at, &[path]), world.token(1, &[path]));
            assert_eq!(here, there, "{path} at {at}");
        }
    }
}

#[test]
fn g12_who_lost_track_ends_and_its_next_run_starts_over() {
    let (mut world, old) = one_lost_track();
    world.connect_all();
    pass(&mut world, 40);
    let reason = world.nodes[2].stopped.as_ref().unwrap();
    assert!(reason.contains("away for more"), "{reason}");
    world.crash(2);
    world.start(2);
    world.settle();
    let recovered = world.nodes[2].disk.recover();
    let named = recovered.classes.iter().map(|class| &class.entries);
    let named = named.chain(recovered.floors.iter().map(|floor| &floor.vector));
    assert!(named.into_iter().all(|entries| entries.get(old) == 0));
    come_back(&mut world);
    assert_on_track(&world, old);
}

/// A value that was stored under a token which only events known here had made right must not be found again.
#[test]
fn g3_who_starts_over_bumps_everything_even_after_crashes() {
    let (mut world, old) = one_lost_track();
    let before = world.token(1, &["q/1"]);
    world.connect_all();
    pass(&mut world, 40);
    world.crash(2);
    world.start(2);
    world.crash(2);
    world.start(2);
    world.settle();
    world.crash(2);
    come_back(&mut world);
    assert_on_track(&world, old);
    assert_ne!(world.token(1, &["q/1"]), before);
}

/// Views repeat what members lack: so none of those may be behind when there are more to repeat.
#[test]
fn g1_nothing_is_retired_before_every_member_was_fresh_in_the_view() {
    let mut world = retiring();
    let old = world.incarnation(0);
    world.invalidate(0, &["p/1"]);
    world.converge().unwrap();
    world.crash(0);
    world.start(0);
    world.connect_all();
    // The third one grants what it is asked for, and is granted nothing.
    let round = |world: &mut World, deaf: bool| {
        while world.work() {
            let to_third = world
                .links
                .iter_mut()
                .filter(|((_, to), _)| deaf && *to == 2);
            for (_, queue) in to_third {
                queue.retain(|message| !matches!(message, PeerMessage::Grant { .. }));
            }
        }
        world.advance(Duration::from_millis(20));
    };
    let retired = |world: &World| world.core(1).roster().retired.head(old).is_some();
    for _ in 0..400 {
        round(&mut world, true);
    }
    let fresh = |world: &World, at| world.core(at).freshness(world.now) == Freshness::Fresh;
    assert!(
        fresh(&world, 1) && !fresh(&world, 2),
        "{}",
        world.describe()
    );
    assert!(!retired(&world));
    for _ in 0..400 {
        round(&mut world, false);
    }
    assert!(retired(&world), "{}", world.describe());
}

/// A run that nobody saw may have been retired and forgotten without being told.
#[test]
fn g12_a_run_that_was_alone_for_long_ends_when_it_learns_that_views_have_forgotten_something() {
    for (long, ends) in [(true, true), (false, false)] {
        let (mut world, _) = one_lost_track();
        world.crash(2);
        world.wipe(2);
        world.start(2);
        if long {
            pass(&mut world, 2);
        }
        world.connect_all();
        pass(&mut world, 40);
        assert_eq!(world.nodes[2].stopped.is_some(), ends, "long: {long}");
        if !ends {
            assert_eq!(world.core(2).freshness(world.now), Freshness::Fresh);
        }
    }
}

/// It is seated when it is on track: a snapshot may take long, and nobody is fresh without a member's grants.
#[test]
fn g7_a_newcomer_that_takes_a_snapshot_holds_nobody_up() {
    let (mut world, _) = one_lost_track();
    world.crash(2);
    world.wipe(2);
    world.start(2);
    world.connect_all();
    let round = |world: &mut World, stalled: bool| {
        loop {
            let of_third = world
                .links
                .iter_mut()
                .filter(|((from, _), _)| stalled && *from == 2);
            for (_, queue) in of_third {
                queue.retain(|message| !matches!(message, PeerMessage::SnapshotRequest { .. }));
            }
            if !world.work() {
                break;
            }
        }
        world.advance(Duration::from_millis(50));
    };
    let fresh = |world: &World, at| world.core(at).freshness(world.now) == Freshness::Fresh;
    for _ in 0..100 {
        round(&mut world, true);
        assert!(fresh(&world, 0) && fresh(&world, 1), "{}", world.describe());
    }
    assert!(!fresh(&world, 2));
    // It is given up after a minute, and asked for again.
    for _ in 0..1_500 {
        round(&mut world, false);
    }
    assert!((0..3).all(|at| fresh(&world, at)), "{}", world.describe());
}

/// Nobody else can have the runs of an only member retired.
#[test]
fn g10_the_only_member_follows_no_more_runs_than_it_may_whatever_restarts() {
    let mut world = World::running_with(1, |config| config.limits.old_runs_max = 8);
    let mut tokens = std::collections::HashSet::new();
    let (mut most, mut over) = (0, 0);
    let mut session: Option<EventId> = None;
    for _ in 0..100 {
        world.invalidate(0, &["p/1"]);
        world.converge().unwrap();
        assert!(tokens.insert(world.token(0, &["p/1"])), "G2");
        assert!(tokens.insert(world.token(0, &["q"])), "G2");
        assert!(
            session.is_none_or(|event| world.core(0).has_all(&[event])),
            "G5"
        );
        session = Some(world.next_event(0)).map(|event| EventId {
            sequence: event.sequence - 1,
            ..event
        });
        let core = world.core(0);
        most = most.max(core.progress().len().max(core.versions().origins()));
        over += core.counters().started_over;
        world.crash(0);
        world.start(0);
    }
    assert!(most <= 8 + 4, "{most}");
    assert!((5..50).contains(&over), "{over}");
}

/// Others come back to an only member that started over, and to one that was a member with them.
#[test]
fn g12_others_follow_an_only_member_that_started_over() {
    let mut world = World::running_with(2, |config| config.limits.old_runs_max = 2);
    world.invalidate(1, &["p/1"]);
    world.converge().unwrap();
    let before = world.token(1, &["p/1"]);
    world.input(1, Input::Drain);
    world.settle();
    world.crash(1);
    for _ in 0..9 {
        world.invalidate(0, &["p/2"]);
        world.converge_without(1);
        world.crash(0);
        world.start(0);
        world.converge_without(1);
    }
    assert_eq!(world.core(0).roster().seats.len(), 1, "it is alone");
    assert!(world.core(0).progress().len() < 6, "{}", world.describe());
    world.start(1);
    world.connect_all();
    world.converge().unwrap();
    for path in ["p/1", "p/2", "q"] {
        assert_eq!(world.token(0, &[path]), world.token(1, &[path]), "{path}");
    }
    assert_ne!(world.token(1, &["p/1"]), before, "G3");
}

/// What an only member alone had is gone when it starts over, however often. Who heard of later events waits for it no longer
/// than it takes to close that log, for nobody else has it, and everything was bumped since.
#[test]
fn g5_g11_nobody_waits_for_what_an_only_member_dropped() {
    let mut world = World::running_with(2, |config| config.limits.old_runs_max = 0);
    world.invalidate(0, &["p/1"]);
    world.flush(0);
    world.drop_all(0, 1);
    world.invalidate(0, &["p/2"]);
    world.settle();
    world.input(1, Input::Drain);
    world.settle();
    world.crash(1);
    assert_eq!(world.core(0).roster().seats.len(), 1, "it is alone");
    let session = [1, 2].map(|sequence| EventId {
        origin: world.incarnation(0),
        sequence,
    });
    for _ in 0..3 {
        world.crash(0);
        world.start(0);
        world.converge_without(1);
        assert_eq!(world.core(0).counters().started_over, 1);
        assert!(world.core(0).has_all(&session));
    }
    world.start(1);
    world.connect_all();
    pass(&mut world, 40);
    let fresh = |at| world.core(at).freshness(world.now) == Freshness::Fresh;
    assert!((0..2).all(fresh), "{}", world.describe());
    assert_eq!(world.core(0).roster().closed.len(), 1);
    for path in ["p/1", "p/2", "q"] {
        assert_eq!(world.token(0, &[path]), world.token(1, &[path]), "{path}");
    }
}

#[test]
fn g10_what_was_dropped_is_not_remembered_without_end() {
    let mut world = World::running_with(1, |config| config.limits.old_runs_max = 0);
    let run = |number: u128| Incarnation::new(0x10_0000 + number).unwrap();
    let restart = |world: &mut World| {
        world.invalidate(0, &["p/1"]);
        world.converge().unwrap();
        world.crash(0);
        world.start(0);
        world.converge().unwrap();
    };
    restart(&mut world);
    let few = world.nodes[0].disk.dropped.len();
    world.nodes[0].disk.dropped = (0..1_024 - 10).map(|number| (run(number), 1)).collect();
    restart(&mut world);
    let kept = world.nodes[0].disk.dropped.len();
    assert!((1_024 - 9..=1_024).contains(&kept), "{kept}");
    for _ in 0..10 {
        restart(&mut world);
    }
    let kept = world.nodes[0].disk.dropped.len();
    assert!(kept < 100 && kept > few, "{kept}");
    assert!(!world.nodes[0].disk.dropped.contains_key(&run(0)));
}

/// Has a floor that names a run which may be forgotten arrive at node 1 from node 0, and so many numbers above its last event.
fn send_old_floor(world: &mut World, old: Incarnation, above: u64) -> EventId {
    let from = world.incarnation(0);
    let event = EventId {
        sequence: world.next_event(0).sequence + above,
        origin: from,
    };
    let message = PeerMessage::Bumps {
        origin: from,
        first: event.sequence,
        events: vec![BumpEvent::Floor(floor([(old, 1)])).into()],
    };
    world.input(1, Input::Peer { from, message });
    event
}

fn floor(vector: impl IntoIterator<Item = (Incarnation, u64)>) -> Floor {
    Floor {
        top: class("p"),
        bucket: bucket_of("p/1"),
        vector: vector.into_iter().collect(),
    }
}

/// Logs reach it before the first view does: old floors in them name runs that it cannot know.
#[test]
fn g12_a_newcomer_without_a_view_takes_no_floor_that_names_a_stranger() {
    let (mut world, old) = one_lost_track();
    world.crash(2);
    world.wipe(2);
    world.start(2);
    world.connect_all();
    let mut held = Vec::new();
    loop {
        for (&(from, to), queue) in &mut world.links {
            let of_roster = |message: &PeerMessage| matches!(message, PeerMessage::Roster { .. });
            let (late, rest): (VecDeque<_>, _) =
                queue.drain(..).partition(|it| to == 2 && of_roster(it));
            *queue = rest;
            held.extend(late.into_iter().map(|message| (from, message)));
        }
        if !world.work() {
            break;
        }
    }
    assert_eq!(world.core(2).roster().number, 0);
    for (from, message) in held {
        let queue = world.links.get_mut(&(from, 2)).unwrap();
        queue.push_back(message);
    }
    pass(&mut world, 60);
    assert!(world.nodes[2].stopped.is_none(), "{}", world.describe());
    assert_on_track(&world, old);
}

/// The third one has an event of a run that came after the others had retired it, and has not told them when views forget it.
#[test]
fn g12_who_follows_a_run_whose_retirement_is_forgotten_starts_over() {
    let mut world = retiring();
    let old = world.incarnation(0);
    world.invalidate(0, &["p/1"]);
    world.converge().unwrap();
    world.cut(0, 2);
    world.cut(1, 2);
    let from = world.incarnation(1);
    let bump = BumpEvent::Bump(Bump {
        classes: vec![class("p/2")],
        matching: Match::Any,
        purge: PurgeMode::Hard,
    });
    let message = PeerMessage::Bumps {
        origin: old,
        first: 2,
        events: vec![bump.into()],
    };
    world.input(2, Input::Peer { from, message });
    for at in 0..2 {
        world.input(at, Input::Seen(Vec::new()));
    }
    pass(&mut world, 80);
    let restart = |world: &mut World| {
        world.crash(0);
        world.start(0);
        world.connect(0, 1);
        pass(world, 80);
    };
    restart(&mut world);
    let view = world.core(1).roster().clone();
    let number = view.retired.latest();
    assert_eq!(view.retired.head(old), Some(1), "{view:?}");
    // It learns of that, and follows.
    let history = view.history;
    let say = Say::Decided(view);
    let message = PeerMessage::Roster { history, say };
    world.input(2, Input::Peer { from, message });
    world.settle();
    let name = history.unwrap().as_retirements();
    let lane = world.core(2).progress().lane(name, Lane::Bump).unwrap();
    assert_eq!(lane.watermark(), number);
    assert!(world.core(2).progress().knows(old));
    while world.core(1).roster().retired.head(old).is_some() {
        world.invalidate(0, &["s/4"]);
        pass(&mut world, 2);
        restart(&mut world);
    }
    assert_eq!(world.core(1).roster().retired.forgotten(), number);
    world.connect_all();
    pass(&mut world, 40);
    if world.nodes[2].stopped.is_some() {
        world.crash(2);
    }
    come_back(&mut world);
    pass(&mut world, 40);
    assert_on_track(&world, old);
}

/// The third one has not named a view that is new enough.
#[test]
fn g7_nobody_follows_an_unknown_run_because_of_who_may_have_lost_track() {
    let (mut world, old) = one_lost_track();
    world.connect(1, 2);
    for (from, follows) in [(2, false), (0, true)] {
        let from = world.incarnation(from);
        let bump = BumpEvent::Bump(Bump {
            classes: vec![class("p/1")],
            matching: Match::Any,
            purge: PurgeMode::Hard,
        });
        let message = PeerMessage::Bumps {
            origin: old,
            first: 2,
            events: vec![bump.into()],
        };
        world.input(1, Input::Peer { from, message });
        assert_eq!(world.core(1).progress().knows(old), follows);
    }
}

#[test]
fn g12_a_floor_that_names_a_run_which_may_be_forgotten_is_not_applied() {
    let (mut world, old) = one_lost_track();
    let token = world.token(1, &["p/1"]);
    let snapshots = world.core(1).counters().snapshots_requested;
    let event = send_old_floor(&mut world, old, 0);
    assert!(!world.core(1).has_all(&[event]), "it waits for it");
    assert_eq!(world.token(1, &["p/1"]), token);
    let requested = world.core(1).counters().snapshots_requested;
    assert_eq!(requested, snapshots + 1, "and asks for what it stands for");
}

/// Who serves a snapshot may not know yet that it has lost track. Its cut tells. And one of who has a later view would have
/// its receiver seem to be on track by that view, whatever it had before.
#[test]
fn g12_a_snapshot_is_taken_of_who_applied_what_is_forgotten_and_no_more_than_the_view_tells() {
    for (ahead, taken) in [(None, false), (Some(0), true), (Some(1), false)] {
        let (mut world, old) = one_lost_track();
        send_old_floor(&mut world, old, 0);
        let from = world.incarnation(0);
        let id = world.core(1).counters().snapshots_requested;
        let token = world.token(1, &["p/1"]);
        let view = world.core(1).roster();
        let incarnation = view.history.unwrap().as_retirements();
        let cut = vec![OriginHead {
            incarnation,
            bump: ahead.map_or(view.retired.forgotten() - 1, |ahead| view.number + ahead),
            directory: 0,
        }];
        let entries = [(from, 1), (old, 1)].into_iter().collect();
        let class = RecoveredClass {
            class: class("p/1"),
            entries,
            conjunctions: Vec::new(),
        };
        for message in [
            PeerMessage::SnapshotBegin { id, cut },
            PeerMessage::SnapshotVersions {
                id,
                classes: vec![class],
                floors: Vec::new(),
                shapes: Vec::new(),
            },
            PeerMessage::SnapshotEnd { id },
        ] {
            world.input(1, Input::Peer { from, message });
        }
        assert_eq!(world.token(1, &["p/1"]) != token, taken, "ahead {ahead:?}");
    }
}

/// The cut tells of nothing above a hole, and nobody fills one in a closed log: it would be asked for for ever. But what came
/// after the request may not be in the snapshot, and one that was broken off has nothing whole.
#[test]
fn g1_g12_a_floor_that_is_not_applied_counts_with_the_snapshot_of_who_passed_it_on() {
    for (whole, cut_off) in [(true, false), (false, false), (true, true)] {
        let (mut world, old) = one_lost_track();
        let token = world.token(1, &["p/1"]);
        let event = send_old_floor(&mut world, old, 1);
        let id = world.core(1).counters().snapshots_requested;
        let late = send_old_floor(&mut world, old, 3);
        assert_eq!(world.core(1).counters().snapshots_requested, id);
        let from = event.origin;
        let view = world.core(1).roster();
        let head = |incarnation, bump| OriginHead {
            incarnation,
            bump,
            directory: 0,
        };
        let name = view.history.unwrap().as_retirements();
        let number = view.retired.forgotten();
        let cut = vec![head(name, number), head(from, event.sequence - 2)];
        let floors = vec![floor([(name, number), (from, event.sequence)])];
        let mut messages = vec![
            PeerMessage::SnapshotBegin { id, cut },
            PeerMessage::SnapshotVersions {
                id,
                classes: Vec::new(),
                floors,
                shapes: Vec::new(),
            },
        ];
        messages.extend(whole.then_some(PeerMessage::SnapshotEnd { id }));
        for (at, message) in messages.into_iter().enumerate() {
            if cut_off && at == 2 {
                world.cut(0, 1);
                world.connect(0, 1);
            }
            world.input(1, Input::Peer { from, message });
        }
        let counts = whole && !cut_off;
        let core = world.core(1);
        assert_eq!(core.progress().has(event), counts);
        assert!(!core.progress().has(late));
        assert_ne!(world.token(1, &["p/1"]), token);
        // Its next run has it, too, and whoever lacks it finds it there.
        while world.flush(1) {}
        let held = |EventId { origin, sequence }| {
            let disk = &world.nodes[1].disk;
            !disk.log(origin, Lane::Bump, sequence, sequence).is_empty()
        };
        assert_eq!(held(event), counts);
        assert!(!held(late));
    }
}
