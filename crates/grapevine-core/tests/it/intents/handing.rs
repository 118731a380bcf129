//! G8: what is held for a run that lost its seat is handed on until another member has said that it holds it, too.

use std::time::Duration;

use grapevine_core::intent::{INTENT_GRACE, IntentId};
use grapevine_core::machine::effects::{Forget, Input, PeerMessage};
use grapevine_core::names::NodeId;

use super::{EARLIER, LEASE, STEP, STRETCH, bumps, open, pass};
use crate::world::World;

/// The other one of two is gone for good.
fn forget(world: &mut World, at: usize, gone: &str) {
    let ticket = world.ticket();
    let forget = Forget {
        node_id: NodeId::parse(gone).unwrap(),
        alone: false,
    };
    world.input(at, Input::Forget(ticket, forget));
    world.settle();
}

/// One that is alone by the roster takes an intent, and is started again: its next run holds it, alone as before.
fn alone() -> (World, IntentId) {
    let mut world = World::running(2);
    world.crash(1);
    world.wipe(1);
    pass(&mut world, STEP);
    forget(&mut world, 0, "b");
    let intent = open(&mut world, 0, &["cart/13"]);
    world.crash(0);
    world.start(0);
    world.settle();
    assert_eq!(world.core(0).roster().seats.len(), 1);
    assert_eq!(world.core(0).intents_held(), 1);
    (world, intent)
}

/// The second one comes, is seated, and has been handed the intent.
fn second_is_seated(world: &mut World, intent: IntentId) {
    world.start(1);
    world.connect_all();
    world.settle();
    assert_eq!(world.core(0).roster().seats.len(), 2);
    assert_eq!(world.nodes[1].disk.intents(), [intent]);
}

/// Loses what asks a node to hold an intent, and gives it all else.
fn deliver_no_intents(world: &mut World, from: usize, to: usize) -> usize {
    let queue = world.links.get_mut(&(from, to)).unwrap();
    let before = queue.len();
    queue.retain(|message| !matches!(message, PeerMessage::Intent(_)));
    let lost = before - queue.len();
    world.deliver_all(from, to);
    lost
}

/// The disk of the first one is lost, and a bump comes all the same, not before the lease is over.
fn is_bumped_without_the_first(world: &mut World, at: usize, lease_over: bool) {
    world.crash(0);
    world.wipe(0);
    let before = bumps(world, at, "cart/13");
    if !lease_over {
        pass(world, EARLIER);
        assert_eq!(bumps(world, at, "cart/13"), before, "the commit is to come");
    }
    pass(world, STEP + LEASE + 3 * INTENT_GRACE + STRETCH);
    assert_eq!(bumps(world, at, "cart/13"), before + 1);
}

#[test]
fn g8_what_rests_on_the_disk_of_one_that_was_alone_is_handed_to_who_is_seated_next() {
    let (mut world, intent) = alone();
    world.start(1);
    world.connect_all();
    let asks = |message: &PeerMessage| matches!(message, PeerMessage::Intent(_));
    let asked = world.links[&(0, 1)].iter().any(asks);
    assert!(asked, "as soon as it is there, for it will have a seat");
    world.settle();
    assert_eq!(world.core(0).roster().seats.len(), 2);
    assert_eq!(world.nodes[1].disk.intents(), [intent]);
    is_bumped_without_the_first(&mut world, 1, false);
}

#[test]
fn g8_a_hand_over_that_is_lost_is_said_again() {
    let (mut world, intent) = alone();
    world.start(1);
    world.connect_all();
    let mut lost = 0;
    for _ in 0..100 {
        lost += deliver_no_intents(&mut world, 0, 1);
        world.deliver_all(1, 0);
        for at in [0, 1] {
            world.input(at, Input::Seal);
            world.flush(at);
            world.pump(at);
        }
    }
    assert!(lost > 0);
    assert_eq!(world.core(0).roster().seats.len(), 2);
    assert_eq!(world.nodes[1].disk.intents(), []);
    // And when that is lost, too, after twice as long.
    world.advance(Duration::from_millis(450));
    assert_eq!(deliver_no_intents(&mut world, 0, 1), 0);
    world.advance(Duration::from_millis(100));
    assert_eq!(deliver_no_intents(&mut world, 0, 1), 1);
    world.advance(Duration::from_millis(900));
    assert_eq!(deliver_no_intents(&mut world, 0, 1), 0);
    pass(&mut world, Duration::from_millis(200));
    assert_eq!(world.nodes[1].disk.intents(), [intent]);
    // It was said so, and is asked no more.
    let asked = |world: &mut World| {
        world.advance(LEASE / 4);
        deliver_no_intents(world, 0, 1)
    };
    assert_eq!(asked(&mut world) + asked(&mut world), 0);
    is_bumped_without_the_first(&mut world, 1, true);
}

#[test]
fn g8_who_held_what_was_handed_over_and_lost_its_seat_is_replaced() {
    let (mut world, intent) = alone();
    second_is_seated(&mut world, intent);
    world.crash(1);
    world.wipe(1);
    pass(&mut world, STEP);
    forget(&mut world, 0, "b");
    assert_eq!(world.core(0).roster().seats.len(), 1);
    second_is_seated(&mut world, intent);
    is_bumped_without_the_first(&mut world, 1, true);
}

#[test]
fn g8_what_one_that_leaves_hands_back_is_handed_on_to_the_next() {
    let (mut world, intent) = alone();
    second_is_seated(&mut world, intent);
    // It gives what it holds to all, the one that has it from the start among them, and goes for good.
    world.input(1, Input::Drain);
    world.settle();
    world.crash(1);
    world.wipe(1);
    pass(&mut world, STEP);
    assert_eq!(world.core(0).roster().seats.len(), 1);
    second_is_seated(&mut world, intent);
    is_bumped_without_the_first(&mut world, 1, true);
}

/// How often peers were asked to hold an intent: all at once, and one alone.
fn asked(world: &World) -> (usize, usize) {
    let lines = || world.transcript.iter();
    let asks = lines().filter(|line| line.contains("hold ")).count();
    let all = lines()
        .filter(|line| line.contains("-> all: hold "))
        .count();
    (all, asks - all)
}

#[test]
fn g8_those_who_lose_the_one_that_handed_an_intent_on_ask_one_peer_each() {
    let mut world = World::running(5);
    open(&mut world, 0, &["cart/13"]);
    let holds = |world: &World, at: usize| world.core(at).intents_held() == 1;
    let holder = (1..5).find(|at| holds(&world, *at)).unwrap();
    let others: Vec<_> = (1..5).filter(|at| *at != holder).collect();
    world.crash(0);
    pass(&mut world, STEP);
    world.transcript.clear();
    forget(&mut world, holder, "a");
    pass(&mut world, Duration::from_millis(300));
    assert_eq!(world.core(holder).roster().seats.len(), 4);
    assert!(others.iter().all(|at| holds(&world, *at)));
    assert_eq!(asked(&world), (1, 0), "the holder asks all");
    let gone = world.nodes[holder].name.to_string();
    world.crash(holder);
    pass(&mut world, STEP);
    world.transcript.clear();
    forget(&mut world, others[0], &gone);
    pass(&mut world, Duration::from_millis(300));
    assert_eq!(world.core(others[0]).roster().seats.len(), 3);
    // One that is asked before it has the view needs not ask.
    let (all, one) = asked(&world);
    assert!(all == 0 && (1..=3).contains(&one), "{one}, and {all} all");
    // It is said, so it is not asked for again.
    world.transcript.clear();
    pass(&mut world, LEASE / 2);
    assert_eq!(asked(&world), (0, 0));
    pass(&mut world, LEASE / 2 + 3 * INTENT_GRACE + STRETCH);
    assert!(bumps(&world, others[2], "cart/13") > 0);
}
