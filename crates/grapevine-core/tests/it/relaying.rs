//! Bumps among many go by way of some, and nothing rests on these: what they lose comes all the same (G1, G7), receipts are
//! each member's own word (G6), and nobody says more than its share (G10).

use std::time::Duration;

use grapevine_core::event::Match;
use grapevine_core::id::Lane;
use grapevine_core::machine::CoreConfig;
use grapevine_core::machine::effects::{
    HolderState, Input, LeaseClaim, PeerMessage, Receipt, ReceiptLevel, Reply, Span,
};

use crate::world::{MAX_STALENESS, World};

const PATIENCE: Duration = Duration::from_secs(10);
/// How long a relay may take (`machine/relaying.rs`).
const RELAY_PATIENCE: Duration = MAX_STALENESS.checked_div(8).unwrap();

fn few_directly(config: &mut CoreConfig) {
    config.limits.direct_pushes_max = 2;
    config.limits.whole_heads_max = 0;
}

/// So many that relay for more than two.
fn many(size: usize) -> World {
    World::running_for_long(size, few_directly)
}

fn call(world: &mut World, level: ReceiptLevel) -> u64 {
    world.invalidate_as(0, &["cart/13"], Match::Any, level, PATIENCE)
}

fn receipt(world: &World, call: u64) -> Option<Receipt> {
    match world.nodes[0].replies.get(&call)? {
        Reply::Invalidated { receipt, .. } => Some(receipt.clone()),
        other => panic!("{other:?}"),
    }
}

/// Whom a node is telling something that this picks.
fn told(world: &World, from: usize, pick: impl Fn(&PeerMessage) -> bool) -> Vec<usize> {
    let links = world.links.iter().filter(|((at, _), _)| *at == from);
    let told = links.filter(|(_, queue)| queue.iter().any(&pick));
    told.map(|((_, to), _)| *to).collect()
}

fn is_push(message: &PeerMessage) -> bool {
    matches!(
        message.relieved(),
        PeerMessage::Bumps { .. } | PeerMessage::Directory { .. }
    )
}

fn is_ack(message: &PeerMessage) -> bool {
    matches!(message, PeerMessage::Ack { .. })
}

/// Whether a node has all that node 0 has issued.
fn has_all(world: &World, at: usize) -> bool {
    let head = world.next_event(0).sequence - 1;
    let lane = world
        .core(at)
        .progress()
        .lane(world.incarnation(0), Lane::Bump);
    lane.is_some_and(|lane| lane.watermark() == head)
}

fn all_have_all(world: &World) -> bool {
    (0..world.nodes.len()).all(|at| has_all(world, at))
}

/// Brings all that one node has said to whom it was said.
fn bring(world: &mut World, from: usize) {
    for to in told(world, from, |_| true) {
        world.deliver_all(from, to);
    }
}

#[test]
fn g1_g10_everybody_has_a_bump_after_two_trips_and_nobody_says_it_more_often_than_the_root_of_all()
{
    let mut world = many(17);
    let call = call(&mut world, ReceiptLevel::One);
    world.flush(0);
    let relays = told(&world, 0, is_push);
    assert_eq!(relays.len(), 4, "the root of sixteen");
    bring(&mut world, 0);
    let mut others = Vec::new();
    for &relay in &relays {
        assert!(has_all(&world, relay));
        let behind = told(&world, relay, is_push);
        assert_eq!(behind.len(), 3);
        others.extend(behind);
        bring(&mut world, relay);
    }
    others.extend(relays.iter().copied());
    others.sort_unstable();
    assert_eq!(others, (1..17).collect::<Vec<_>>(), "each of them once");
    assert!(all_have_all(&world));
    // One that the origin told is enough for it, and the others do not speak up.
    assert!(receipt(&world, call).is_none());
    (1..17).for_each(|at| assert!(world.flush(at)));
    for at in 1..17 {
        let speaks = told(&world, at, is_ack);
        assert_eq!(!speaks.is_empty(), relays.contains(&at), "{at}: {speaks:?}");
    }
    bring(&mut world, relays[0]);
    assert!(receipt(&world, call).unwrap().satisfied);
    let counters = |at: usize| world.core(at).counters();
    assert_eq!(counters(0).pushes_relayed, 1);
    assert_eq!(
        relays
            .iter()
            .map(|at| counters(*at).events_passed_on)
            .sum::<u64>(),
        12
    );
    assert_eq!(counters(0).events_duplicate, 0);
}

#[test]
fn g6_a_receipt_all_is_each_member_s_own_word_and_is_not_waited_for_until_the_next_grant() {
    let mut world = many(10);
    let call = call(&mut world, ReceiptLevel::All);
    let begin = world.now;
    world.flush(0);
    let relays = told(&world, 0, is_push);
    bring(&mut world, 0);
    for &relay in &relays {
        bring(&mut world, relay);
    }
    // All but one have it on disk, and its relay has said so.
    let last = (1..10).find(|at| !relays.contains(at)).unwrap();
    for at in (1..10).filter(|at| *at != last) {
        world.flush(at);
        assert_eq!(told(&world, at, is_ack), [0], "{at} says so itself");
        world.deliver_all(at, 0);
    }
    assert!(receipt(&world, call).is_none(), "one has not said so");
    world.flush(last);
    world.deliver_all(last, 0);
    let receipt = receipt(&world, call).unwrap();
    assert!(receipt.satisfied);
    assert!(
        receipt
            .holders
            .iter()
            .all(|row| row.state == HolderState::Has)
    );
    assert_eq!(world.now, begin);
}

#[test]
fn g6_who_was_told_by_another_says_what_it_has_with_its_next_grant() {
    let mut world = many(10);
    call(&mut world, ReceiptLevel::One);
    world.settle();
    let lacking = |world: &World| {
        let members = world.core(0).members(world.now);
        members
            .iter()
            .filter(|member| member.unacknowledged > 0)
            .count()
    };
    assert_eq!(lacking(&world), 6, "three relays have said so");
    world.advance(MAX_STALENESS);
    world.settle();
    assert_eq!(lacking(&world), 0);
}

#[test]
fn g7_those_behind_a_relay_that_stands_still_have_the_bump_after_a_moment_without_asking() {
    let mut world = many(17);
    let call = call(&mut world, ReceiptLevel::One);
    world.flush(0);
    let relays = told(&world, 0, is_push);
    let still = relays[0];
    let asked = |world: &World| {
        (1..17)
            .map(|at| world.core(at).counters().pulls_sent)
            .sum::<u64>()
    };
    let before = asked(&world);
    // What is said to it waits, for longer than it may take; the others go on.
    let lost = world.drop_all(0, still);
    assert!(lost > 0);
    world.settle();
    assert!(receipt(&world, call).unwrap().satisfied);
    let lack = (1..17).filter(|at| !has_all(&world, *at)).count();
    assert_eq!(lack, 4, "it, and three behind it");
    world.advance(RELAY_PATIENCE + Duration::from_millis(1));
    world.drop_all(0, still);
    world.settle();
    for at in (1..17).filter(|at| *at != still) {
        assert!(has_all(&world, at), "{at}");
    }
    assert_eq!(asked(&world), before, "nobody had to ask");
    assert_eq!(world.core(0).counters().relays_stood_in_for, 1);
    // It is no relay until it has caught up.
    world.invalidate(0, &["cart/14"]);
    world.flush(0);
    let head = |message: &PeerMessage| matches!(message, PeerMessage::Relayed { to, .. } if !to.is_empty());
    assert!(!told(&world, 0, head).contains(&still));
    world.converge().unwrap();
    world.settle();
    world.invalidate(0, &["cart/15"]);
    world.flush(0);
    assert!(told(&world, 0, head).contains(&still));
}

#[test]
fn g7_those_behind_a_relay_whose_link_breaks_are_told_at_once() {
    let mut world = many(17);
    call(&mut world, ReceiptLevel::One);
    world.flush(0);
    let relays = told(&world, 0, is_push);
    let begin = world.now;
    world.crash(relays[0]);
    world.settle();
    for at in (1..17).filter(|at| *at != relays[0]) {
        assert!(has_all(&world, at), "{at}");
    }
    assert_eq!(world.now, begin);
}

#[test]
fn g7_whom_a_relay_does_not_reach_another_tells() {
    let mut world = many(17);
    call(&mut world, ReceiptLevel::One);
    world.flush(0);
    let relay = told(&world, 0, is_push)[0];
    let behind: Vec<_> = match &world.links[&(0, relay)][0] {
        PeerMessage::Relayed { to, .. } => to.clone(),
        other => panic!("{other:?}"),
    };
    let behind = behind
        .iter()
        .map(|run| (1..17).find(|at| world.incarnation(*at) == *run).unwrap());
    let behind: Vec<_> = behind.collect();
    world.cut(relay, behind[1]);
    let begin = world.now;
    world.settle();
    assert!(all_have_all(&world));
    assert_eq!(world.now, begin);
}

#[test]
fn g1_nothing_rests_on_relays_what_all_of_them_lose_comes_by_heads() {
    let mut world = many(10);
    call(&mut world, ReceiptLevel::One);
    world.flush(0);
    let relays = told(&world, 0, is_push);
    bring(&mut world, 0);
    for &relay in &relays {
        world.flush(relay);
        for to in (1..10).filter(|to| *to != relay) {
            world.drop_all(relay, to);
        }
    }
    world.settle();
    assert!(!all_have_all(&world));
    world.converge().unwrap();
    assert!(all_have_all(&world));
    assert_eq!(world.core(0).counters().relays_stood_in_for, 0);
}

#[test]
fn g10_what_is_passed_on_in_a_circle_ends() {
    let mut world = many(6);
    let (a, b) = (world.incarnation(1), world.incarnation(2));
    let origin = world.incarnation(0);
    call(&mut world, ReceiptLevel::One);
    world.flush(0);
    let message = (1..6)
        .flat_map(|to| &world.links[&(0, to)])
        .map(PeerMessage::relieved)
        .find(|message| matches!(message, PeerMessage::Bumps { .. }))
        .unwrap()
        .clone();
    let message = PeerMessage::Relayed {
        to: vec![a, b, a, origin, b],
        acknowledge: false,
        message: Box::new(message),
    };
    world.links.get_mut(&(0, 1)).unwrap().push_back(message);
    world.settle();
    let passed: u64 = (0..6)
        .map(|at| world.core(at).counters().events_passed_on)
        .sum();
    assert!(passed < 12, "{passed}");
    assert!(all_have_all(&world));
}

#[test]
fn g10_registrations_go_the_same_way_and_bumps_of_few_directly() {
    let mut world = many(17);
    world.register(0, "cart::13:10:30", &["cart/13"], LeaseClaim::Absent);
    world.input(0, grapevine_core::machine::effects::Input::Seal);
    world.flush(0);
    let is_directory =
        |message: &PeerMessage| matches!(message.relieved(), PeerMessage::Directory { .. });
    assert_eq!(told(&world, 0, is_directory).len(), 4);
    world.converge().unwrap();
    let mut few = World::running_with(3, few_directly);
    few.invalidate(0, &["cart/13"]);
    few.flush(0);
    let direct = |message: &PeerMessage| matches!(message, PeerMessage::Bumps { .. });
    assert_eq!(told(&few, 0, direct), [1, 2]);
}

/// What a node answers another one that asks for all its heads, and says that it has applied what has this digest.
fn told_for(world: &mut World, asks: usize, grants: usize, applied: Option<u128>) -> (usize, Span) {
    let (nonce, mark) = (0x5eed, world.core(grants).roster().mark());
    let from = world.incarnation(asks);
    let message = PeerMessage::Probe {
        nonce,
        mark,
        since: 0,
        applied,
    };
    world.drop_all(grants, asks);
    world.input(grants, Input::Peer { from, message });
    let answer = world.links[&(grants, asks)]
        .iter()
        .find_map(|said| match said {
            PeerMessage::Grant {
                nonce: of,
                heads,
                span,
                ..
            } if *of == nonce => {
                let runs = heads.iter().filter(|it| !it.incarnation.is_history());
                Some((runs.count(), *span))
            }
            _ => None,
        });
    answer.expect("every question is answered")
}

#[test]
fn g11_who_has_all_that_another_would_tell_is_told_no_heads_and_else_all() {
    let mut world = many(4);
    for at in 0..4 {
        world.invalidate(at, &["cart/13"]);
    }
    world.converge().unwrap();
    let digest = |world: &World| world.core(0).progress().applied_digest();
    let asked = digest(&world);
    assert!(asked.is_some());
    let (heads, span) = told_for(&mut world, 0, 1, asked);
    assert!(
        heads == 0 && span.same && span.until > 0,
        "{heads} {span:?}"
    );
    // A sidecar of an earlier version says none.
    let (heads, span) = told_for(&mut world, 0, 1, None);
    assert!(heads >= 4 && !span.same, "{heads} {span:?}");
    // Node 1 has an event of which node 0 has not heard.
    world.invalidate(1, &["cart/13"]);
    while world.flush(1) {}
    world.drop_all(1, 0);
    let asked = digest(&world);
    let (heads, span) = told_for(&mut world, 0, 1, asked);
    assert!(heads >= 4 && !span.same, "{heads} {span:?}");
    // And once it has, it waits for it: what is known and not applied has no digest.
    world.deliver_all(1, 0);
    assert_eq!(digest(&world), None);
    world.converge().unwrap();
    let asked = digest(&world);
    assert!(told_for(&mut world, 0, 1, asked).1.same);
}

#[test]
fn g11_all_that_start_anew_at_once_are_soon_fresh_and_tell_each_other_no_heads() {
    let mut world = many(4);
    for at in 0..4 {
        world.invalidate(at, &["cart/13"]);
    }
    world.converge().unwrap();
    (0..4).for_each(|at| world.crash(at));
    (0..4).for_each(|at| world.start(at));
    world.connect_all();
    let (mut told, mut same) = (Vec::new(), 0);
    for _ in 0..10_000 {
        for said in world.links.values().flatten() {
            if let PeerMessage::Grant { heads, span, .. } = said {
                let runs = heads.iter().filter(|it| !it.incarnation.is_history());
                told.extend(runs.filter(|it| it.bump > 0).copied());
                same += usize::from(span.same);
            }
        }
        if !world.work() {
            break;
        }
    }
    assert_eq!(told, [], "heads that everybody has");
    assert!(same > 0);
    world.converge().unwrap();
}
