//! Gaps, pulls and snapshots: whatever a push does not bring is fetched, and nothing half-done hides a hole.

use std::collections::BTreeSet;
use std::time::Duration;

use grapevine_core::event::Match;
use grapevine_core::id::{EventId, Incarnation, Lane};
use grapevine_core::machine::effects::{
    Freshness, Input, LeaseClaim, PeerMessage, ReceiptLevel, Side, Span, Verdict,
};
use grapevine_core::progress::OriginHead;
use grapevine_core::roster::Mark;

use crate::world::{World, address};

fn same_tokens(world: &World, paths: &[&str]) {
    let tokens: BTreeSet<_> = (0..world.nodes.len())
        .filter(|at| world.up(*at))
        .map(|at| world.token(at, paths))
        .collect();
    assert_eq!(tokens.len(), 1, "{paths:?}: {}", world.describe());
}

fn only(lane: Lane, message: &PeerMessage) -> bool {
    match message {
        PeerMessage::Bumps { .. } => lane == Lane::Bump,
        PeerMessage::Directory { .. } => lane == Lane::Directory,
        _ => false,
    }
}

#[test]
fn g1_lost_pushes_of_both_lanes_are_pulled() {
    let mut world = World::running(3);
    let event = world.next_event(0);
    world.invalidate(0, &["cart/13"]);
    world.register(0, "items::12", &["cart/12"], LeaseClaim::Absent);
    world.input(0, Input::Seal);
    world.flush(0);
    assert!(world.drop_all(0, 1) >= 2);
    world.converge().unwrap();
    assert!(world.core(1).has_all(&[event]));
    assert!(world.nodes[1].disk.lists("items::12"));
    same_tokens(&world, &["cart/13"]);
}

/// What operators are alerted by.
#[test]
fn g1_what_a_peer_lacks_is_told_on_both_sides_until_it_has_it() {
    let told = |world: &World| {
        let lacking = &world.core(1).members(world.now)[0];
        let behind = &world.core(0).members(world.now)[0];
        (lacking.missing, behind.unacknowledged)
    };
    let mut world = World::running(2);
    world.converge().unwrap();
    assert_eq!(told(&world), (0, 0));
    assert_eq!(world.core(1).missing_for(world.now), None);
    for lost in [true, true, false] {
        world.invalidate(0, &["cart/13"]);
        world.flush(0);
        if lost {
            assert!(world.drop_all(0, 1) > 0);
        }
    }
    world.deliver_all(0, 1);
    assert_eq!(told(&world), (2, 3), "it has the third, and not on disk");
    let later = world.now.plus(Duration::from_millis(70));
    let waited = Some(Duration::from_millis(70));
    assert_eq!(world.core(1).missing_for(later), waited);
    world.converge().unwrap();
    world.advance(Duration::from_secs(1));
    assert_eq!(told(&world), (0, 0));
    assert_eq!(world.core(1).missing_for(world.now), None);
}

#[test]
fn g5_a_session_of_two_events_has_been_seen_where_both_are() {
    let mut world = World::running(3);
    let session = [world.next_event(0), world.next_event(1)];
    for at in 0..2 {
        world.invalidate(at, &["cart/13"]);
        world.flush(at);
    }
    world.deliver_all(0, 2);
    assert!(world.core(2).has_all(&session[..1]));
    assert!(!world.core(2).has_all(&session));
    world.deliver_all(1, 2);
    assert!(world.core(2).has_all(&session));
}

/// Who wrote twice at one sidecar carries the second token alone, as the Rust client does: it stands for both writes.
#[test]
fn g5_a_session_of_two_writes_at_one_sidecar_has_been_seen_where_both_are() {
    let mut world = World::running(3);
    world.invalidate(0, &["cart/13"]);
    world.flush(0);
    assert!(world.drop_all(0, 2) > 0, "the push of the first is lost");
    let session = [world.next_event(0)];
    world.invalidate(0, &["cart/14"]);
    world.flush(0);
    world.deliver_all(0, 2);
    let before = world.token(2, &["cart/13"]);
    assert!(
        !world.core(2).has_all(&session),
        "the first write is not seen"
    );
    world.converge().unwrap();
    assert!(world.core(2).has_all(&session));
    assert_ne!(world.token(2, &["cart/13"]), before);
}

#[test]
fn g1_events_of_a_dead_incarnation_are_fetched_from_whoever_has_them() {
    let mut world = World::running(4);
    // It reaches one peer only; then its origin is gone for ever, and its node runs again with an empty disk.
    let event = world.next_event(0);
    world.invalidate(0, &["cart/13"]);
    world.flush(0);
    world.deliver_all(0, 1);
    world.flush(1);
    world.crash(0);
    world.wipe(0);
    world.start(0);
    world.connect_all();
    world.converge().unwrap();
    for at in 0..4 {
        assert!(world.core(at).has_all(&[event]), "{}", world.describe());
    }
    same_tokens(&world, &["cart/13"]);
}

/// An event that only a lost disk had leaves a hole for ever; what is held behind it, and what was acknowledged above
/// all, is fetched all the same.
#[test]
fn g1_an_acknowledged_event_behind_a_hole_that_nobody_can_fill_is_fetched() {
    for held_by_asker in [false, true] {
        let mut world = World::running(3);
        let lost = world.next_event(0);
        world.invalidate(0, &["cart/5"]);
        world.flush(0);
        world.drop_all(0, 1);
        world.drop_all(0, 2);
        if held_by_asker {
            world.invalidate(0, &["cart/6"]);
            world.flush(0);
            world.drop_all(0, 1);
            world.deliver_all(0, 2);
        }
        let event = world.next_event(0);
        world.invalidate(0, &["cart/7"]);
        world.flush(0);
        world.deliver_all(0, 1);
        world.flush(1);
        world.crash(0);
        world.wipe(0);
        let begin = world.now;
        while !world.core(2).progress().has(event) {
            world.settle();
            world.advance(Duration::from_millis(10));
            assert!(
                world.now.since(begin) < Duration::from_secs(3),
                "{}",
                world.describe()
            );
        }
        assert!(!world.core(2).has_all(&[lost]));
        same_tokens(&world, &["cart/7"]);
    }
}

/// An event was told of and is gone with its origin's disk. Nobody vouches without it until everything was bumped; then all
/// do, by one bump of everything, and what was filled before is dead.
#[test]
fn g7_a_hole_that_nobody_can_fill_is_written_off_behind_a_bump_of_everything() {
    let patience = Duration::from_secs(5);
    let mut world = World::running_with(3, |config| config.member_timeout = patience);
    let lost = world.next_event(0);
    world.invalidate(0, &["cart/13"]);
    world.flush(0);
    world.drop_all(0, 1);
    world.drop_all(0, 2);
    world.invalidate(0, &["shop/1"]);
    world.flush(0);
    world.deliver_all(0, 1);
    world.deliver_all(0, 2);
    for at in 0..3 {
        world.flush(at);
    }
    world.crash(0);
    world.wipe(0);
    world.start(0);
    world.connect_all();
    let (begin, before) = (world.now, world.token(2, &["shop/1"]));
    let fill = world.resolve(2, "items::1", &["shop/1"]);
    // Everybody hears of it from the second, and nobody vouches.
    while world.now.since(begin) + Duration::from_millis(100) < patience {
        world.settle();
        world.advance(Duration::from_millis(100));
    }
    let fresh = |world: &World, at| world.core(at).freshness(world.now) == Freshness::Fresh;
    assert!(!(0..3).any(|at| fresh(&world, at)), "{}", world.describe());
    let bumped = |world: &World, at| world.core(at).roster().everything;
    let before_it = bumped(&world, 1);
    while !(0..3).all(|at| fresh(&world, at)) {
        world.settle();
        world.advance(Duration::from_millis(100));
        assert!(
            world.now.since(begin) < patience * 2,
            "{}",
            world.describe()
        );
    }
    let at = bumped(&world, 0);
    assert!(at > before_it);
    assert!(
        (1..3).all(|other| bumped(&world, other) == at),
        "one for all"
    );
    assert!((0..3).all(|at| !world.core(at).has_all(&[lost])));
    assert_ne!(world.token(2, &["shop/1"]), before);
    same_tokens(&world, &["cart/13"]);
    let late = world.register(2, "items::1", &["shop/1"], LeaseClaim::Lease(fill.lease));
    world.settle();
    let condemned = |verdict| matches!(verdict, Some(Verdict::Condemned(_)));
    assert!(condemned(world.verdict(2, late)));
    // What is registered afterwards is condemned nowhere, although the hole lies below the last bump of its class.
    let name = "items::2";
    world.register(2, name, &["shop/1"], LeaseClaim::Absent);
    world.settle();
    assert!((0..3).all(|at| world.nodes[at].disk.lists(name)));
}

/// Who starts after a last event was written off hears nothing of it, and waits for nothing.
#[test]
fn g7_what_is_written_off_is_not_told_to_who_starts_later() {
    let patience = Duration::from_secs(5);
    let mut world = World::running_with(3, |config| config.member_timeout = patience);
    world.invalidate(0, &["cart/13"]);
    world.flush(0);
    world.drop_all(0, 1);
    world.drop_all(0, 2);
    world.advance(Duration::from_millis(300));
    world.deliver_all(1, 0);
    world.deliver_all(0, 1);
    world.crash(0);
    world.wipe(0);
    world.start(0);
    world.connect_all();
    let fresh = |world: &World, at| world.core(at).freshness(world.now) == Freshness::Fresh;
    let all_within = |world: &mut World, bound| {
        let begin = world.now;
        while !(0..3).all(|at| fresh(world, at)) {
            world.settle();
            world.advance(Duration::from_millis(100));
            assert!(world.now.since(begin) < bound, "{}", world.describe());
        }
    };
    all_within(&mut world, patience * 2);
    world.crash(2);
    world.start(2);
    world.connect_all();
    all_within(&mut world, Duration::from_secs(2));
}

/// What gossip tells makes a sidecar ask at once, however often it is told; it is no evidence by itself.
#[test]
fn heads_that_gossip_tells_are_asked_about() {
    let mut world = World::running(2);
    world.advance(Duration::from_millis(100));
    let event = world.next_event(0);
    world.invalidate(0, &["cart/13"]);
    world.flush(0);
    world.drop_all(0, 1);
    world.drop_all(1, 0);
    let told = |bump| OriginHead {
        incarnation: event.origin,
        bump,
        directory: 0,
    };
    let begin = world.now;
    for _ in 0..3 {
        world.input(1, Input::HeadsSeen(vec![told(event.sequence)]));
    }
    assert_eq!(world.links[&(1, 0)].len(), 1, "one question");
    while !world.core(1).has_all(&[event]) {
        world.settle();
        world.advance(Duration::from_millis(5));
        assert!(world.now.since(begin) < Duration::from_millis(50));
    }
    // A head that nobody has issued comes to nothing.
    world.advance(Duration::from_millis(200));
    world.settle();
    world.input(1, Input::HeadsSeen(vec![told(1 << 40)]));
    world.settle();
    let lane = world
        .core(1)
        .progress()
        .lane(event.origin, Lane::Bump)
        .unwrap();
    assert_eq!(lane.head(), event.sequence);
}

/// One that is cut off with a member that may have it writes nothing off, however long it takes.
#[test]
fn g7_a_minority_writes_nothing_off() {
    let patience = Duration::from_secs(5);
    let mut world = World::running_with(3, |config| config.member_timeout = patience);
    world.invalidate(0, &["cart/13"]);
    world.flush(0);
    world.drop_all(0, 1);
    world.drop_all(0, 2);
    world.advance(Duration::from_millis(300));
    world.deliver_all(1, 0);
    world.deliver_all(0, 1);
    world.cut(0, 1);
    world.cut(2, 1);
    // Gossip sees nobody, so it has no members after a while.
    world.input(1, Input::Seen(Vec::new()));
    for _ in 0..200 {
        world.settle();
        world.advance(Duration::from_millis(100));
    }
    assert_eq!(world.core(1).counters().events_written_off, 0);
    world.connect_all();
    world.converge().unwrap();
}

/// What a holder has applied and is still writing is not in its log: it answers when it is, and not that it has compacted
/// it, which would cost a snapshot.
#[test]
fn g1_a_pull_of_what_is_being_written_is_answered_behind_its_flush() {
    let mut world = World::running(3);
    let event = world.next_event(0);
    world.invalidate(0, &["cart/13"]);
    world.flush(0);
    world.drop_all(0, 2);
    world.deliver_all(0, 1);
    world.crash(0);
    let begin = world.now;
    // The second tells the head, is asked, and its disk is slow.
    while world.core(1).counters().pulls_served == 0 {
        world.flush(2);
        world.deliver_all(1, 2);
        world.deliver_all(2, 1);
        world.advance(Duration::from_millis(10));
        assert!(world.now.since(begin) < Duration::from_secs(2));
    }
    world.deliver_all(1, 2);
    assert!(!world.core(2).has_all(&[event]));
    world.flush(1);
    world.deliver_all(1, 2);
    assert!(world.core(2).has_all(&[event]));
    assert_eq!(world.core(2).counters().snapshots_requested, 0);
}

#[test]
fn g11_heads_of_dead_incarnations_travel_by_way_of_a_third() {
    let mut world = World::running(3);
    let event = world.next_event(0);
    world.cut(0, 2);
    world.invalidate(0, &["cart/13"]);
    world.flush(0);
    world.deliver_all(0, 1);
    world.flush(1);
    world.crash(0);
    // The third hears of it from the second, and is not fresh before it has it.
    let begin = world.now;
    while !world.core(2).has_all(&[event]) {
        world.settle();
        world.advance(Duration::from_millis(10));
        assert!(world.now.since(begin) < Duration::from_secs(2));
    }
}

#[test]
fn events_that_arrive_in_the_wrong_order_leave_no_gap() {
    let mut world = World::running(2);
    for number in 0..6 {
        world.invalidate(0, &[&format!("cart/{number}")]);
        world.flush(0);
    }
    while !world.links[&(0, 1)].is_empty() {
        world.deliver_nth(0, 1, world.links[&(0, 1)].len() - 1);
    }
    world.settle();
    let lane = world
        .core(1)
        .progress()
        .lane(world.incarnation(0), Lane::Bump)
        .unwrap()
        .clone();
    assert_eq!((lane.watermark(), lane.gaps().next()), (lane.head(), None));
    (0..6).for_each(|number| same_tokens(&world, &[&format!("cart/{number}")]));
}

/// Two nodes know much that a third does not, and have compacted it.
fn compacted() -> World {
    let mut world = World::running(3);
    world.crash(2);
    for number in 0..9 {
        world.invalidate(number % 2, &[&format!("cart/{number}")]);
        world.register(
            number % 2,
            &format!("items::{number}"),
            &["shop"],
            LeaseClaim::Absent,
        );
        world.settle();
    }
    for at in [0, 1] {
        world.nodes[at].disk.compact();
    }
    world.wipe(2);
    world.start(2);
    world
}

#[test]
fn g1_what_is_compacted_comes_as_a_snapshot() {
    let mut world = compacted();
    world.connect_all();
    world.converge().unwrap();
    (0..9).for_each(|number| same_tokens(&world, &[&format!("cart/{number}")]));
    assert!((0..9).all(|number| world.nodes[2].disk.lists(&format!("items::{number}"))));
    assert!(world.core(2).counters().snapshots_adopted >= 1);
    assert!(world.nodes[2].resyncs >= 1, "watchers are told");
    // And it is durable.
    world.crash(2);
    world.start(2);
    world.connect_all();
    world.converge().unwrap();
    assert_eq!(world.core(2).counters().snapshots_requested, 0);
    (0..9).for_each(|number| same_tokens(&world, &[&format!("cart/{number}")]));
}

/// A node that was away comes back to what the others have compacted.
fn comes_back(world: &mut World, at: usize) {
    for other in (0..world.nodes.len()).filter(|other| *other != at) {
        world.nodes[other].disk.compact();
    }
    world.nodes[at].purged.clear();
    world.start(at);
    world.connect_all();
    world.converge().unwrap();
    assert!(world.core(at).counters().snapshots_adopted > 0);
}

/// A registration of node 2, and whether it is listed there and was deleted.
fn fate(world: &World, name: &str) -> (bool, bool) {
    let node = &world.nodes[2];
    let deleted = node.purged.contains(&address(name));
    (node.disk.lists(name), deleted)
}

#[test]
fn g10_what_a_snapshot_brings_as_a_floor_is_taken_out_and_deleted() {
    let mut world = World::running_with(3, |config| config.limits.classes_per_top_max = 20);
    for (name, class) in [("items::1", "cart/1"), ("goods::1", "shop/1")] {
        world.register(2, name, &[class], LeaseClaim::Absent);
    }
    world.settle();
    world.crash(2);
    for number in 1..200 {
        world.invalidate(0, &[&format!("cart/{number}")]);
        world.settle();
    }
    let held = world.nodes[0].disk.class_names();
    assert!(!held.contains(&"cart/1".to_owned()), "it was evicted");
    comes_back(&mut world, 2);
    assert_eq!(fate(&world, "items::1"), (false, true));
    assert_eq!(fate(&world, "goods::1"), (true, false), "a neighbour stays");
}

#[test]
fn g10_what_a_snapshot_brings_as_a_conjunction_is_taken_out_where_all_of_it_is_met() {
    for anchor_was_bumped in [false, true] {
        let mut world = World::running(3);
        if anchor_was_bumped {
            world.invalidate(0, &["cart/1"]);
            world.settle();
        }
        for (name, classes) in [
            ("items::1", &["cart/1", "shop/1"][..]),
            ("items::2", &["cart/1/below", "shop/1"]),
            ("items::3", &["cart/1"]),
            ("items::4", &["cart/2", "shop/1"]),
        ] {
            world.register(2, name, classes, LeaseClaim::Absent);
        }
        world.settle();
        world.crash(2);
        let patience = Duration::from_secs(1);
        let both = ["cart/1", "shop/1"];
        world.invalidate_as(0, &both, Match::All, ReceiptLevel::None, patience);
        world.settle();
        comes_back(&mut world, 2);
        for met in ["items::1", "items::2"] {
            assert_eq!(fate(&world, met), (false, true), "{met}");
        }
        for neighbour in ["items::3", "items::4"] {
            assert_eq!(fate(&world, neighbour), (true, false), "{neighbour}");
        }
    }
}

/// Every part of a snapshot in turn is the last that arrives: by a crash of the receiver, of the sender, by a cut link.
#[test]
fn g1_g11_a_snapshot_that_breaks_off_hides_no_hole() {
    for ending in ["receiver", "sender", "link", "flushed receiver"] {
        for parts in 0..12 {
            let mut world = compacted();
            world.cut(1, 2);
            world.connect(0, 2);
            let mut seen = 0;
            for _ in 0..60 {
                for at in [0, 2] {
                    world.flush(at);
                }
                world.deliver_all(2, 0);
                world.pump(0);
                while world.links[&(0, 2)]
                    .front()
                    .is_some_and(|message| seen < parts || !part(message))
                {
                    seen += usize::from(part(&world.links[&(0, 2)][0]));
                    world.deliver(0, 2);
                }
                world.advance(Duration::from_millis(5));
            }
            match ending {
                "receiver" => world.crash(2),
                "flushed receiver" => {
                    world.flush(2);
                    world.crash(2);
                }
                "sender" => world.crash(0),
                _ => world.cut(0, 2),
            }
            (0..3)
                .filter(|at| !world.up(*at))
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|at| world.start(at));
            // A watermark says that a state is whole: it must be.
            let ends = |head: &OriginHead| {
                world
                    .core(2)
                    .progress()
                    .lane(head.incarnation, Lane::Bump)
                    .map_or(0, grapevine_core::progress::LaneProgress::watermark)
            };
            let whole = world
                .core(1)
                .progress()
                .heads()
                .iter()
                .all(|head| ends(head) >= head.bump);
            let told = format!("{ending} after {parts} parts, {seen} seen");
            if whole {
                for number in 0..9 {
                    let path = format!("cart/{number}");
                    let changed = world.core(2).versions().exceeds(
                        &[crate::world::class(&path)],
                        &grapevine_core::vector::VersionVector::new(),
                    );
                    assert!(changed, "{told}: {path} is missing");
                }
            }
            world.connect_all();
            world
                .converge()
                .unwrap_or_else(|error| panic!("{told}: {error}"));
            (0..9).for_each(|number| same_tokens(&world, &[&format!("cart/{number}")]));
            assert!(
                (0..9).all(|number| world.nodes[2].disk.lists(&format!("items::{number}"))),
                "{told}"
            );
        }
    }
}

/// Parts are refused while the node of who sends them has a newer run. When that one is gone and the older one is met again,
/// over a link that never broke, what it still sends is not a whole.
#[test]
fn g3_g12_a_snapshot_ends_when_its_sender_is_superseded() {
    for parts in 1.. {
        let mut world = compacted();
        world.cut(1, 2);
        world.connect(0, 2);
        let (mut seen, mut met_again) = (0, false);
        for _ in 0..60 {
            for at in [0, 2] {
                world.flush(at);
            }
            world.deliver_all(2, 0);
            world.pump(0);
            while let Some(message) = world.links[&(0, 2)].front() {
                let is_part = part(message);
                seen += usize::from(is_part);
                if is_part && seen == parts {
                    let older = world.hello(0);
                    let mut newer = older.clone();
                    newer.incarnation = Incarnation::new(0xffff).unwrap();
                    for (hello, side) in [(newer, Side::Inbound), (older, Side::Outbound)] {
                        world.input(2, Input::LinkUp { hello, side });
                        if side == Side::Inbound {
                            world.deliver(0, 2);
                        }
                    }
                    met_again = true;
                } else {
                    world.deliver(0, 2);
                }
            }
            world.advance(Duration::from_millis(5));
        }
        if !met_again {
            assert!(parts > 5, "a snapshot has {seen} parts");
            break;
        }
        world.connect_all();
        world.converge().unwrap();
        for number in 0..9 {
            same_tokens(&world, &[&format!("cart/{number}")]);
        }
    }
}

fn part(message: &PeerMessage) -> bool {
    matches!(
        message,
        PeerMessage::SnapshotBegin { .. }
            | PeerMessage::SnapshotVersions { .. }
            | PeerMessage::SnapshotDirectory { .. }
            | PeerMessage::SnapshotEnd { .. }
    )
}

#[test]
fn g11_a_snapshot_during_bumps_and_evictions_misses_none_of_them() {
    for when in 0..10 {
        let mut world = compacted();
        world.cut(1, 2);
        world.connect(0, 2);
        for step in 0..40 {
            for at in [0, 1, 2] {
                world.flush(at);
            }
            world.deliver_all(2, 0);
            world.pump(0);
            if step == when + 8 {
                // A class that the snapshot has passed, one that it has not, and a registration.
                world.invalidate(0, &["cart/0", "cart/8"]);
                world.register(0, "items::new", &["shop"], LeaseClaim::Absent);
                world.input(0, Input::Seal);
                world.flush(0);
            }
            world.deliver_all(0, 1);
            world.deliver_all(1, 0);
            world.deliver_all(0, 2);
            world.advance(Duration::from_millis(2));
        }
        world.connect_all();
        world.converge().unwrap();
        (0..9).for_each(|number| same_tokens(&world, &[&format!("cart/{number}")]));
        assert!(world.nodes[2].disk.lists("items::new"), "{when}");
    }
}

#[test]
fn g11_parts_of_another_snapshot_are_not_mixed_in() {
    let mut world = compacted();
    world.connect(0, 2);
    let from = world.incarnation(0);
    let cut: Vec<_> = world.core(1).progress().heads();
    for message in [
        PeerMessage::SnapshotBegin {
            id: 77,
            cut: cut.clone(),
        },
        PeerMessage::SnapshotEnd { id: 77 },
        PeerMessage::SnapshotEnd { id: 1 },
    ] {
        world.input(2, Input::Peer { from, message });
    }
    assert_eq!(world.core(2).counters().snapshots_adopted, 0);
    assert!(matches!(
        world.core(2).freshness(world.now),
        Freshness::CatchingUp(_)
    ));
}

#[test]
fn bumps_are_pulled_while_a_snapshot_is_under_way() {
    let mut world = World::running(3);
    world.register(0, "items::1", &["shop"], LeaseClaim::Absent);
    world.input(0, Input::Seal);
    world.flush(0);
    // The registration is lost and compacted: only a snapshot can bring it. It begins, and stalls.
    world
        .links
        .get_mut(&(0, 1))
        .unwrap()
        .retain(|message| !only(Lane::Directory, message));
    world.nodes[0].disk.compact();
    world.cut(1, 2);
    world.cut(0, 2);
    let mut requested = false;
    for _ in 0..200 {
        for (from, to) in [(0, 1), (1, 0)] {
            world.deliver_all(from, to);
        }
        world.flush(0);
        world.flush(1);
        requested |= !world.nodes[0].sending.is_empty();
        if requested {
            break;
        }
        world.advance(Duration::from_millis(10));
    }
    assert!(requested);
    world.pump(0);
    world.deliver_all(0, 1);
    // A bump gets lost now. It does not wait for the snapshot.
    let event = world.next_event(0);
    world.invalidate(0, &["cart/13"]);
    world.flush(0);
    world.drop_all(0, 1);
    let begin = world.now;
    while !world.core(1).has_all(&[event]) {
        for (from, to) in [(0, 1), (1, 0)] {
            world.deliver_all(from, to);
        }
        world.flush(0);
        world.flush(1);
        world.advance(Duration::from_millis(10));
        assert!(world.now.since(begin) < Duration::from_millis(700));
    }
}

#[test]
fn gaps_that_nobody_can_fill_keep_no_others_waiting() {
    let mut world = World::running(2);
    let from = world.incarnation(1);
    // Heads of fifty runs whose events are lost with their disks.
    let heads: Vec<_> = (1..=50)
        .map(|number| OriginHead {
            incarnation: Incarnation::new(number).unwrap(),
            bump: 3,
            directory: 0,
        })
        .collect();
    let message = PeerMessage::Grant {
        nonce: 0,
        duration: Duration::from_secs(1),
        settled: false,
        heads,
        span: Span::default(),
        lacked: Vec::new(),
    };
    world.input(0, Input::Peer { from, message });
    for _ in 0..200 {
        world.advance(Duration::from_millis(10));
        world.settle();
    }
    let event = world.next_event(1);
    world.invalidate(1, &["cart/13"]);
    world.flush(1);
    world.drop_all(1, 0);
    let begin = world.now;
    while !world.core(0).has_all(&[event]) {
        world.advance(Duration::from_millis(10));
        world.settle();
        assert!(
            world.now.since(begin) < Duration::from_millis(1_500),
            "{}",
            world.describe()
        );
    }
    let sent = world.core(0).counters().pulls_sent;
    world.advance(Duration::from_secs(16));
    let more = world.core(0).counters().pulls_sent - sent;
    assert!(
        more <= 50 * 3,
        "{more} pulls in sixteen seconds for what nobody has"
    );
}

#[test]
fn g7_who_told_of_an_event_is_asked_while_its_origin_is_silent() {
    let mut world = World::running(4);
    let event = world.next_event(0);
    world.invalidate(0, &["cart/13"]);
    world.flush(0);
    world.drop_all(0, 1);
    world.settle();
    assert!(!world.core(1).has_all(&[event]));
    // From here on the stream from the origin is stuck: what it says does not arrive, nor would what it answers.
    world.advance(Duration::from_millis(1));
    let message = PeerMessage::Grant {
        nonce: 0,
        duration: Duration::from_secs(1),
        settled: false,
        heads: world.core(2).progress().heads(),
        span: Span::default(),
        lacked: Vec::new(),
    };
    let from = world.incarnation(2);
    world.input(1, Input::Peer { from, message });
    let begin = world.now;
    while !world.core(1).has_all(&[event]) {
        world.advance(Duration::from_millis(1));
        for at in 1..4 {
            while world.flush(at) {}
            while world.pump(at) {}
        }
        for (from, to) in [(1, 2), (1, 3), (2, 1), (3, 1)] {
            world.deliver_all(from, to);
        }
        assert!(world.now.since(begin) < Duration::from_millis(60));
    }
}

/// When each of nine nodes asks for what none of them got and all hear of at one moment, in milliseconds, attempt by
/// attempt.
fn pulls_of_a_lost_push() -> Vec<BTreeSet<u128>> {
    let mut world = World::running(10);
    world.invalidate(0, &["cart/13"]);
    world.flush(0);
    let from = world.incarnation(0);
    let heads = world.core(0).progress().heads();
    for at in 1..10 {
        world.drop_all(0, at);
        let message = PeerMessage::Grant {
            nonce: 0,
            duration: Duration::from_secs(1),
            settled: false,
            heads: heads.clone(),
            span: Span::default(),
            lacked: Vec::new(),
        };
        world.input(at, Input::Peer { from, message });
    }
    let sent = |world: &World, at: usize| world.core(at).counters().pulls_sent;
    let before: Vec<_> = (1..10).map(|at| sent(&world, at)).collect();
    let begin = world.now;
    let mut moments = vec![BTreeSet::new(); 4];
    let mut attempts = [0; 10];
    // Nobody answers.
    while attempts[1..].iter().any(|&attempt| attempt < moments.len()) {
        world.advance(Duration::from_millis(1));
        for at in 1..10 {
            let so_far = usize::try_from(sent(&world, at) - before[at - 1]).unwrap();
            if so_far > attempts[at] && so_far <= moments.len() {
                moments[so_far - 1].insert(world.now.since(begin).as_millis());
            }
            attempts[at] = so_far;
        }
        assert!(world.now.since(begin) < Duration::from_secs(10));
    }
    moments
}

#[test]
fn who_lost_the_same_push_does_not_ask_for_it_in_step() {
    let moments = pulls_of_a_lost_push();
    // Waits of 25 ms, 200 ms, 400 ms and 800 ms, each longer by up to a half.
    for (moments, (earliest, latest)) in
        moments
            .iter()
            .zip([(25, 39), (225, 339), (625, 939), (1_425, 2_139)])
    {
        assert!(moments.len() >= 5, "nine ask in {moments:?}");
        let within = moments.iter().all(|at| (earliest..=latest).contains(at));
        assert!(within, "{earliest} to {latest}: {moments:?}");
    }
    assert_eq!(moments, pulls_of_a_lost_push(), "no dice are thrown");
}

#[test]
fn gaps_wait_for_a_link_and_are_asked_for_as_soon_as_there_is_one() {
    let mut world = World::running(3);
    let event = world.next_event(0);
    world.invalidate(0, &["cart/13"]);
    world.flush(0);
    world.drop_all(0, 1);
    world.drop_all(0, 2);
    // The second learns of it, and is cut off before it can ask.
    let from = world.incarnation(0);
    let heads = world.core(0).progress().heads();
    world.cut(0, 1);
    world.cut(1, 2);
    world.input(
        1,
        Input::LinkUp {
            hello: world.hello(0),
            side: grapevine_core::machine::effects::Side::Inbound,
        },
    );
    let message = PeerMessage::Grant {
        nonce: 0,
        duration: Duration::from_secs(1),
        settled: false,
        heads,
        span: Span::default(),
        lacked: Vec::new(),
    };
    world.input(1, Input::Peer { from, message });
    world.advance(Duration::from_mins(1));
    assert!(!world.core(1).has_all(&[event]));
    world.connect(0, 1);
    world.settle();
    assert!(
        world.core(1).has_all(&[event]),
        "at once, not when a long patience ends"
    );
}

#[test]
fn a_compacted_answer_for_what_has_come_meanwhile_asks_for_no_snapshot() {
    let mut world = World::running(2);
    let event = world.next_event(0);
    world.invalidate(0, &["cart/13"]);
    world.settle();
    let EventId {
        origin,
        sequence: first,
    } = event;
    let message = PeerMessage::Compacted {
        origin,
        lane: Lane::Bump,
        first,
    };
    world.input(
        1,
        Input::Peer {
            from: origin,
            message,
        },
    );
    assert_eq!(world.core(1).counters().snapshots_requested, 0);
}

#[test]
fn malformed_numbers_are_refused_and_harm_nothing() {
    let mut world = World::running(2);
    let (from, own) = (world.incarnation(1), world.incarnation(0));
    let event = world.nodes[0].applied.last().unwrap().1.clone();
    let bumps = |origin, first| PeerMessage::Bumps {
        origin,
        first,
        events: vec![std::sync::Arc::new(event.clone())],
    };
    let refused = world.core(0).counters().peer_messages_refused;
    for message in [bumps(from, 0), bumps(from, u64::MAX), bumps(own, 9)] {
        world.input(0, Input::Peer { from, message });
    }
    let stranger = Incarnation::new(9).unwrap();
    world.input(
        0,
        Input::Peer {
            from: stranger,
            message: PeerMessage::Probe {
                nonce: 1,
                mark: Mark::default(),
                since: 0,
                applied: None,
            },
        },
    );
    assert_eq!(world.core(0).counters().peer_messages_refused, refused + 4);
    let head = OriginHead {
        incarnation: stranger,
        bump: u64::MAX,
        directory: u64::MAX,
    };
    let message = PeerMessage::Grant {
        nonce: 0,
        duration: Duration::from_secs(1),
        settled: false,
        heads: vec![head],
        span: Span::default(),
        lacked: Vec::new(),
    };
    world.input(0, Input::Peer { from, message });
    world.advance(Duration::from_secs(2));
    // Nobody can have issued that many: no gap that nothing ever fills.
    assert_eq!(world.core(0).progress().missing(), 0);
}
