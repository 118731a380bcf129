//! G10: everything is bounded. At a limit a call is refused with the limit's name, or more is invalidated; nothing is
//! forgotten, and no neighbour within its quota is harmed.

use std::time::Duration;

use grapevine_core::event::{BumpEvent, Match};
use grapevine_core::id::{EventId, Incarnation, Lane};
use grapevine_core::machine::CoreConfig;
use grapevine_core::machine::effects::{
    Freshness, Input, LeaseClaim, PeerMessage, ReceiptLevel, Reply,
};
use grapevine_core::progress::RANGES_MAX;
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
    assert!(text.contains("\"d/2\"") || text.contains("d/2"), "{text}");
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

#[test]
fn g10_calls_that_wait_for_receipts_are_limited() {
    let mut world = World::running_with(2, |config| config.limits.receipts_max = 3);
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
                    BumpEvent::Floor(_) => 0,
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
