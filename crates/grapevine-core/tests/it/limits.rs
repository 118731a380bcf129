//! G10: everything is bounded. At a limit a call is refused with the limit's name, or more is invalidated; nothing is
//! forgotten, and no neighbour within its quota is harmed.

use std::time::Duration;

use grapevine_core::event::{BumpEvent, Match};
use grapevine_core::id::{EventId, Incarnation, Lane};
use grapevine_core::machine::CoreConfig;
use grapevine_core::machine::effects::{
    Freshness, Input, LeaseClaim, PeerMessage, ReceiptLevel, Refusal, Reply, Ticket,
};
use grapevine_core::progress::RANGES_MAX;
use grapevine_core::store::Write;
use grapevine_core::versions::{CONJUNCTIONS_MAX, bucket_of};

use crate::world::World;

fn refusal(world: &World, at: usize, call: u64) -> Option<String> {
    match world.nodes[at].replies.get(&call)? {
        Reply::Refused(refusal) => Some(refusal.to_string()),
        _ => None,
    }
}

#[test]
fn g10_a_top_level_class_beyond_the_limit_is_refused_with_its_name_and_the_limit() {
    let mut world = World::running_with(2, |config| config.limits.top_level_classes_max = 3);
    for class in ["a", "b/1", "c"] {
        let call = world.invalidate(0, &[class]);
        world.settle();
        assert_eq!(refusal(&world, 0, call), None, "{class}");
    }
    let call = world.invalidate(0, &["d/2"]);
    let text = refusal(&world, 0, call).unwrap();
    assert!(text.contains("class d/2 "), "{text}");
    assert!(
        text.contains("limit is 3") && text.contains("top_level_classes_max"),
        "{text}"
    );
    let known = world.invalidate(0, &["c/9", "b"]);
    world.settle();
    assert_eq!(refusal(&world, 0, known), None);
}

#[test]
fn g10_the_limit_counts_what_is_still_being_written() {
    let mut world = World::running_with(2, |config| config.limits.top_level_classes_max = 3);
    let calls: Vec<_> = ["a", "b", "c", "d", "a", "e"]
        .map(|class| world.invalidate(0, &[class]))
        .into();
    let refused: Vec<_> = calls
        .iter()
        .map(|call| refusal(&world, 0, *call).is_some())
        .collect();
    assert_eq!(refused, [false, false, false, true, false, true]);
    world.settle();
    assert_eq!(world.core(0).versions().tops(), 3);
}

#[test]
fn g10_class_counts_are_refused_with_their_limits() {
    let mut world = World::running(2);
    let many: Vec<_> = (0..1_001).map(|number| format!("cart/{number}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let call = world.invalidate(0, &many);
    assert!(
        refusal(&world, 0, call)
            .unwrap()
            .contains("1001 of them; the limits are 1 to 1000")
    );
    let call = world.invalidate(0, &[]);
    assert!(refusal(&world, 0, call).unwrap().contains("0 of them"));
    let patience = Duration::from_secs(1);
    let call = world.invalidate_as(0, &many[..9], Match::All, ReceiptLevel::None, patience);
    assert!(
        refusal(&world, 0, call)
            .unwrap()
            .contains("9 of them; the limits are 1 to 8")
    );
}

fn small(config: &mut CoreConfig) {
    config.limits.classes_per_top_max = 50;
}

#[test]
fn g10_an_eviction_hits_the_offender_s_top_level_class_only() {
    let mut world = World::running_with(3, small);
    let calm: Vec<_> = (0..40).map(|number| format!("calm/{number}")).collect();
    for class in &calm {
        world.invalidate(1, &[class]);
    }
    world.settle();
    let tokens =
        |world: &World| -> Vec<_> { calm.iter().map(|class| world.token(2, &[class])).collect() };
    let before = tokens(&world);
    let mut superseded = Vec::new();
    for number in 0..300 {
        let class = format!("busy/{number}");
        superseded.push((class.clone(), world.token(2, &[&class])));
        world.invalidate(0, &[&class]);
        if number % 7 == 0 {
            world.settle();
        }
    }
    world.settle();
    assert_eq!(tokens(&world), before, "a neighbour within its quota");
    for (class, token) in superseded {
        assert_ne!(world.token(2, &[&class]), token, "{class} was forgotten");
    }
    for at in 0..3 {
        assert!(
            world.core(at).versions().len() <= 50 + 40 + 5,
            "{}",
            world.core(at).versions().len()
        );
        let stored = world.nodes[at].disk.class_names();
        assert!(
            stored.len() <= 50 + 40 + 5,
            "{} records on the disk of {at}",
            stored.len()
        );
    }
    assert!(world.core(0).counters().floors_own > 0);
}

#[test]
fn g10_a_table_that_others_fill_is_bounded_too() {
    let mut world = World::running_with(2, |config| {
        config.limits.classes_per_top_max = if config.node_id.as_str() == "b" {
            16
        } else {
            10_000
        };
    });
    for number in 0..400 {
        world.invalidate(0, &[&format!("busy/{number}")]);
        world.settle();
    }
    assert!(
        world.core(1).versions().len() <= 16 + 16 / 8 + 3,
        "{}",
        world.core(1).versions().len()
    );
    assert!(
        world.core(0).versions().len() <= 16 + 16 / 8 + 3,
        "floors travel"
    );
}

fn within_limits(world: &World) {
    let held = world.core(2).versions().len();
    assert!(held <= 16 + 16 / 8 + 3, "{held} classes");
}

#[test]
fn g10_a_table_that_a_snapshot_fills_is_bounded_too() {
    let mut world = World::running_with(3, |config| {
        config.limits.classes_per_top_max = if config.node_id.as_str() == "c" {
            16
        } else {
            10_000
        };
    });
    // It has caught up, and misses what the others have compacted when it meets them again.
    world.cut(0, 2);
    world.cut(1, 2);
    for number in 0..400 {
        world.invalidate(number % 2, &[&format!("busy/{number}")]);
    }
    world.settle();
    for at in [0, 1] {
        world.nodes[at].disk.compact();
    }
    world.connect_all();
    world.converge().unwrap();
    assert!(world.core(2).counters().snapshots_adopted > 0);
    within_limits(&world);
}

#[test]
fn g10_a_table_that_is_too_large_at_the_start_is_evicted_once_the_sidecar_has_caught_up() {
    let mut world = World::running(3);
    for number in 0..400 {
        world.invalidate(2, &[&format!("busy/{number}")]);
    }
    world.settle();
    world.crash(2);
    world.nodes[2].config.limits.classes_per_top_max = 16;
    world.start(2);
    world.settle();
    let (evictions, held) = (
        world.core(2).counters().floors_own,
        world.core(2).versions().len(),
    );
    assert!(
        evictions == 0 && held >= 400,
        "alone it does not know what else there is"
    );
    world.connect_all();
    world.converge().unwrap();
    assert_eq!(world.core(2).counters().snapshots_adopted, 0);
    within_limits(&world);
}

#[test]
fn g10_no_record_outlives_its_floor_on_disk() {
    let mut world = World::running_with(3, small);
    // Bumps and floors cross: late events that a floor covers leave nothing behind.
    for round in 0..60 {
        for at in 0..3 {
            for number in 0..4 {
                world.invalidate(
                    at,
                    &[&format!("busy/{}", (round * 12 + at * 4 + number) % 400)],
                );
            }
            world.flush(at);
        }
        for (from, to) in [(0, 1), (2, 1), (1, 0), (2, 0), (1, 2), (0, 2)] {
            while world.links[&(from, to)].len() > 3 {
                let last = world.links[&(from, to)].len() - 1;
                world.deliver_nth(from, to, last);
            }
        }
    }
    world.converge().unwrap();
    for at in 0..3 {
        let stored = world.nodes[at].disk.class_names().len();
        let held = world.core(at).versions().len();
        assert!(
            stored <= held,
            "{stored} records for {held} classes on {at}"
        );
    }
}

#[test]
fn g10_a_record_that_comes_between_a_floor_and_its_flush_goes_with_it() {
    let mut world = World::running_with(2, |config| {
        config.limits.classes_per_top_max = usize::from(config.node_id.as_str() == "b") * 50;
    });
    for _ in 0..2 {
        world.invalidate(1, &["cart/1"]);
        world.flush(1);
    }
    // The later bump comes first and fills the table; the earlier one while the floor is being written.
    world.deliver_nth(1, 0, 1);
    world.deliver_nth(1, 0, 0);
    world.flush(0);
    world.flush(0);
    assert!(world.core(0).counters().floors_own > 0);
    let stored = world.nodes[0].disk.class_names();
    assert!(!stored.iter().any(|class| class == "cart/1"), "{stored:?}");
}

#[test]
fn g10_one_conjunction_too_many_bumps_its_anchor_as_a_whole() {
    let mut world = World::running(2);
    let patience = Duration::from_secs(1);
    let alone = world.token(1, &["a/1"]);
    for number in 0..CONJUNCTIONS_MAX + 5 {
        let paths = ["a/1".to_owned(), format!("b/{number}")];
        let paths: Vec<_> = paths.iter().map(String::as_str).collect();
        world.invalidate_as(0, &paths, Match::All, ReceiptLevel::None, patience);
        if number + 1 == CONJUNCTIONS_MAX {
            assert_eq!(world.core(0).counters().escalations, 0);
            assert_eq!(world.token(1, &["a/1"]), alone, "nobody who is not in both");
        }
    }
    // Also those count that are still being written.
    assert_eq!(world.core(0).counters().escalations, 5);
    world.settle();
    assert_ne!(world.token(1, &["a/1"]), alone);
    assert_eq!(world.token(0, &["a/1"]), world.token(1, &["a/1"]));
}

/// A bump of the whole anchor makes room again, and one more bump of a conjunction that is held takes none.
#[test]
fn g10_conjunctions_that_are_held_or_covered_escalate_nothing() {
    let mut world = World::running(2);
    let joint = |world: &mut World, user: usize| {
        let user = format!("user/{user}");
        let patience = Duration::from_secs(1);
        world.invalidate_as(
            0,
            &["cart", &user],
            Match::All,
            ReceiptLevel::None,
            patience,
        );
        world.settle();
    };
    for _ in 0..2 {
        (0..CONJUNCTIONS_MAX).for_each(|user| joint(&mut world, user));
    }
    assert_eq!(world.core(0).counters().escalations, 0);
    world.invalidate(0, &["cart"]);
    world.settle();
    for at in 0..2 {
        let anchor = grapevine_core::names::ClassPath::parse("cart").unwrap();
        assert_eq!(world.core(at).versions().conjunction_count(&anchor), 0);
    }
    let before = world.token(1, &["cart/1", "user/7"]);
    joint(&mut world, 7);
    assert_ne!(world.token(1, &["cart/1", "user/7"]), before);
    assert_eq!(world.core(0).counters().escalations, 0);
}

/// `*` narrows nothing down, wherever it stands among the classes in byte order.
#[test]
fn g3_a_conjunction_with_everything_is_what_is_left_of_it() {
    for other in ["$user/7", "user/7"] {
        let mut world = World::running(2);
        let of = &["cart/1", other];
        let before = (world.token(1, of), world.token(1, &["cart/1"]));
        let patience = Duration::from_secs(1);
        let level = ReceiptLevel::None;
        world.invalidate_as(0, &["*", other], Match::All, level, patience);
        world.settle();
        assert_ne!(world.token(1, of), before.0, "{other}");
        assert_eq!(world.token(1, &["cart/1"]), before.1, "{other}");
        for number in 0..=CONJUNCTIONS_MAX {
            let user = format!("user/{number}");
            world.invalidate_as(0, &["*", &user], Match::All, level, patience);
            world.settle();
        }
        assert_eq!(world.core(0).counters().escalations, 0);
    }
}

/// Receivers count top-level classes as their origin does: one bump of many classes below a new one brings in one.
#[test]
fn g12_a_bump_of_many_classes_means_the_same_at_its_origin_and_elsewhere() {
    let mut world = World::running_with(3, |config| config.limits.top_level_classes_max = 100);
    world.invalidate(1, &["other"]);
    world.settle();
    let many: Vec<_> = (0..250).map(|number| format!("cart/{number}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    world.invalidate(0, &many);
    world.settle();
    for paths in [["cart/7"], ["other"], ["third"]] {
        assert_eq!(world.token(0, &paths), world.token(1, &paths), "{paths:?}");
    }
}

/// However many classes one flush brings in, the next floors bring the table back to its bound.
#[test]
fn g10_a_flood_within_one_flush_is_evicted_in_one_go() {
    let mut world = World::running_with(2, small);
    for call in 0..10 {
        let many: Vec<_> = (0..500)
            .map(|number| format!("busy/{call}/{number}"))
            .collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        world.invalidate(0, &many);
    }
    world.settle();
    for at in 0..2 {
        let held = world.core(at).versions().len();
        assert!(held <= 50 + 5, "{held} held at {at}");
    }
}

/// A bump that comes after its floor changes no token, but takes registrations out: they must not count as known.
#[test]
fn g4_what_a_late_bump_took_out_is_registered_again() {
    let mut world = World::running_with(2, |config| {
        config.limits.classes_per_top_max = usize::from(config.node_id.as_str() == "b") * 50;
    });
    world.invalidate(0, &["cart/1"]);
    world.flush(0);
    // The bump is lost on its way, the floor that swallows it is not.
    world.drop_all(0, 1);
    world.flush(0);
    world.deliver_all(0, 1);
    let register = |world: &mut World| {
        world.register(1, "items::1", &["cart/1"], LeaseClaim::Absent);
        world.input(1, Input::Seal);
        world.flush(1);
        assert!(world.nodes[1].disk.lists("items::1"));
    };
    register(&mut world);
    world.converge().unwrap();
    assert!(!world.nodes[1].disk.lists("items::1"), "the bump came");
    register(&mut world);
}

/// Registrations of many stamps make few batches, and none of them speaks for an item that it should not.
#[test]
fn g10_g4_registrations_of_many_stamps_make_few_batches() {
    let mut world = World::running(2);
    let mut items = Vec::new();
    for number in 0..200 {
        let (name, class) = (format!("items::{number}"), format!("cart/{number}"));
        let lease = world.resolve(0, &name, &[&class]).lease;
        items.push((name, class.clone(), lease));
        // Later than the lease of the one before, earlier than that of the next.
        world.invalidate(0, &[&format!("cart/{}", number + 1)]);
        world.settle();
    }
    for (name, class, lease) in &items {
        world.register(0, name, &[class], LeaseClaim::Lease(*lease));
    }
    let before = world
        .core(0)
        .progress()
        .lane(world.incarnation(0), Lane::Directory);
    let before = before.map_or(0, grapevine_core::progress::LaneProgress::head);
    world.settle();
    let own = world
        .core(0)
        .progress()
        .lane(world.incarnation(0), Lane::Directory)
        .unwrap();
    let batches = own.head() - before;
    assert!((2..=64).contains(&batches), "{batches} batches");
    for (name, ..) in &items[..60] {
        assert!(
            world.nodes[1].disk.lists(name),
            "{name} was condemned at the peer"
        );
    }
}

#[test]
fn g10_calls_that_wait_for_receipts_are_limited() {
    let mut world = World::running_for_long(2, |config| config.limits.receipts_max = 3);
    let patience = Duration::from_secs(1);
    let call =
        |world: &mut World| world.invalidate_as(0, &["a"], Match::Any, ReceiptLevel::All, patience);
    let calls: Vec<_> = (0..4).map(|_| call(&mut world)).collect();
    assert!(
        refusal(&world, 0, calls[3])
            .unwrap()
            .contains("limits.receipts_max")
    );
    world.flush(0);
    let still = call(&mut world);
    assert!(
        refusal(&world, 0, still).is_some(),
        "flushed, and not answered"
    );
    world.settle();
    let again = call(&mut world);
    assert_eq!(refusal(&world, 0, again), None);
    world.settle();
    assert!(
        calls[..3]
            .iter()
            .all(|call| matches!(world.nodes[0].replies[call], Reply::Invalidated { .. }))
    );
}

#[test]
fn g10_who_wants_no_receipt_is_never_refused_for_want_of_places() {
    let mut world = World::running_for_long(2, |config| config.limits.receipts_max = 1);
    let patience = Duration::from_secs(1);
    let call =
        |world: &mut World, level| world.invalidate_as(0, &["a"], Match::Any, level, patience);
    let waits = call(&mut world, ReceiptLevel::All);
    let refused = call(&mut world, ReceiptLevel::All);
    assert!(refusal(&world, 0, refused).is_some());
    let none = [0, 1].map(|_| call(&mut world, ReceiptLevel::None));
    world.flush(0);
    for none in none {
        assert_eq!(refusal(&world, 0, none), None);
        assert!(world.nodes[0].replies.contains_key(&none));
    }
    assert!(!world.nodes[0].replies.contains_key(&waits));
    assert_eq!(world.core(0).receipt_places(), 0);
    world.settle();
    assert_eq!(world.core(0).receipt_places(), 1);
}

#[test]
fn g10_a_caller_that_is_gone_gives_its_place_back_flushed_or_not() {
    let mut world = World::running_with(2, |config| config.limits.receipts_max = 2);
    let patience = Duration::from_mins(1);
    let call =
        |world: &mut World| world.invalidate_as(0, &["a"], Match::Any, ReceiptLevel::All, patience);
    let flushed = call(&mut world);
    world.flush(0);
    let written = call(&mut world);
    assert_eq!(world.core(0).receipt_places(), 0);
    world.input(0, Input::Gone([Ticket(flushed), Ticket(written)].into()));
    assert_eq!(world.core(0).receipt_places(), 2);
    // Both were done, and are answered: whoever keeps books of calls closes them.
    world.flush(0);
    for gone in [flushed, written] {
        assert!(matches!(
            world.nodes[0].replies[&gone],
            Reply::Invalidated { .. }
        ));
    }
    assert_eq!(world.core(0).receipt_places(), 2);
}

#[test]
fn g10_a_refused_receipt_says_when_a_place_is_free() {
    let mut world = World::running_with(2, |config| config.limits.receipts_max = 1);
    let after = |world: &World, call| match &world.nodes[0].replies[&call] {
        Reply::Refused(Refusal::Receipts { after, .. }) => *after,
        other => panic!("{other:?}"),
    };
    world.cut(0, 1);
    let patience = Duration::from_millis(700);
    let quorum = |world: &mut World| {
        world.invalidate_as(0, &["a"], Match::Any, ReceiptLevel::Quorum, patience)
    };
    let _waits = quorum(&mut world);
    world.flush(0);
    let refused = quorum(&mut world);
    let wait = after(&world, refused);
    assert!(
        wait > Duration::from_millis(50) && wait <= patience,
        "{wait:?}"
    );
    world.advance(patience);
    let again = quorum(&mut world);
    assert_eq!(refusal(&world, 0, again), None);
}

#[test]
fn g10_beyond_origins_max_a_sidecar_is_not_fresh_rather_than_ignorant() {
    let mut world = World::running_with(2, |config| {
        config.limits.origins_max = if config.node_id.as_str() == "a" {
            4
        } else {
            100
        };
    });
    // The peer follows three more runs, of which only two fit here.
    let from = world.incarnation(0);
    for number in 1..=3 {
        let origin = Incarnation::new(number).unwrap();
        let event = BumpEvent::Bump(grapevine_core::event::Bump {
            classes: crate::world::classes(&["cart/13"]),
            matching: Match::Any,
            purge: grapevine_core::event::PurgeMode::Hard,
        });
        let events = vec![std::sync::Arc::new(event)];
        let message = PeerMessage::Bumps {
            origin,
            first: 1,
            events,
        };
        world.input(1, Input::Peer { from, message });
    }
    for _ in 0..30 {
        world.settle();
        world.advance(Duration::from_millis(100));
    }
    assert_eq!(world.core(0).progress().len(), 4);
    assert!(matches!(
        world.core(0).freshness(world.now),
        Freshness::Unknown(_)
    ));
    assert_eq!(world.core(1).freshness(world.now), Freshness::Fresh);
}

#[test]
fn g10_ranges_above_a_watermark_are_bounded_and_filled_again() {
    let mut world = World::running(2);
    let count = u64::try_from(RANGES_MAX).unwrap() * 2 + 200;
    for number in 0..count {
        world.invalidate(0, &[&format!("cart/{}", number % 10)]);
        world.flush(0);
    }
    // Every other push is lost.
    let mut keep = false;
    world.links.get_mut(&(0, 1)).unwrap().retain(|message| {
        keep = !keep;
        keep || !matches!(message, PeerMessage::Bumps { .. })
    });
    world.deliver_all(0, 1);
    let origin = world.incarnation(0);
    let lane = world.core(1).progress().lane(origin, Lane::Bump).unwrap();
    assert!(lane.above().count() <= RANGES_MAX);
    world.converge().unwrap();
    let last = EventId {
        origin,
        sequence: world.next_event(0).sequence - 1,
    };
    assert!(world.core(1).has_all(&[last]) && world.core(1).progress().missing() == 0);
    (0..10).for_each(|n| {
        let class = format!("cart/{n}");
        assert_eq!(world.token(0, &[&class]), world.token(1, &[&class]));
    });
}

#[test]
fn g10_messages_are_no_longer_than_a_peer_takes() {
    let mut world = World::running(2);
    for number in 0..2_500 {
        world.invalidate(0, &[&format!("cart/{}", number % 10)]);
    }
    let wide: Vec<_> = (0..1_000).map(|number| format!("shop/{number}")).collect();
    let wide: Vec<_> = wide.iter().map(String::as_str).collect();
    for _ in 0..25 {
        world.invalidate(0, &wide);
    }
    for number in 0..3_000 {
        let class = format!("own/{}", number % 200);
        world.register(0, &format!("x::{number}"), &[&class], LeaseClaim::Absent);
    }
    world.drop_all(0, 1);
    world.input(0, Input::Seal);
    world.flush(0);
    let mut next = 0;
    for message in &world.links[&(0, 1)] {
        match message {
            PeerMessage::Bumps { first, events, .. } => {
                assert!(next == 0 || *first == next, "in order, without holes");
                next = first + events.len() as u64;
                let classes = events.iter().map(|event| match &**event {
                    BumpEvent::Bump(bump) => bump.classes.len(),
                    _ => 0,
                });
                assert!(events.len() <= 1_000 && classes.sum::<usize>() <= 10_000);
            }
            PeerMessage::Directory { batches, .. } => {
                let count: usize = batches.iter().map(|batch| batch.registrations.len()).sum();
                assert!(batches.len() <= 64 && count <= 10_000);
            }
            _ => {}
        }
    }
    world.converge().unwrap();
    assert_eq!(world.token(0, &["shop/7"]), world.token(1, &["shop/7"]));
}

#[test]
fn g10_buckets_are_spread() {
    let mut counts = [0_u32; 256];
    (0..25_600).for_each(|number| counts[usize::from(bucket_of(&format!("cart/{number}")))] += 1);
    assert!(
        counts.iter().all(|count| (40..180).contains(count)),
        "{counts:?}"
    );
}

/// A sweep that left lapsed registrations is followed by the next one at once; else they come every ten seconds.
#[test]
fn g10_lapsed_registrations_are_swept_as_fast_as_they_lapse() {
    let mut world = World::running(1);
    world.settle();
    let sweeps = |world: &World| {
        let groups = world.nodes[0].unflushed.iter();
        let writes = groups.flat_map(|(_, writes)| writes);
        writes
            .filter(|write| matches!(write, Write::Expire { .. }))
            .count()
    };
    world.input(0, Input::Wake);
    world.flush(0);
    assert!(world.core(0).next_wake(world.now) > world.now);
    world.input(0, Input::ExpiryBacklog);
    assert!(world.core(0).next_wake(world.now) <= world.now);
    world.input(0, Input::Wake);
    assert_eq!(sweeps(&world), 1);
    world.input(0, Input::Wake);
    assert_eq!(sweeps(&world), 1, "one at a time");
}
