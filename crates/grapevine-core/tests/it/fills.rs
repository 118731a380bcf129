//! Elected fills: of all callers that miss a value at once, one reads the source (race 11), and whoever dies, is cut off or
//! falls silent, the others go on. No safety rests on any of it; what is safe is shown by the tests of G3.

use std::collections::BTreeMap;
use std::time::Duration;

use grapevine_core::event::Match;
use grapevine_core::fill::{FillId, FillKey, FillWord};
use grapevine_core::id::Time;
use grapevine_core::machine::effects::{
    CondemnReason, FillTurn, Input, LeaseClaim, PeerMessage, Purpose, ReceiptLevel, RegisterItem,
    Reply, Ticket, Verdict,
};
use grapevine_core::token::Token;
use proptest::prelude::*;

use crate::world::{World, address, classes};

const PATIENCE: Duration = Duration::from_secs(10);

/// A caller at one of the nodes.
type Caller = (usize, u64);

impl World {
    fn key(&self, at: usize) -> FillKey {
        FillKey::new(&address("items::1"), self.token(at, &["cart/13"]))
    }

    fn acquire(&mut self, at: usize, key: FillKey, wait: Duration) -> Caller {
        let ticket = self.ticket();
        let deadline = self.now.plus(wait);
        self.input(at, Input::AcquireFill(ticket, key, deadline));
        (at, ticket.0)
    }

    fn turn(&self, (at, call): Caller) -> Option<FillTurn> {
        match self.nodes[at].replies.get(&call)? {
            Reply::Fill(turn) => Some(*turn),
            other => panic!("{other:?}"),
        }
    }

    fn end(&mut self, at: usize, number: u64, stored: bool) {
        let origin = self.incarnation(at);
        self.input(at, Input::EndFill(FillId { origin, number }, stored));
    }

    /// Who of the callers has a turn, with its number.
    fn winners(&self, callers: &[Caller]) -> Vec<(usize, u64)> {
        let turns = callers
            .iter()
            .filter_map(|caller| Some((caller.0, self.turn(*caller)?)));
        let won = turns.filter_map(|(at, turn)| match turn {
            FillTurn::Won { fill } => Some((at, fill.unwrap())),
            _ => None,
        });
        won.collect()
    }

    /// Commits a fill under a turn.
    fn commit(&mut self, at: usize, number: u64) -> Verdict {
        let origin = self.incarnation(at);
        let lease = self.resolve(at, "items::1", &["cart/13"]).lease;
        let ticket = self.ticket();
        let item = RegisterItem {
            address: address("items::1"),
            classes: classes(&["cart/13"]),
            expires: grapevine_core::id::UnixSeconds(2_000_000),
            lease: LeaseClaim::Elected(lease, FillId { origin, number }),
            purpose: Purpose::Verdict,
        };
        self.input(at, Input::Register(ticket, vec![item]));
        self.settle();
        self.verdict(at, ticket.0).unwrap()
    }
}

/// Many callers at each of three nodes, all of which have heard what there was to hear.
fn storm(world: &mut World, each: usize) -> Vec<Caller> {
    let mut callers = Vec::new();
    for at in 0..3 {
        let key = world.key(at);
        callers.extend((0..each).map(|_| world.acquire(at, key, PATIENCE)));
    }
    world.settle();
    callers
}

#[test]
fn race11_one_of_ten_thousand_callers_at_three_sidecars_fills() {
    let mut world = World::running(3);
    let callers = storm(&mut world, 3_334);
    let [(at, number)] = world.winners(&callers)[..] else {
        panic!("{:?}", world.winners(&callers));
    };
    assert!(matches!(world.commit(at, number), Verdict::Accepted(_)));
    world.end(at, number, true);
    world.settle();
    let filled = callers
        .iter()
        .filter(|caller| world.turn(**caller) == Some(FillTurn::Filled));
    assert_eq!(filled.count(), callers.len() - 1, "all others are told");
    for at in 0..3 {
        assert_eq!(world.core(at).fills_open(), (0, 0), "nothing is left");
    }
}

#[test]
fn race11_a_turn_that_is_given_up_or_dies_goes_to_the_next_one() {
    let mut world = World::running(3);
    let callers = storm(&mut world, 2);
    let first = world.winners(&callers)[0];
    world.end(first.0, first.1, false);
    world.settle();
    let winners = world.winners(&callers);
    assert_eq!(winners.len(), 2, "one more: {winners:?}");
    let second = *winners.iter().find(|it| **it != first).unwrap();
    // Its process dies: the links tell.
    world.crash(second.0);
    world.settle();
    let alive: Vec<_> = callers
        .iter()
        .copied()
        .filter(|it| it.0 != second.0)
        .collect();
    let won = world.winners(&alive);
    let third: Vec<_> = won.iter().filter(|it| **it != first).collect();
    assert_eq!(third.len(), 1, "{won:?}");
}

#[test]
fn race11_a_turn_ends_with_its_lease_and_its_commit_is_condemned() {
    let mut world = World::running_with(3, |config| {
        config.lease_duration = Duration::from_secs(2);
    });
    let callers = storm(&mut world, 2);
    let first = world.winners(&callers)[0];
    for _ in 0..30 {
        world.advance(Duration::from_millis(100));
        world.settle();
    }
    let winners = world.winners(&callers);
    assert_eq!(winners.len(), 2, "{winners:?}");
    assert_eq!(
        world.commit(first.0, first.1),
        Verdict::Condemned(CondemnReason::Superseded)
    );
    let second = *winners.iter().find(|it| **it != first).unwrap();
    assert!(matches!(
        world.commit(second.0, second.1),
        Verdict::Accepted(_)
    ));
}

#[test]
fn race11_a_dead_or_silent_arbiter_stops_nobody() {
    // Which of the three arbitrates is what the hash says: so each of them is the one that fails once.
    for failing in 0..3 {
        let mut world = World::running(3);
        let others: Vec<_> = (0..3).filter(|at| *at != failing).collect();
        let mut callers = Vec::new();
        for &at in &others {
            let key = world.key(at);
            callers.push(world.acquire(at, key, PATIENCE));
            callers.push(world.acquire(at, key, PATIENCE));
        }
        // Nothing reaches it or comes from it.
        for &at in &others {
            world.drop_all(at, failing);
            world.drop_all(failing, at);
        }
        for _ in 0..10 {
            world.advance(Duration::from_millis(10));
            for (from, to) in [(others[0], others[1]), (others[1], others[0])] {
                world.deliver_all(from, to);
            }
        }
        let won = world.winners(&callers);
        assert!(
            (1..=2).contains(&won.len()),
            "one a sidecar at most: {won:?}"
        );
        // It dies: those who still wait ask another one, and in the end all have been answered.
        world.crash(failing);
        world.settle();
        for (at, number) in won {
            world.end(at, number, true);
            world.settle();
        }
        let waiting: Vec<_> = callers
            .iter()
            .filter(|it| world.turn(**it).is_none())
            .collect();
        assert!(waiting.is_empty(), "{waiting:?}");
    }
}

#[test]
fn g3_a_bump_begins_another_election() {
    let mut world = World::running(3);
    let callers = storm(&mut world, 1);
    let old = world.key(0);
    world.invalidate_as(
        1,
        &["cart/13"],
        Match::Any,
        ReceiptLevel::None,
        Duration::from_secs(1),
    );
    world.settle();
    assert_ne!(world.key(0), old);
    let later = storm(&mut world, 1);
    assert_eq!(world.winners(&later).len(), 1, "nobody waits for the old");
    assert_eq!(world.winners(&callers).len(), 1);
}

#[test]
fn g10_who_cannot_wait_or_finds_no_room_is_told_when_to_try_again() {
    let mut world = World::running(3);
    let key = world.key(0);
    let first = world.acquire(0, key, PATIENCE);
    world.settle();
    assert_eq!(world.winners(&[first]).len(), 1);
    let hasty = world.acquire(1, key, Duration::ZERO);
    world.settle();
    assert!(matches!(world.turn(hasty), Some(FillTurn::Retry { .. })));
    let patient = world.acquire(1, key, Duration::from_secs(1));
    world.settle();
    assert_eq!(world.turn(patient), None);
    world.advance(Duration::from_secs(1));
    assert!(matches!(world.turn(patient), Some(FillTurn::Retry { .. })));
    let many: Vec<_> = (0..5_000)
        .map(|_| world.acquire(2, key, PATIENCE))
        .collect();
    world.settle();
    let put_off = many
        .iter()
        .filter(|it| matches!(world.turn(**it), Some(FillTurn::Retry { .. })));
    assert_eq!(put_off.count(), 5_000 - 4_096);
    // Those who gave up leave their places.
    let gone = many.iter().map(|it| Ticket(it.1)).collect();
    world.input(2, Input::Gone(gone));
    world.settle();
    assert_eq!(world.core(2).fills_open().0, 0);
    world.end(0, 1, false);
    world.settle();
    assert_eq!(
        world.core(0).fills_open().1 + world.core(1).fills_open().1,
        0
    );
}

#[test]
fn a_sidecar_that_leaves_sends_its_callers_elsewhere() {
    let mut world = World::running(3);
    let callers = storm(&mut world, 3);
    let (winner, _) = world.winners(&callers)[0];
    let leaver = (winner + 1) % 3;
    world.input(leaver, Input::Drain);
    let of_leaver = callers.iter().filter(|it| it.0 == leaver);
    for (at, call) in of_leaver {
        let reply = &world.nodes[*at].replies[call];
        assert!(matches!(reply, Reply::Refused(_)), "{reply:?}");
    }
}

#[test]
fn race11_links_that_break_again_and_again_keep_nobody_waiting() {
    let mut world = World::running(3);
    let key = world.key(0);
    let callers: Vec<_> = (0..3)
        .map(|at| world.acquire(at, key, Duration::from_millis(30)))
        .collect();
    // Whoever is asked does not hear it, and its links break before it is found silent.
    for _ in 0..8 {
        for (one, other) in [(0, 1), (1, 2), (2, 0)] {
            lose_fill_words(&mut world, one, other);
            lose_fill_words(&mut world, other, one);
            world.cut(one, other);
            world.connect(one, other);
        }
        world.advance(Duration::from_millis(10));
    }
    for caller in callers {
        assert!(world.turn(caller).is_some(), "{caller:?}");
    }
}

/// One thing that happens in a random history.
#[derive(Clone, Debug)]
enum Happening {
    Acquire(usize, u64),
    End(prop::sample::Index, bool),
    Deliver(usize, usize),
    Lose(usize, usize),
    Cut(usize, usize),
    Connect(usize, usize),
    Pass(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let node = 0..3_usize;
    prop_oneof![
        4 => (node.clone(), 0..3_000_u64).prop_map(|(at, ms)| Happening::Acquire(at, ms)),
        2 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(it, s)| Happening::End(it, s)),
        4 => (node.clone(), node.clone()).prop_map(|(a, b)| Happening::Deliver(a, b)),
        1 => (node.clone(), node.clone()).prop_map(|(a, b)| Happening::Lose(a, b)),
        1 => (node.clone(), node.clone()).prop_map(|(a, b)| Happening::Cut(a, b)),
        2 => (node.clone(), node).prop_map(|(a, b)| Happening::Connect(a, b)),
        2 => (1..400_u64).prop_map(Happening::Pass),
    ]
}

/// Words about fills only: what else is lost is another test's matter, and may cost a seat here.
fn lose_fill_words(world: &mut World, from: usize, to: usize) {
    if let Some(queue) = world.links.get_mut(&(from, to)) {
        queue.retain(|message| !matches!(message, PeerMessage::Fill { .. }));
    }
}

proptest! {
    #![proptest_config(crate::config(300))]

    /// Whatever is lost, cut and given up: each caller is answered by its deadline and the patience that an arbiter is
    /// given, at no time do two callers of one sidecar have a turn, and in the end nothing is left.
    #[test]
    fn race11_every_caller_is_answered_in_time(history in prop::collection::vec(happening(), 1..120)) {
        let mut world = World::running_with(3, |config| {
            config.lease_duration = Duration::from_secs(2);
        });
        let key = world.key(0);
        let mut callers: BTreeMap<Caller, Time> = BTreeMap::new();
        let mut open: BTreeMap<(usize, u64), Time> = BTreeMap::new();
        for it in history {
            match it {
                Happening::Acquire(at, ms) => {
                    let wait = Duration::from_millis(ms);
                    let caller = world.acquire(at, key, wait);
                    callers.insert(caller, world.now.plus(wait));
                }
                Happening::End(which, stored) if !open.is_empty() => {
                    let turns: Vec<_> = open.keys().copied().collect();
                    let (at, number) = *which.get(&turns);
                    open.remove(&(at, number));
                    world.end(at, number, stored);
                }
                Happening::Deliver(from, to) => world.deliver_all(from, to),
                Happening::Lose(from, to) => lose_fill_words(&mut world, from, to),
                Happening::Cut(one, other) if one != other => world.cut(one, other),
                Happening::Connect(one, other) if one != other => world.connect(one, other),
                Happening::End(..) | Happening::Cut(..) | Happening::Connect(..) => {}
                Happening::Pass(ms) => world.advance(Duration::from_millis(ms)),
            }
            open.retain(|_, until| *until > world.now);
            for (caller, deadline) in std::mem::take(&mut callers) {
                match world.turn(caller) {
                    Some(FillTurn::Won { fill }) => {
                        let until = world.now.plus(Duration::from_secs(2));
                        open.insert((caller.0, fill.unwrap()), until);
                    }
                    Some(_) => {}
                    None => {
                        let late = world.now.since(deadline);
                        prop_assert!(late <= Duration::from_millis(50), "{late:?} late");
                        callers.insert(caller, deadline);
                    }
                }
            }
        }
        world.connect_all();
        for _ in 0..100 {
            world.settle();
            world.advance(Duration::from_millis(100));
        }
        for at in 0..3 {
            prop_assert_eq!(world.core(at).fills_open(), (0, 0));
        }
    }
}

/// A key's words from a stranger to it are heard and change nothing.
#[test]
fn words_about_unknown_fills_leave_nothing_behind() {
    let mut world = World::running(2);
    let key = world.key(0);
    let from = world.incarnation(1);
    let words = [
        FillWord::Done { stored: true },
        FillWord::Wait { left: PATIENCE },
        FillWord::Filled,
        FillWord::Superseded,
        FillWord::Won,
    ];
    for word in words {
        let message = PeerMessage::Fill { key, word };
        world.input(0, Input::Peer { from, message });
    }
    world.settle();
    assert_eq!(world.core(0).fills_open(), (0, 0));
    assert_eq!(world.core(1).fills_open(), (0, 0));
}

/// A sidecar gives turns of many values to many sidecars: who waits for them is bounded all together, and each place comes
/// back however its holder stops waiting. Beyond, who asks has its turn at once.
#[test]
fn g10_those_who_wait_for_turns_of_one_arbiter_are_bounded_all_together() {
    let mut world = World::running_with(3, |config| config.limits.fill_waits_max = 4);
    let key = |number: u64| FillKey::new(&address(&format!("items::{number}")), Token(number));
    let peers = [world.incarnation(1), world.incarnation(2)];
    let ask = |world: &mut World, from, number| {
        let message = PeerMessage::Fill {
            key: key(number),
            word: FillWord::Ask,
        };
        world.input(0, Input::Peer { from, message });
    };
    let overfull = |world: &World| world.core(0).counters().elections_overfull;
    // The one has the turns, the other waits.
    (0..6).for_each(|number| ask(&mut world, peers[0], number));
    (0..6).for_each(|number| ask(&mut world, peers[1], number));
    assert_eq!(overfull(&world), 2);
    // Asked again it has its place.
    (0..6).for_each(|number| ask(&mut world, peers[1], number));
    assert_eq!(overfull(&world), 4);
    // Places come back: with a value, a turn passed on, one who gives up, and one who is gone.
    for (from, number, stored) in [(0, 0, true), (0, 1, false), (1, 2, false)] {
        let word = FillWord::Done { stored };
        let message = PeerMessage::Fill {
            key: key(number),
            word,
        };
        let from = peers[from];
        world.input(0, Input::Peer { from, message });
    }
    (6..12).for_each(|number| ask(&mut world, peers[0], number));
    (6..12).for_each(|number| ask(&mut world, peers[1], number));
    assert_eq!(overfull(&world), 4 + 3, "three places of six wanted");
    world.cut(0, 2);
    (20..26).for_each(|number| ask(&mut world, peers[1], number));
    (20..26).for_each(|number| ask(&mut world, peers[0], number));
    assert_eq!(overfull(&world), 7 + 2, "four places");
}

#[test]
fn g10_callers_beyond_those_that_may_wait_are_told_to_try_again() {
    let mut world = World::running_with(1, |config| config.limits.fill_waits_max = 16);
    let key = world.key(0);
    let callers: Vec<_> = (0..20).map(|_| world.acquire(0, key, PATIENCE)).collect();
    world.settle();
    let waiting = callers
        .iter()
        .filter(|caller| world.turn(**caller).is_none());
    assert_eq!(waiting.count(), 16);
    let put_off = |caller: &&Caller| matches!(world.turn(**caller), Some(FillTurn::Retry { .. }));
    assert_eq!(callers.iter().filter(put_off).count(), 3, "and one has won");
}
