//! What sidecars make of the views that the roster decides: histories, closed logs, seats, and whose word counts.

use std::collections::BTreeMap;
use std::time::Duration;

use grapevine_core::event::Match;
use grapevine_core::id::{Incarnation, Lane, Time, UnixSeconds};
use grapevine_core::machine::Core;
use grapevine_core::machine::effects::{
    Action, Effects, Forget, Freshness, Input, PeerHello, PeerMessage, ReceiptLevel, Refusal,
    Reply, Side, Span,
};
use grapevine_core::names::NodeId;
use grapevine_core::progress::OriginHead;
use grapevine_core::roster::{Ballot, Draft, Mark, Outcome, Roster, Say, View};

use crate::world::{MAX_STALENESS, World};

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn run(number: u128) -> Incarnation {
    Incarnation::new(number).unwrap()
}

fn fresh(world: &World, at: usize) -> bool {
    world.core(at).freshness(world.now) == Freshness::Fresh
}

/// Lets everything be delivered until something is so.
fn until(world: &mut World, bound: Duration, what: impl Fn(&World) -> bool) {
    let begin = world.now;
    loop {
        world.settle();
        if what(world) {
            return;
        }
        assert!(world.now.since(begin) < bound, "{}", world.describe());
        world.advance(Duration::from_millis(50));
    }
}

fn go_on_alone(world: &mut World, at: usize, without: &str) {
    let ticket = world.ticket();
    let (node_id, alone) = (node(without), true);
    world.input(at, Input::Forget(ticket, Forget { node_id, alone }));
    let reply = world.nodes[at].replies.get(&ticket.0);
    assert!(
        matches!(reply, Some(Reply::Forgotten { alone: true })),
        "{reply:?}"
    );
    world.settle();
}

/// An operator has a sidecar go on alone that began the present history itself: that is another history, so everything
/// is bumped, and who comes back with a later view of the old one joins it and does not undo it.
#[test]
fn g2_who_goes_on_alone_begins_a_history_that_nobody_has() {
    let timeout = Duration::from_secs(5);
    let mut world = World::running_with(3, |config| config.member_timeout = timeout);
    // Some views: restarted runs get their nodes' seats.
    for at in [1, 2] {
        world.crash(at);
        world.start(at);
        world.connect_all();
        until(&mut world, timeout, |world| {
            (0..3).all(|at| fresh(world, at))
        });
    }
    let left = world.core(0).roster().mark();
    assert_eq!(left.history, Some(world.incarnation(0).as_history()));
    assert!(left.number > 1);
    world.crash(1);
    world.crash(2);
    let before = world.token(0, &["cart/13"]);
    go_on_alone(&mut world, 0, "c");
    let alone = world.core(0).roster().clone();
    assert_ne!(alone.history, left.history);
    assert_eq!(alone.seats.len(), 1);
    assert_ne!(world.token(0, &["cart/13"]), before, "everything is bumped");
    assert!(fresh(&world, 0));

    world.start(1);
    world.connect(0, 1);
    until(&mut world, timeout * 4, |world| {
        (0..2).all(|at| fresh(world, at))
    });
    for at in 0..2 {
        let view = world.core(at).roster();
        assert_eq!((view.history, view.seats.len()), (alone.history, 2));
        assert_ne!(world.token(at, &["cart/13"]), before);
    }
    assert_eq!(world.token(0, &["cart/13"]), world.token(1, &["cart/13"]));
    // The same again, at the same run: yet another one.
    world.crash(1);
    go_on_alone(&mut world, 0, "b");
    assert_ne!(world.core(0).roster().history, alone.history);
    assert_ne!(world.core(0).roster().history, left.history);
}

/// It remembers over a restart which history it gave up.
#[test]
fn g2_who_goes_on_alone_does_not_follow_what_it_left_after_a_restart() {
    let timeout = Duration::from_secs(5);
    let mut world = World::running_with(3, |config| config.member_timeout = timeout);
    world.crash(1);
    world.crash(2);
    go_on_alone(&mut world, 0, "c");
    let alone = world.core(0).roster().history;
    world.crash(0);
    world.start(0);
    world.settle();
    (1..3).for_each(|at| world.start(at));
    // The others can do nothing without it: all of three are needed after a restart.
    world.connect_all();
    until(&mut world, timeout * 4, |world| {
        (0..3).all(|at| fresh(world, at))
    });
    assert!((0..3).all(|at| world.core(at).roster().history == alone));
}

/// Who waited long for a majority of its history follows another one. If there is none either, it waits as long again, for
/// whoever else is stuck meets those of his history only then. Going back with the next word, it would have each word
/// answered by another one, and have all of its peers asked, without end.
#[test]
fn g7_who_follows_another_history_waits_anew_before_it_leaves_that() {
    let timeout = Duration::from_secs(5);
    let mut world = World::running_with(4, |config| config.member_timeout = timeout);
    world.crash(1);
    world.crash(3);
    let first = world.core(0).roster().clone();
    let other = View {
        number: 1,
        history: Some(run(0x77).as_history()),
        everything: 1,
        seats: [(node("a"), run(0x77)), (node("b"), run(0x78))].into(),
        ..View::default()
    };
    world.advance(timeout * 3 + MAX_STALENESS * 4);
    assert_eq!(
        world.core(0).roster(),
        &first,
        "two of four agree on nothing"
    );
    let from = world.incarnation(2);
    let tell = |world: &mut World, view: &View| {
        let (history, say) = (view.history, Say::Decided(view.clone()));
        let message = PeerMessage::Roster { history, say };
        world.input(0, Input::Peer { from, message });
        world.flush(0);
        world.core(0).roster().history
    };
    assert_eq!(tell(&mut world, &other), other.history);
    for _ in 0..3 {
        assert_eq!(tell(&mut world, &first), other.history, "it has just come");
    }
    // Nobody of that one comes.
    world.cut(0, 2);
    world.advance(timeout * 3 + MAX_STALENESS * 4);
    world.connect(0, 2);
    assert_eq!(tell(&mut world, &first), first.history);
}

/// Who decides a view tells it to all. Would each of the others tell it, too, to all that have not heard of it yet, it would be said as often
/// as there are members, to each of them.
#[test]
fn g7_a_view_is_told_by_who_decided_it_and_by_others_only_to_who_has_not_heard_of_it_for_a_moment()
{
    let mut world = World::running(3);
    let before = world.core(0).roster().mark();
    world.crash(2);
    world.start(2);
    world.connect_all();
    until(&mut world, MAX_STALENESS * 5, |world| {
        world.core(0).roster().number > before.number
    });
    let from = world.incarnation(1);
    let question = PeerMessage::Probe {
        nonce: u64::MAX,
        mark: before,
        since: 0,
        applied: None,
    };
    let (number, round) = (before.number, u64::MAX);
    let ballot = Ballot { round, by: from };
    let say = Say::Accepted { number, ballot };
    let history = before.history;
    let answer = PeerMessage::Roster { history, say };
    let is_told = |world: &mut World, message: &PeerMessage| {
        let message = message.clone();
        world.drop_all(0, 1);
        world.input(0, Input::Peer { from, message });
        let said = world.links[&(0, 1)].iter();
        let decided = said.filter(|said| {
            let say = Say::Decided(world.core(0).roster().clone());
            let history = before.history;
            **said == PeerMessage::Roster { history, say }
        });
        decided.count() == 1
    };
    for late in [&question, &question, &answer] {
        assert!(!is_told(&mut world, late), "{late:?}");
    }
    world.advance(Duration::from_millis(300));
    for late in [&question, &answer] {
        assert!(is_told(&mut world, late), "{late:?}");
    }
}

/// Whose run has no seat is granted nothing, so it asks at the steady pace. Once it has one it is fresh as soon as it was.
#[test]
fn g7_who_has_no_seat_asks_half_as_often_and_is_fresh_soon_after_it_has_one() {
    let mut world = World::running(5);
    (0..5).for_each(|at| world.crash(at));
    world.start(0);
    world.start(1);
    world.connect(0, 1);
    world.settle();
    let before = world.probes;
    world.advance(MAX_STALENESS * 10);
    assert!((0..2).all(|at| !fresh(&world, at)), "two of five");
    // Each asks after half of it.
    let asked = world.probes - before;
    assert!((30..=44).contains(&asked), "{asked}");
    (2..5).for_each(|at| world.start(at));
    world.connect_all();
    until(&mut world, MAX_STALENESS, |world| {
        (0..5).all(|at| fresh(world, at))
    });
}

/// Two of three are wiped and begin anew, while the third still calls itself fresh by what their last runs granted.
#[test]
fn g7_receipts_of_a_wiped_cluster_wait_for_the_grants_of_its_earlier_life() {
    let mut world = World::with(3, |config| config.expected_members = 2);
    (0..2).for_each(|at| world.start(at));
    world.connect(0, 1);
    world.settle();
    world.start(2);
    world.connect_all();
    until(&mut world, MAX_STALENESS * 5, |world| {
        (0..3).all(|at| fresh(world, at))
    });
    for at in 0..2 {
        world.crash(at);
        world.wipe(at);
    }
    (0..2).for_each(|at| world.start(at));
    world.connect(0, 1);
    world.settle();
    assert!(world.core(0).roster().number == 1 && fresh(&world, 0) && fresh(&world, 2));
    let patience = MAX_STALENESS * 5;
    let call = world.invalidate_as(0, &["cart/13"], Match::Any, ReceiptLevel::All, patience);
    world.settle();
    let answered = |world: &World| world.nodes[0].replies.contains_key(&call);
    let begin = world.now;
    while !answered(&world) {
        world.advance(Duration::from_millis(20));
        world.settle();
        assert!(world.now.since(begin) < MAX_STALENESS * 2);
    }
    assert!(!fresh(&world, 2), "it was told that nobody serves old data");
}

/// The same of one that is wiped and begins a history alone.
#[test]
fn g7_receipts_of_a_wiped_lone_sidecar_wait_for_the_grants_of_its_earlier_life() {
    let mut world = World::with(2, |config| config.expected_members = 1);
    world.start(0);
    world.settle();
    world.start(1);
    world.connect_all();
    until(&mut world, MAX_STALENESS * 5, |world| {
        (0..2).all(|at| fresh(world, at) && world.core(at).roster().seats.len() == 2)
    });
    world.crash(0);
    world.wipe(0);
    world.start(0);
    world.settle();
    assert!(fresh(&world, 0) && fresh(&world, 1));
    let patience = MAX_STALENESS * 5;
    let call = world.invalidate_as(0, &["cart/13"], Match::Any, ReceiptLevel::All, patience);
    world.settle();
    assert!(!world.nodes[0].replies.contains_key(&call));
    world.advance(MAX_STALENESS + Duration::from_millis(50));
    assert!(world.nodes[0].replies.contains_key(&call));
    assert!(!fresh(&world, 1));
}

/// However many histories are told of: each of them bumps everything once, and the tables stay bounded.
#[test]
fn g10_the_bump_of_a_history_beyond_the_limit_is_not_dropped() {
    let mut world = World::running(2);
    let (from, most) = (world.incarnation(1), 1_024);
    let tell = |world: &mut World, number: u128| {
        let heads = vec![OriginHead {
            incarnation: run(number).as_history(),
            bump: 1,
            directory: 0,
        }];
        let before = world.token(0, &["cart/13"]);
        let message = PeerMessage::Grant {
            nonce: 0,
            duration: Duration::ZERO,
            settled: false,
            heads,
            span: Span::default(),
            lacked: Vec::new(),
        };
        world.input(0, Input::Peer { from, message });
        world.flush(0);
        before != world.token(0, &["cart/13"])
    };
    for number in 0..most + 5 {
        assert!(tell(&mut world, 0x10_0000 + number), "{number}");
    }
    let again = (0..most + 5).filter(|number| tell(&mut world, 0x10_0000 + number));
    assert_eq!(again.count(), 0, "each of them once");
    let known = world.core(0).progress().histories() as u128;
    assert!(known <= most + 1, "{known}");
}

/// The first loses its disk, and with it an event that others know of; who has its next one knows that it is missing.
fn with_a_hole(size: usize, timeout: Duration) -> World {
    hole_in(World::running_with(size, |config| {
        config.member_timeout = timeout;
    }))
}

fn hole_in(mut world: World) -> World {
    let size = world.nodes.len();
    let others = 1..size;
    world.invalidate(0, &["cart/13"]);
    world.flush(0);
    others.for_each(|other| {
        world.drop_all(0, other);
    });
    world.invalidate(0, &["shop/1"]);
    world.flush(0);
    world.deliver_all(0, 1);
    world.flush(1);
    world.crash(0);
    world.wipe(0);
    world.start(0);
    world
}

/// A hole that was closed stays closed, over restarts and later views.
#[test]
fn g11_a_closed_log_stays_closed_over_restarts_and_later_views() {
    let timeout = Duration::from_secs(5);
    let mut world = with_a_hole(3, timeout);
    world.connect_all();
    until(&mut world, timeout * 3, |world| {
        (0..3).all(|at| fresh(world, at))
    });
    let everything = world.core(0).roster().everything;
    assert!(!world.core(0).roster().closed.is_empty());
    for at in [2, 1, 2] {
        world.crash(at);
        world.start(at);
        world.connect_all();
        until(&mut world, Duration::from_secs(3), |world| {
            (0..3).all(|at| fresh(world, at))
        });
    }
    assert_eq!(world.core(0).roster().everything, everything);
}

/// Of a run whose log was closed, somebody may have what the others lost: it is not retired.
#[test]
fn g2_a_run_with_a_closed_log_is_kept() {
    let timeout = Duration::from_secs(5);
    let mut world = hole_in(World::running_with(3, |config| {
        config.member_timeout = timeout;
        config.retire_after = Duration::from_millis(200);
        config.limits.old_runs_max = 0;
    }));
    world.connect_all();
    until(&mut world, timeout * 3, |world| {
        (0..3).all(|at| fresh(world, at)) && !world.core(0).roster().closed.is_empty()
    });
    for _ in 0..200 {
        world.settle();
        world.advance(Duration::from_millis(100));
    }
    assert!(world.core(0).roster().closed.contains_key(&run(0xa1)));
    assert_eq!(world.core(0).roster().retired.head(run(0xa1)), None);
    assert!((0..3).all(|at| fresh(&world, at) && world.core(at).progress().knows(run(0xa1))));
}

/// Who was away when the log was closed, and hears of the hole only after that, does not wait for it either.
#[test]
fn g11_a_gap_of_a_closed_log_that_is_learned_later_is_not_waited_for() {
    let timeout = Duration::from_secs(5);
    let mut world = with_a_hole(4, timeout);
    world.crash(3);
    world.wipe(3);
    world.connect_all();
    (0..3).for_each(|at| world.input(at, Input::Seen(Vec::new())));
    let closed = |world: &World| world.core(1).roster().closed.contains_key(&run(0xa1));
    until(&mut world, timeout * 6, |world| {
        closed(world) && (0..3).all(|at| fresh(world, at))
    });
    let view = world.core(1).roster().clone();
    assert_eq!(view.seats.len(), 3);
    world.start(3);
    world.connect_all();
    until(&mut world, Duration::from_secs(3), |world| {
        (0..4).all(|at| fresh(world, at))
    });
    let lane = world.core(3).progress().lane(run(0xa1), Lane::Bump);
    let lane = lane.unwrap();
    assert!(
        lane.has(2) && !lane.has(1),
        "it knows of the hole: {lane:?}"
    );
    let after = world.core(1).roster();
    assert_eq!((after.seats.len(), after.everything), (4, view.everything));
}

/// What a closed log lost is waited for no longer, but what a peer still has of it is: a sidecar whose disk was lost would
/// else vouch with tokens that the event has superseded.
#[test]
fn g2_what_a_peer_has_of_a_closed_log_is_waited_for_by_who_lost_it() {
    let timeout = Duration::from_secs(5);
    let mut world = World::running_with(3, |config| config.member_timeout = timeout);
    let closed = world.incarnation(0);
    let its =
        |said: &PeerMessage| matches!(said, PeerMessage::Bumps { origin, .. } if *origin == closed);
    let without_it = |world: &mut World, duration| {
        let begin = world.now;
        while world.now.since(begin) < duration {
            let mut busy = true;
            while busy {
                (0..3).for_each(|at| {
                    world.flush(at);
                });
                for queue in world.links.values_mut() {
                    queue.retain(|said| !its(said));
                }
                busy = world.work();
            }
            world.advance(Duration::from_millis(100));
        }
    };
    // The first event of a run reaches the others, the second one's number only, and then its disk is lost.
    world.invalidate(0, &["shop/1"]);
    world.settle();
    world.invalidate(0, &["cart/13"]);
    without_it(&mut world, Duration::from_secs(1));
    world.crash(0);
    world.wipe(0);
    world.start(0);
    world.connect_all();
    until(&mut world, timeout * 3, |world| {
        (0..3).all(|at| fresh(world, at))
    });
    assert_eq!(world.core(2).roster().closed.get(&closed), Some(&2));
    let held = |world: &World| {
        let lane = world.core(2).progress().lane(closed, Lane::Bump);
        lane.is_some_and(|lane| lane.has(1))
    };
    assert!(held(&world));
    // So is a second disk, and what was lost with it comes late.
    world.crash(2);
    world.wipe(2);
    world.start(2);
    world.connect_all();
    without_it(&mut world, Duration::from_secs(3));
    assert!(!held(&world) && !fresh(&world, 2), "{}", world.describe());
    let view = world.core(2).roster();
    assert!(view.seats_run(&node("c"), world.incarnation(2)));
    until(&mut world, Duration::from_secs(10), |world| fresh(world, 2));
    assert!(held(&world));
}

/// Alone there is nobody to ask and nothing to wait for.
#[test]
fn a_lone_sidecar_has_its_seat_again_at_once() {
    let mut world = World::running(1);
    assert!(fresh(&world, 0));
    world.crash(0);
    world.start(0);
    world.settle();
    let (node, run) = (node("a"), world.incarnation(0));
    assert!(world.core(0).roster().seats_run(&node, run));
    assert!(fresh(&world, 0), "{}", world.describe());
}

/// A member that dials and is dialled, and says that it has a view.
fn greeted(core: &mut Core, name: &str, number: u128, mark: Mark, now: Time) -> Effects {
    let hello = PeerHello {
        node_id: node(name),
        incarnation: run(number),
        peer_address: format!("{name}:1"),
        policy_digest: 0,
    };
    let unix = UnixSeconds(1_000_000);
    for side in [Side::Inbound, Side::Outbound] {
        let hello = hello.clone();
        core.handle(Input::LinkUp { hello, side }, now, unix);
    }
    let (from, nonce) = (run(number), 1);
    let message = PeerMessage::Probe {
        nonce,
        mark,
        since: 0,
        applied: None,
    };
    core.handle(Input::Peer { from, message }, now, unix)
}

/// What accepts a view has to say so with each promise: among many that start at once, whoever asks then would be sent that view by
/// all others. Who has its seat in it need not ask, unless nothing comes of it.
#[test]
fn g7_who_is_being_seated_does_not_ask_to_be_sure_but_if_that_takes_long() {
    let mut world = World::running(5);
    world.crash(0);
    let view = world.core(1).roster().clone();
    let mut now = world.now;
    let mut config = world.nodes[0].config.clone();
    config.incarnation = run(777);
    let asks = |effects: &Effects| {
        effects.actions.iter().any(|action| {
            let Action::Send { message, .. } = action else {
                return false;
            };
            let PeerMessage::Roster { say, .. } = message else {
                return false;
            };
            matches!(say, Say::Prepare { .. })
        })
    };
    let start = |next: Option<View>, now: Time| {
        let (mut core, _) = Core::start(config.clone(), &world.nodes[0].disk.recover(), now);
        let greet = |core: &mut Core, at: usize| {
            let hello = PeerHello {
                node_id: world.nodes[at].config.node_id.clone(),
                incarnation: world.incarnation(at),
                peer_address: format!("{at}:1"),
                policy_digest: 0,
            };
            let sides = [Side::Inbound, Side::Outbound].map(|side| {
                let hello = hello.clone();
                asks(&core.handle(Input::LinkUp { hello, side }, now, UnixSeconds(1_000_000)))
            });
            sides.contains(&true)
        };
        assert!(
            !greet(&mut core, 1) && !greet(&mut core, 2),
            "too few are linked"
        );
        if let Some(next) = next {
            let say = Say::Accept {
                ballot: Ballot {
                    round: 7,
                    by: world.incarnation(1),
                },
                next,
            };
            let (from, history) = (world.incarnation(1), view.history);
            let message = PeerMessage::Roster { history, say };
            core.handle(Input::Peer { from, message }, now, UnixSeconds(1_000_000));
        }
        let mut asked = false;
        for at in 3..5 {
            asked |= greet(&mut core, at);
            asked |= asks(&core.handle(Input::Wake, now, UnixSeconds(1_000_000)));
        }
        (core, asked)
    };
    assert!(start(None, now).1);
    let mut next = view.clone();
    next.number += 1;
    assert!(
        start(Some(next.clone()), now).1,
        "its seat is not this run's"
    );
    next.seats.insert(node("a"), run(777));
    let (mut core, asked) = start(Some(next), now);
    assert!(!asked);
    let due = core.next_wake(now);
    assert!(due <= now.plus(Duration::from_secs(1)));
    let mut asked = false;
    for _ in 0..20 {
        now = core.next_wake(now).max(now);
        asked |= asks(&core.handle(Input::Wake, now, UnixSeconds(1_000_000)));
    }
    assert!(asked, "nothing came of it");
}

/// What does not fit a message is not proposed.
#[test]
fn g10_a_view_has_no_more_seats_than_a_message() {
    let world = World::with(1, |config| {
        config.expected_members = 1_100;
        config.member_timeout = Duration::from_secs(5);
    });
    let mut now = world.now;
    let config = world.nodes[0].config.clone();
    let (mut core, _) = Core::start(config, &world.nodes[0].disk.recover(), now);
    for peer in 0..1_100 {
        greeted(
            &mut core,
            &format!("p{peer}"),
            1_000 + peer,
            Mark::default(),
            now,
        );
    }
    let mut asked = BTreeMap::new();
    for _ in 0..20 {
        now = now.plus(Duration::from_secs(1));
        let mut effects = core.handle(Input::Wake, now, UnixSeconds(1_000_000));
        while let Some(commit) = effects.commit {
            note_asked(&effects, &mut asked);
            effects = core.handle(Input::Flushed(commit), now, UnixSeconds(1_000_000));
        }
        note_asked(&effects, &mut asked);
    }
    assert_eq!(asked.len(), 1_023, "and itself");
}

fn note_asked(effects: &Effects, asked: &mut BTreeMap<Incarnation, Ballot>) {
    for action in &effects.actions {
        if let Action::Send {
            to,
            message:
                PeerMessage::Roster {
                    say: Say::Prepare { ballot, .. },
                    ..
                },
        } = action
        {
            asked.insert(*to, *ballot);
        }
    }
}

/// Whoever has no seat may be told the view, and changes nothing else: neither what members promise nor their rounds.
#[test]
fn g7_who_has_no_seat_counts_for_nothing() {
    let seats: BTreeMap<_, _> = [("a", 1), ("b", 2), ("c", 3)]
        .map(|(name, number)| (node(name), run(number)))
        .into();
    let view = grapevine_core::roster::View {
        number: 3,
        history: Some(run(1).as_history()),
        everything: 1,
        spared: false,
        closed: BTreeMap::new(),
        retired: grapevine_core::roster::Retired::default(),
        seats: seats.clone(),
    };
    let mut roster = Roster::start(node("a"), run(1), None);
    let history = view.history;
    roster.heard(&node("b"), history, Say::Decided(view.clone()));
    let hostile = Ballot {
        round: 1 << 41,
        by: run(9),
    };
    let number = 3;
    let prepare = Say::Prepare {
        number,
        ballot: hostile,
        recovers: false,
    };
    let nothing = Outcome::default();
    assert_eq!(roster.heard(&node("x"), history, prepare.clone()), nothing);
    let next = grapevine_core::roster::View {
        number: 4,
        ..view.clone()
    };
    let accept = Say::Accept {
        ballot: hostile,
        next,
    };
    assert_eq!(roster.heard(&node("x"), history, accept), nothing);
    let refuse = Say::Refuse {
        number,
        promised: hostile,
    };
    assert_eq!(roster.heard(&node("x"), history, refuse), nothing);
    let draft = Draft {
        seats,
        ..Draft::default()
    };
    let proposed = roster.propose(draft);
    let rounds = proposed.say.iter().map(|(_, say)| match say {
        Say::Prepare { ballot, .. } => ballot.round,
        other => panic!("{other:?}"),
    });
    assert_eq!(rounds.collect::<Vec<_>>(), [1, 1, 1]);
    // One that is behind is told.
    let old = Say::Prepare {
        number: 2,
        ballot: hostile,
        recovers: false,
    };
    let told = vec![(node("x"), Say::Decided(view))];
    assert_eq!(roster.heard(&node("x"), history, old).say, told);
    // A later run of a node with a seat recovers: it is asked, and answered.
    let ballot = Ballot {
        round: 2,
        by: run(33),
    };
    let recovers = true;
    let prepare = Say::Prepare {
        number,
        ballot,
        recovers,
    };
    let answer = roster.heard(&node("c"), history, prepare);
    assert!(matches!(answer.say[..], [(_, Say::Promise { .. })]));
}

/// One of two comes back to the other, which an operator had go on alone: it says whom it will follow, and when.
#[test]
fn g11_who_comes_back_to_one_that_went_on_alone_says_what_it_waits_for() {
    let timeout = Duration::from_secs(5);
    let mut world = World::running_with(2, |config| config.member_timeout = timeout);
    world.crash(1);
    go_on_alone(&mut world, 0, "b");
    world.start(1);
    world.connect_all();
    world.settle();
    let Freshness::CatchingUp(reason) = world.core(1).freshness(world.now) else {
        panic!("{:?}", world.core(1).freshness(world.now));
    };
    assert!(
        reason.starts_with("a has gone on in another history")
            && reason.contains("this run joins it after"),
        "{reason}"
    );
    until(&mut world, timeout * 4, |world| {
        (0..2).all(|at| fresh(world, at))
    });
}

#[test]
fn a_sidecar_is_not_forgotten_by_itself() {
    let mut world = World::running(3);
    let ticket = world.ticket();
    let (node_id, alone) = (node("a"), true);
    world.input(0, Input::Forget(ticket, Forget { node_id, alone }));
    let reply = world.nodes[0].replies.get(&ticket.0);
    let Some(Reply::Refused(refusal)) = reply else {
        panic!("{reply:?}");
    };
    let text = refusal.to_string();
    assert!(text.contains("a is this sidecar itself"), "{text}");
}

/// A link that ends after its peer said that it leaves has not broken.
#[test]
fn the_end_of_a_link_with_who_leaves_is_in_order() {
    let mut world = World::running(3);
    let (leaves, stays) = (world.incarnation(2), world.incarnation(1));
    let parting = |world: &World, run| world.core(0).is_parting(run);
    assert!(!parting(&world, leaves));
    world.input(2, Input::Drain);
    world.settle();
    assert!(parting(&world, leaves) && !parting(&world, stays));
    assert!(world.core(2).is_parting(stays), "at both ends");
    world.crash(2);
    assert!(parting(&world, leaves));
}

/// What became of a disk.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    Wiped,
    Restored,
}

/// The third one left, the first one was let in again by the second and then cut off, and the disk of the second is lost, or put
/// back from when there were three: the third knows of the view before that only.
fn one_lost_after_it_let_another_in(loss: Loss) -> World {
    let mut world = World::running(3);
    let before = world.nodes[1].disk.clone();
    for at in [0, 2] {
        world.input(at, Input::Drain);
        world.settle();
        world.advance(Duration::from_millis(50));
        world.settle();
    }
    let known = world.core(1).roster().number;
    world.crash(0);
    world.crash(2);
    let copy = world.nodes[2].disk.clone();
    world.start(0);
    world.connect(0, 1);
    world.settle();
    world.advance(Duration::from_millis(200));
    world.settle();
    let view = world.core(1).roster();
    assert!(view.number > known && view.seats.len() == 2, "{view:?}");
    world.invalidate(0, &["p/1"]);
    world.settle();
    world.cut(0, 1);
    world.crash(1);
    match loss {
        Loss::Wiped => world.wipe(1),
        Loss::Restored => world.nodes[1].disk = before,
    }
    world.nodes[2].disk = copy;
    world.start(1);
    world.start(2);
    world.connect(1, 2);
    world
}

fn assert_waits(world: &mut World) {
    for _ in 0..100 {
        world.settle();
        world.advance(Duration::from_millis(50));
        let state = world.core(1).freshness(world.now);
        assert_ne!(state, Freshness::Fresh, "{}", world.describe());
    }
    let Freshness::CatchingUp(why) = world.core(1).freshness(world.now) else {
        panic!("it has not caught up");
    };
    assert!(why.contains("2 of 3 expected members"), "{why}");
}

#[test]
fn g11_an_only_member_whose_disk_was_lost_waits_for_whom_it_may_have_let_in() {
    for loss in [Loss::Wiped, Loss::Restored] {
        waits_until_it_has_met_all(one_lost_after_it_let_another_in(loss));
    }
}

fn waits_until_it_has_met_all(mut world: World) {
    assert_waits(&mut world);
    // Also when it starts again, with the view that it was told.
    world.crash(1);
    world.start(1);
    world.connect(1, 2);
    assert_waits(&mut world);
    world.connect_all();
    world.converge().unwrap();
    assert_eq!(world.core(1).roster().seats.len(), 3);
    // The next start has a memory of its own.
    for at in [0, 2] {
        world.input(at, Input::Drain);
        world.settle();
        world.advance(Duration::from_millis(50));
        world.settle();
        world.crash(at);
    }
    world.crash(1);
    world.start(1);
    until(&mut world, Duration::from_secs(5), |world| fresh(world, 1));
}

#[test]
fn g7_an_operator_lets_an_only_member_whose_disk_was_lost_go_on() {
    for loss in [Loss::Wiped, Loss::Restored] {
        goes_on_when_told_to(one_lost_after_it_let_another_in(loss));
    }
}

fn goes_on_when_told_to(mut world: World) {
    assert_waits(&mut world);
    let ticket = world.ticket();
    let forget = Forget {
        node_id: node("a"),
        alone: false,
    };
    world.input(1, Input::Forget(ticket, forget));
    let reply = world.nodes[1].replies.get(&ticket.0);
    let refused = matches!(reply, Some(Reply::Refused(Refusal::NoMajority { .. })));
    assert!(refused, "{reply:?}");
    go_on_alone(&mut world, 1, "a");
    until(&mut world, Duration::from_secs(5), |world| fresh(world, 1));
}
