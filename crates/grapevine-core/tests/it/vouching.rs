//! Rules of who may vouch and whose word counts, each held to what it says: a schedule in which one of them alone keeps a
//! guarantee is rare, so these ask for the rule itself.

use std::collections::BTreeMap;
use std::time::Duration;

use grapevine_core::id::{EventId, Incarnation, Lane};
use grapevine_core::machine::CoreConfig;
use grapevine_core::machine::effects::{Freshness, Input, PeerMessage, Span};
use grapevine_core::names::NodeId;
use grapevine_core::progress::OriginHead;
use grapevine_core::roster::{Ballot, Draft, Mark, Memory, Outcome, Roster, Say, View};

use crate::intents::open;
use crate::world::World;

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn run(number: u128) -> Incarnation {
    Incarnation::new(number).unwrap()
}

/// One that is silent is soon without its seat.
fn soon(config: &mut CoreConfig) {
    config.crash_timeout = Duration::from_secs(5);
    config.member_timeout = Duration::from_mins(1);
}

fn hear(world: &mut World, at: usize, from: usize, message: PeerMessage) {
    let from = world.incarnation(from);
    world.input(at, Input::Peer { from, message });
}

/// How long a sidecar's grant holds that another one asks for as of a view, and whether its giver says it is settled.
fn granted(world: &mut World, asked: usize, by: usize, mark: Mark) -> (Duration, bool) {
    let nonce = 0x5eed;
    world.drop_all(asked, by);
    hear(
        world,
        asked,
        by,
        PeerMessage::Probe {
            nonce,
            mark,
            since: 0,
            applied: None,
        },
    );
    let answer = world.links[&(asked, by)]
        .iter()
        .find_map(|said| match said {
            PeerMessage::Grant {
                nonce: of,
                duration,
                settled,
                ..
            } if *of == nonce => Some((*duration, *settled)),
            _ => None,
        });
    answer.expect("every probe is answered")
}

/// Who is behind by a view does not know whom it has to wait for.
#[test]
fn g7_a_grant_is_given_within_one_view_alone() {
    let mut world = World::running(3);
    let mark = world.core(0).roster().mark();
    assert!(granted(&mut world, 0, 1, mark).0 > Duration::ZERO);
    let number = mark.number - 1;
    let earlier = Mark { number, ..mark };
    assert_eq!(granted(&mut world, 0, 1, earlier).0, Duration::ZERO);
}

/// What a majority has accepted may be decided, and who is decided on then waits for nobody of before.
#[test]
fn g7_who_has_accepted_the_next_view_grants_nothing_in_this_one() {
    let mut world = World::running(3);
    let view = world.core(0).roster().clone();
    let (mark, history) = (view.mark(), view.history);
    let (number, by) = (view.number, world.incarnation(1));
    let ballot = Ballot { round: 1_000, by };
    let mut next = view;
    next.number += 1;
    next.seats.remove(&node("c"));
    let recovers = false;
    let say = Say::Prepare {
        number,
        ballot,
        recovers,
    };
    hear(&mut world, 0, 1, PeerMessage::Roster { history, say });
    assert!(
        granted(&mut world, 0, 2, mark).0 > Duration::ZERO,
        "it only promised"
    );
    let say = Say::Accept { ballot, next };
    hear(&mut world, 0, 1, PeerMessage::Roster { history, say });
    while world.flush(0) {}
    for by in [1, 2] {
        assert_eq!(granted(&mut world, 0, by, mark).0, Duration::ZERO);
    }
}

/// Who closes rounds for many keeps that once, and its word to each of them rests on it.
#[test]
fn g7_what_is_promised_already_is_told_to_the_next_one_once_it_is_on_disk() {
    let mut world = World::running(3);
    let view = world.core(0).roster();
    let (number, history) = (view.number, view.history);
    let promised = |world: &World, to: usize| {
        let promise = |said: &PeerMessage| match said {
            PeerMessage::Roster { say, .. } => matches!(say, Say::Promise { .. }),
            _ => false,
        };
        world.links[&(0, to)].iter().any(promise)
    };
    for from in [1, 2] {
        let by = world.incarnation(from);
        let say = Say::Prepare {
            number,
            ballot: Ballot { round: 1_000, by },
            recovers: true,
        };
        hear(&mut world, 0, from, PeerMessage::Roster { history, say });
        assert!(!promised(&world, from), "{from}: nothing is flushed yet");
    }
    while world.flush(0) {}
    for to in [1, 2] {
        assert!(promised(&world, to), "{to}");
    }
}

/// A run that started again may have accepted what it no longer knows of, until enough others have told it.
#[test]
fn g7_promises_of_who_may_have_forgotten_what_it_accepted_do_not_decide() {
    let seats = [("a", 1), ("b", 2), ("c", 3)].map(|(name, it)| (node(name), run(it)));
    let view = View {
        number: 3,
        history: Some(run(9).as_history()),
        everything: 1,
        spared: false,
        closed: BTreeMap::new(),
        retired: grapevine_core::roster::Retired::default(),
        seats: seats.into(),
    };
    let history = view.history;
    let mut roster = Roster::start(node("a"), run(1), None);
    roster.heard(&node("b"), history, Say::Decided(view.clone()));
    let draft = Draft {
        seats: view.seats.clone(),
        bump: true,
        ..Draft::default()
    };
    let mut said = roster.propose(draft).say;
    let mut ballot = None;
    // Its own word goes round.
    while let Some((to, say)) = said.pop() {
        if let Say::Prepare { ballot: asked, .. } = &say {
            ballot = Some(*asked);
        }
        if to == node("a") {
            said.extend(roster.heard(&to, history, say).say);
        }
    }
    let (number, ballot) = (view.number, ballot.unwrap());
    let mut promise = |from: &str, memory| {
        let say = Say::Promise {
            number,
            ballot,
            accepted: None,
            memory,
            above: None,
            by: None,
            recovering: BTreeMap::new(),
        };
        let Outcome { say, .. } = roster.heard(&node(from), history, say);
        say.iter().any(|(_, say)| matches!(say, Say::Accept { .. }))
    };
    assert!(
        !promise("b", Memory::Disk),
        "two of three, one of which forgot"
    );
    assert!(promise("c", Memory::Sure));
}

/// The head of an event that nobody has any more was told by one that is spared right then. Those who go on know of it: they
/// are fresh again only behind a bump of everything.
#[test]
fn g11_what_was_known_to_be_missing_is_waited_for_in_the_next_view_too() {
    let mut world = World::running_with(3, soon);
    let before = world.token(0, &["cart/13"]);
    let head = OriginHead {
        incarnation: world.incarnation(2),
        bump: 1,
        directory: 0,
    };
    let grant = PeerMessage::Grant {
        nonce: 0,
        duration: Duration::ZERO,
        settled: false,
        heads: vec![head],
        span: Span::default(),
        lacked: Vec::new(),
    };
    hear(&mut world, 0, 2, grant);
    world.crash(2);
    let mut lost = 0;
    for _ in 0..1_000 {
        for at in [0, 1] {
            world.input(at, Input::Seen(Vec::new()));
        }
        // The second one is not told of it either, so its grants do not ask for it.
        let mut moved = true;
        while moved {
            let silent = |said: &PeerMessage| {
                matches!(said, PeerMessage::Probe { .. } | PeerMessage::Roster { .. })
            };
            world.links.get_mut(&(0, 1)).unwrap().retain(silent);
            moved = world.work();
        }
        let fresh = world.core(0).freshness(world.now) == Freshness::Fresh;
        lost += usize::from(!fresh);
        if lost > 0 && fresh {
            break;
        }
        world.advance(Duration::from_millis(100));
    }
    assert_eq!(world.core(0).freshness(world.now), Freshness::Fresh);
    assert_eq!(world.core(0).roster().seats.len(), 2);
    assert_ne!(world.token(0, &["cart/13"]), before, "{}", world.describe());
}

/// A holder is told which bump ended the intent, and keeps it until it has that one: it may be the last that can bump.
#[test]
fn g8_a_holder_keeps_an_intent_until_it_has_the_bump_that_ended_it() {
    let mut world = World::running(2);
    let intent = open(&mut world, 0, &["cart/13"]);
    world.invalidate(0, &["cart/14"]);
    world.settle();
    let before = world.token(1, &["cart/13"]);
    let origin = world.incarnation(0);
    let lane = world.core(1).progress().lane(origin, Lane::Bump);
    let sequence = lane.unwrap().watermark() + 1;
    let event = Some(EventId { origin, sequence });
    hear(
        &mut world,
        1,
        0,
        PeerMessage::IntentSettled { intent, event },
    );
    world.crash(0);
    world.settle();
    world.advance(Duration::from_secs(10));
    world.settle();
    assert_ne!(world.token(1, &["cart/13"]), before, "nobody bumped");
}

/// Whose disk is to be the second one says so only once what it had is there.
#[test]
fn g1_who_calls_itself_fresh_is_settled_once_what_it_had_then_is_on_its_disk() {
    let mut world = World::running_with(3, soon);
    (0..2).for_each(|at| world.cut(at, 2));
    let mut patience = 0..1_000;
    let mut tick = |world: &mut World| {
        patience.next().expect("it is fresh with the second alone");
        world.advance(Duration::from_millis(20));
        (0..2).for_each(|at| world.input(at, Input::Seen(Vec::new())));
    };
    while world.core(0).roster().seats.len() == 3 {
        tick(&mut world);
        while world.core(0).roster().seats.len() == 3 && world.work() {}
    }
    // It has that view on its disk, and what it hears from here on only in memory.
    while world.flush(0) {}
    world.invalidate(1, &["cart/13"]);
    while world.core(0).freshness(world.now) != Freshness::Fresh {
        tick(&mut world);
        world.flush(1);
        world.deliver_all(0, 1);
        world.deliver_all(1, 0);
    }
    let mark = world.core(0).roster().mark();
    assert!(!granted(&mut world, 0, 1, mark).1, "all is in memory");
    while world.flush(0) {}
    assert!(granted(&mut world, 0, 1, mark).1);
}
