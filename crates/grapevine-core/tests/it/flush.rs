//! G1: an own event shows nowhere before it is flushed, and what is acknowledged survives.

use std::collections::BTreeSet;
use std::time::Duration;

use grapevine_core::event::Match;
use grapevine_core::id::Incarnation;
use grapevine_core::machine::effects::{
    Input, LeaseClaim, PeerMessage, ReceiptLevel, Reply, Verdict,
};

use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn g1_own_event_shows_nowhere_before_flush() {
    let mut world = World::running(3);
    let (token, stamp) = (
        world.token(0, &["cart/13"]),
        world.core(0).versions().stamp(),
    );
    let before = world.nodes[0].applied.len();
    let event = world.next_event(0);
    let call = world.invalidate(0, &["cart/13"]);
    // Nothing that happens meanwhile may show it either.
    world.invalidate(0, &["cart/14"]);
    world.register(0, "x", &["cart/13"], LeaseClaim::Absent);
    world.input(0, Input::Seal);
    world.advance(Duration::from_millis(300));
    world.dial(1, 0);
    let asked: Vec<_> = (0..3)
        .flat_map(|from| (0..3).map(move |to| (from, to)))
        .collect();
    for (from, to) in asked {
        if from != 0 {
            world.deliver_all(from, to);
        }
    }

    assert_eq!(world.token(0, &["cart/13"]), token, "a token shows it");
    assert_eq!(world.core(0).versions().stamp(), stamp, "a stamp shows it");
    assert!(!world.core(0).has_all(&[event]), "a session shows it");
    assert!(
        !world.nodes[0].replies.contains_key(&call),
        "a reply shows it"
    );
    assert_eq!(world.nodes[0].applied.len(), before, "watchers are told");
    assert!(world.nodes[0].purged.is_empty(), "a purge shows it");
    assert!(!world.core(0).progress().has(event), "heads show it");
    for message in [1, 2].iter().flat_map(|to| &world.links[&(0, *to)]) {
        match message {
            PeerMessage::Bumps { .. } | PeerMessage::Directory { .. } => {
                panic!("pushed: {message:?}")
            }
            PeerMessage::Grant { heads, .. } => {
                let own = heads.iter().find(|head| head.incarnation == event.origin);
                let told =
                    own.is_some_and(|head| head.bump >= event.sequence || head.directory > 0);
                assert!(!told, "a grant tells its head");
            }
            _ => {}
        }
    }

    world.flush(0);
    assert_ne!(world.token(0, &["cart/13"]), token);
    assert!(world.core(0).has_all(&[event]));
    assert!(matches!(
        world.nodes[0].replies[&call],
        Reply::Invalidated { .. }
    ));
    let pushed = world.links[&(0, 1)]
        .iter()
        .any(|message| matches!(message, PeerMessage::Bumps { .. }));
    assert!(pushed);
}

#[test]
fn g1_one_flush_lets_out_all_that_waited_for_it_in_order() {
    let mut world = World::running(2);
    let next = world.next_event(0).sequence;
    let first = world.invalidate(0, &["a"]);
    let second = world.invalidate(0, &["b"]);
    assert_eq!(world.nodes[0].unflushed.len(), 2);
    world.drop_all(0, 1);
    world.flush(0);
    assert_eq!(world.links[&(0, 1)].len(), 1, "one push for both");
    match &world.links[&(0, 1)][0] {
        PeerMessage::Bumps { first, events, .. } => assert_eq!((*first, events.len()), (next, 2)),
        other => panic!("{other:?}"),
    }
    let sequence = |world: &World, call| match &world.nodes[0].replies[&call] {
        Reply::Invalidated { event, .. } => event.sequence,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        (sequence(&world, first), sequence(&world, second)),
        (next, next + 1)
    );
}

#[test]
fn g1_a_flush_of_the_first_group_lets_the_second_wait() {
    let mut world = World::running(2);
    let next = world.next_event(0).sequence;
    let first = world.invalidate(0, &["a"]);
    let second = world.invalidate(0, &["b"]);
    let held = world.nodes[0].unflushed.pop_back().unwrap();
    world.flush(0);
    assert!(world.nodes[0].replies.contains_key(&first));
    assert!(!world.nodes[0].replies.contains_key(&second));
    assert_eq!(world.next_event(0).sequence, next + 1);
    world.nodes[0].unflushed.push_back(held);
    world.flush(0);
    assert!(world.nodes[0].replies.contains_key(&second));
}

#[test]
fn g1_what_is_acknowledged_by_a_peer_survives_the_loss_of_either() {
    for lost in [0, 1] {
        let mut world = World::running(3);
        let token = world.token(2, &["cart/13"]);
        world.cut(0, 2);
        world.cut(1, 2);
        let call = world.invalidate_as(0, &["cart/13"], Match::Any, ReceiptLevel::One, PATIENCE);
        world.flush(0);
        assert!(
            !world.nodes[0].replies.contains_key(&call),
            "answered before a peer has it"
        );
        world.deliver_all(0, 1);
        world.deliver_all(1, 0);
        assert!(
            !world.nodes[0].replies.contains_key(&call),
            "answered before a peer flushed it"
        );
        world.flush(1);
        world.deliver_all(1, 0);
        assert!(world.nodes[0].replies.contains_key(&call));
        world.crash(lost);
        world.wipe(lost);
        world.start(lost);
        world.connect_all();
        world.converge().unwrap();
        let tokens: BTreeSet<_> = (0..3).map(|node| world.token(node, &["cart/13"])).collect();
        assert!(
            tokens.len() == 1 && !tokens.contains(&token),
            "node {lost} lost: {tokens:?}"
        );
    }
}

#[test]
fn g1_an_unflushed_event_of_a_crash_never_was() {
    let mut world = World::running(3);
    let token = world.token(0, &["cart/13"]);
    world.invalidate(0, &["cart/13"]);
    world.crash(0);
    world.start(0);
    world.connect_all();
    world.converge().unwrap();
    (0..3).for_each(|node| assert_eq!(world.token(node, &["cart/13"]), token));
}

#[test]
fn g1_a_flushed_event_of_a_crash_reaches_everyone_from_its_disk() {
    let mut world = World::running(3);
    let token = world.token(0, &["cart/13"]);
    world.invalidate(0, &["cart/13"]);
    world.flush(0);
    world.crash(0);
    world.start(0);
    world.connect_all();
    world.converge().unwrap();
    let tokens: BTreeSet<_> = (0..3).map(|node| world.token(node, &["cart/13"])).collect();
    assert!(tokens.len() == 1 && !tokens.contains(&token), "{tokens:?}");
}

#[test]
fn g1_a_sidecar_that_leaves_says_first_what_it_has_acknowledged() {
    let mut world = World::running(3);
    let event = world.next_event(0);
    world.invalidate(0, &["cart/13"]);
    world.register(0, "items::12", &["cart/12"], LeaseClaim::Absent);
    world.input(0, Input::Drain);
    let refused = world.invalidate(0, &["cart/14"]);
    assert!(
        matches!(&world.nodes[0].replies[&refused], Reply::Refused(refusal) if refusal.to_string().contains("draining"))
    );
    world.settle();
    for node in [1, 2] {
        assert!(world.core(node).has_all(&[event]), "{}", world.describe());
        assert!(
            world.nodes[node].disk.lists("items::12"),
            "its registrations are known, too"
        );
        assert_eq!(world.core(node).members(world.now).len(), 1);
    }
}

#[test]
fn g4_a_repeated_registration_is_judged_when_it_is_answered() {
    let mut world = World::running(2);
    let lease = LeaseClaim::Lease(world.resolve(0, "x", &["cart/13"]).lease);
    let first = world.register(0, "x", &["cart/13"], lease);
    let again = world.register(0, "x", &["cart/13"], lease);
    assert_eq!(world.core(0).counters().registrations_suppressed, 1);
    world.input(0, Input::Seal);
    world.invalidate(1, &["cart/13"]);
    world.flush(1);
    world.deliver_all(1, 0);
    world.flush(0);
    for call in [first, again] {
        assert!(
            matches!(world.verdict(0, call), Some(Verdict::Condemned(_))),
            "call {call}"
        );
    }
}

/// Operators are to look closer at what is refused ever; an orderly departure is nothing of the kind.
#[test]
fn what_was_on_its_way_when_its_sender_left_is_not_counted_as_refused() {
    let mut world = World::running(2);
    let gone = world.incarnation(1);
    world.input(1, Input::Drain);
    world.settle();
    let ack = || PeerMessage::Ack {
        watermark: 1,
        above: Vec::new(),
        flushed: None,
    };
    let refused = |world: &World| world.core(0).counters().peer_messages_refused;
    let before = refused(&world);
    let late = Input::Peer {
        from: gone,
        message: ack(),
    };
    world.input(0, late);
    assert_eq!(refused(&world), before);
    let stranger = Input::Peer {
        from: Incarnation::from_random(77, 0),
        message: ack(),
    };
    world.input(0, stranger);
    assert_eq!(refused(&world), before + 1);
}
