//! Members that crash, one at a time: the others go on soon and with a warm cache, and lose nothing that was acknowledged.

use std::time::Duration;

use grapevine_core::event::{Match, PurgeMode};
use grapevine_core::machine::CoreConfig;
use grapevine_core::machine::effects::{
    Announced, BeginWrite, Freshness, Input, PeerMessage, ReceiptLevel, Reply,
};
use grapevine_core::names::ClassPath;
use grapevine_core::token::Token;

use crate::world::{MAX_STALENESS, World};

const CRASH_TIMEOUT: Duration = Duration::from_secs(5);
const MEMBER_TIMEOUT: Duration = Duration::from_mins(1);
const PATIENCE: Duration = Duration::from_secs(10);

fn usual(config: &mut CoreConfig) {
    config.crash_timeout = CRASH_TIMEOUT;
    config.member_timeout = MEMBER_TIMEOUT;
}

fn fresh(world: &World, at: usize) -> bool {
    world.core(at).freshness(world.now) == Freshness::Fresh
}

fn seats(world: &World, at: usize) -> usize {
    world.core(at).roster().seats.len()
}

/// Lets time pass; gossip sees nobody, so that whoever is silent is suspected.
fn pass(world: &mut World, nodes: &[usize], duration: Duration) {
    let end = world.now.plus(duration);
    while world.now < end {
        for &at in nodes {
            world.input(at, Input::Seen(Vec::new()));
        }
        world.settle();
        world.advance(Duration::from_millis(100));
    }
    world.settle();
}

/// Lets time pass until the first one has a view of fewer seats, and not a message longer.
fn until_fewer(world: &mut World, nodes: &[usize], most: Duration) {
    let (end, before) = (world.now.plus(most), seats(world, 0));
    while seats(world, 0) == before {
        assert!(world.now < end, "{}", world.describe());
        for &at in nodes {
            world.input(at, Input::Seen(Vec::new()));
        }
        while seats(world, 0) == before && world.work() {}
        if seats(world, 0) == before {
            world.advance(Duration::from_millis(100));
        }
    }
}

fn one(world: &mut World, at: usize, class: &str) -> u64 {
    world.invalidate_as(at, &[class], Match::Any, ReceiptLevel::One, PATIENCE)
}

fn tokens(world: &World, nodes: &[usize]) -> Vec<Token> {
    nodes
        .iter()
        .map(|&at| world.token(at, &["cart/13"]))
        .collect()
}

fn satisfied(world: &World, at: usize, call: u64) -> bool {
    match world.nodes[at].replies.get(&call) {
        Some(Reply::Invalidated { receipt, .. }) => receipt.satisfied,
        None => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn g7_one_of_five_is_killed_and_the_others_are_soon_fresh_with_the_tokens_they_had() {
    for killed in [0, 2, 4] {
        let mut world = World::running_with(5, usual);
        let others: Vec<_> = (0..5).filter(|at| *at != killed).collect();
        let call = one(&mut world, killed, "cart/13");
        world.settle();
        assert!(satisfied(&world, killed, call));
        let held = tokens(&world, &others);
        world.crash(killed);
        pass(
            &mut world,
            &others,
            MAX_STALENESS + Duration::from_millis(100),
        );
        assert!(!others.iter().any(|&at| fresh(&world, at)));
        pass(&mut world, &others, CRASH_TIMEOUT);
        for &at in &others {
            assert!(fresh(&world, at), "{}", world.describe());
            assert_eq!(seats(&world, at), 4);
        }
        assert_eq!(tokens(&world, &others), held, "a cold cache");
        // It comes back as a newcomer.
        world.start(killed);
        world.connect_all();
        world.converge().unwrap();
        assert_eq!(seats(&world, killed), 5);
        assert_eq!(world.token(killed, &["cart/13"]), held[0]);
    }
}

/// What only the two of them have is lost with both.
#[test]
fn g1_two_of_five_that_are_gone_at_once_are_not_spared() {
    let mut world = World::running_with(5, usual);
    for gone in [3, 4] {
        (0..3).for_each(|at| world.cut(at, gone));
    }
    let call = one(&mut world, 3, "cart/13");
    world.settle();
    assert!(satisfied(&world, 3, call));
    world.crash(3);
    world.crash(4);
    let before = world.token(0, &["cart/13"]);
    pass(&mut world, &[0, 1, 2], CRASH_TIMEOUT * 2);
    assert_eq!(seats(&world, 0), 5);
    assert!(!fresh(&world, 0));
    pass(&mut world, &[0, 1, 2], MEMBER_TIMEOUT);
    assert!(fresh(&world, 0) && seats(&world, 0) == 3);
    assert_ne!(world.token(0, &["cart/13"]), before);
}

/// The same, but they go one after another: the second one is not spared, for it never vouched in the view without the
/// first.
#[test]
fn g1_a_second_one_that_has_not_vouched_since_the_first_was_spared_is_not_spared() {
    let mut world = World::running_with(5, |config| {
        usual(config);
        config.crash_timeout = MEMBER_TIMEOUT;
    });
    (0..3).for_each(|at| world.cut(at, 3));
    pass(&mut world, &[0, 1, 2, 4], MEMBER_TIMEOUT / 2);
    let call = one(&mut world, 3, "cart/13");
    world.settle();
    assert!(satisfied(&world, 3, call), "the fifth has it");
    // It has told nobody else.
    (0..3).for_each(|at| {
        world.cut(at, 4);
    });
    world.crash(3);
    world.crash(4);
    let before = world.token(0, &["cart/13"]);
    let knows = |world: &World| world.token(0, &["cart/13"]) != before;
    pass(
        &mut world,
        &[0, 1, 2],
        MEMBER_TIMEOUT / 2 + Duration::from_secs(1),
    );
    assert_eq!(seats(&world, 0), 4, "the first is spared");
    assert!(!fresh(&world, 0) && !knows(&world));
    pass(&mut world, &[0, 1, 2], MEMBER_TIMEOUT);
    assert_eq!(seats(&world, 0), 3);
    assert!(fresh(&world, 0) && knows(&world), "{}", world.describe());
}

/// A member is back, and granted freshness, just when the others agree to go on without it. As long as that holds it may serve
/// what it had: a receipt `all` waits for it, although it has no seat any more.
#[test]
fn g7_receipts_of_all_wait_for_who_was_granted_freshness_just_before_its_seat_was_taken() {
    let mut world = World::running_with(3, usual);
    world.cut(0, 2);
    world.cut(1, 2);
    let prepares = |world: &World| {
        let said = |said: &PeerMessage| matches!(said, PeerMessage::Roster { .. });
        world.links[&(0, 1)].iter().any(said)
    };
    let end = world.now.plus(CRASH_TIMEOUT * 2);
    while !prepares(&world) {
        assert!(world.now < end, "{}", world.describe());
        for at in 0..3 {
            world.input(at, Input::Seen(Vec::new()));
            world.flush(at);
        }
        if !prepares(&world) {
            world.deliver_all(0, 1);
            world.deliver_all(1, 0);
            world.advance(Duration::from_millis(50));
        }
    }
    // It is on its way, and so is the third.
    world.connect(0, 2);
    world.connect(1, 2);
    for _ in 0..20 {
        for (from, to) in [(0, 2), (2, 0), (1, 2), (2, 1)] {
            world.deliver_all(from, to);
        }
        (0..3).for_each(|at| {
            world.flush(at);
        });
        world.advance(Duration::from_millis(5));
    }
    assert!(fresh(&world, 2), "{}", world.describe());
    world.cut(0, 2);
    world.cut(1, 2);
    while seats(&world, 0) == 3 {
        assert!(world.now < end, "{}", world.describe());
        for (from, to) in [(0, 1), (1, 0)] {
            world.deliver_all(from, to);
        }
        world.flush(0);
        world.flush(1);
    }
    let call = world.invalidate_as(0, &["cart/13"], Match::Any, ReceiptLevel::All, PATIENCE);
    while !satisfied(&world, 0, call) {
        for at in [0, 1] {
            world.flush(at);
            world.deliver_all(0, 1);
            world.deliver_all(1, 0);
        }
        world.advance(Duration::from_millis(20));
        assert!(world.now < end.plus(PATIENCE), "{}", world.describe());
    }
    assert!(!fresh(&world, 2), "it serves what is stale by now");
}

/// The view that spares a seat says so until two of its members have called themselves fresh in it; so does each view that
/// follows before that, whatever it is for.
#[test]
fn g1_that_a_seat_was_spared_is_told_until_two_disks_have_what_it_acknowledged() {
    let mut world = World::running_with(5, usual);
    world.crash(4);
    // From the moment of the view on the fourth says nothing: nobody can be fresh in it.
    until_fewer(&mut world, &[0, 1, 2, 3], CRASH_TIMEOUT * 2);
    (0..3).for_each(|at| world.cut(at, 3));
    assert!(world.core(0).roster().spared, "it is told");
    assert!(!(0..3).any(|at| fresh(&world, at)));
    world.start(4);
    (0..3).for_each(|at| world.connect(at, 4));
    while seats(&world, 0) == 4 {
        pass(&mut world, &[0, 1, 2, 4], Duration::from_millis(100));
        assert!(world.now < grapevine_core::id::Time::from_start(MEMBER_TIMEOUT));
    }
    assert!(!(0..3).any(|at| fresh(&world, at)));
    assert!(world.core(0).roster().spared, "and not forgotten");
    // Once all vouch again the next view need not say it any more.
    world.connect_all();
    world.converge().unwrap();
    let call = one(&mut world, 3, "cart/13");
    world.settle();
    assert!(satisfied(&world, 3, call));
    world.crash(3);
    world.start(3);
    world.connect_all();
    world.converge().unwrap();
    assert!(!world.core(0).roster().spared);
}

/// Two were silent for long and everything was bumped without them. Whoever has not called itself fresh since spares nobody:
/// a third one may have acknowledged to one of the two what nobody else knows of.
#[test]
fn g1_who_has_not_been_fresh_in_a_view_spares_nobody_in_it() {
    let mut world = World::running_with(5, usual);
    world.crash(3);
    world.crash(4);
    until_fewer(&mut world, &[0, 1, 2], MEMBER_TIMEOUT * 2);
    let view = world.core(0).roster().clone();
    assert_eq!((view.seats.len(), view.spared), (3, false));
    assert!(!fresh(&world, 0));
    world.crash(2);
    pass(&mut world, &[0, 1], CRASH_TIMEOUT * 2);
    let later = world.core(0).roster();
    assert_eq!(later.seats.len(), 3, "it is not spared");
    pass(&mut world, &[0, 1], MEMBER_TIMEOUT);
    let later = world.core(0).roster();
    assert_eq!(later.seats.len(), 2);
    assert!(later.everything > view.everything, "everything is bumped");
}

/// A member that is cut off from all but one loses its seat; from then on that one acknowledges nothing to it, for nobody
/// waits for what the two of them have.
#[test]
fn g6_receipts_of_who_lost_its_seat_are_not_reached_by_those_who_kept_theirs() {
    let mut world = World::running_with(4, usual);
    world.cut(0, 3);
    world.cut(1, 3);
    let nobody = |world: &mut World| {
        for at in 0..3 {
            world.input(at, Input::Seen(Vec::new()));
        }
    };
    // The third hears it, but is told to suspect it as the others do.
    while seats(&world, 2) == 4 {
        nobody(&mut world);
        for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
            world.deliver_all(from, to);
        }
        for at in 0..4 {
            world.flush(at);
        }
        world.drop_all(2, 3);
        world.advance(Duration::from_millis(50));
        assert!(world.now < grapevine_core::id::Time::from_start(MEMBER_TIMEOUT));
    }
    // It does not know yet.
    assert_eq!(seats(&world, 3), 4);
    let call = one(&mut world, 3, "cart/13");
    world.flush(3);
    world.deliver_all(3, 2);
    world.flush(2);
    world.deliver_all(2, 3);
    assert!(!satisfied(&world, 3, call));
}

/// A record that is not flushed yet: the probe names the view before, and a grant in that one is none in this.
#[test]
fn g7_a_grant_given_in_the_last_view_does_not_count_in_the_next() {
    let mut world = World::running_with(5, usual);
    world.advance(Duration::from_millis(300));
    world.settle();
    world.crash(4);
    let ticket = world.ticket();
    let node_id = world.nodes[4].config.node_id.clone();
    let forget = grapevine_core::machine::effects::Forget {
        node_id,
        alone: false,
    };
    world.input(0, Input::Forget(ticket, forget));
    // The first three agree on it; the fourth hears nothing of it.
    while world.core(0).roster().number == 1 {
        assert!(world.flush(0) || world.flush(1) || world.flush(2));
        for other in [1, 2] {
            world.deliver_all(0, other);
            world.flush(other);
            world.deliver_all(other, 0);
        }
        world.drop_all(0, 3);
    }
    world.advance(MAX_STALENESS / 2);
    world.deliver_all(0, 3);
    world.flush(3);
    world.deliver_all(3, 0);
    let members = world.core(0).members(world.now);
    let fourth = world.nodes[3].config.node_id.clone();
    let fourth = members.iter().find(|row| row.hello.node_id == fourth);
    assert_eq!(fourth.unwrap().grant_left, Duration::ZERO);
}

/// One that leaves is the last to know of an event; who stays hears of it, and does not vouch without it.
#[test]
fn g1_what_one_that_leaves_knows_of_is_told_to_those_who_stay() {
    let mut world = World::running_with(3, usual);
    world.cut(0, 2);
    let call = one(&mut world, 0, "cart/13");
    world.flush(0);
    world.deliver_all(0, 1);
    world.flush(1);
    world.deliver_all(1, 0);
    assert!(satisfied(&world, 0, call));
    // Both leave, and agree on that without the third, which hears of it when they are gone.
    world.drop_all(1, 2);
    world.input(0, Input::Drain);
    world.input(1, Input::Drain);
    for _ in 0..20 {
        world.flush(0);
        world.flush(1);
        world.deliver_all(0, 1);
        world.deliver_all(1, 0);
    }
    world.crash(0);
    world.deliver_all(1, 2);
    world.crash(1);
    world.settle();
    assert_eq!(seats(&world, 2), 1);
    assert!(!fresh(&world, 2), "{}", world.describe());
}

/// One leaves, and the only other disk with what it acknowledged is lost before anybody else has it.
#[test]
fn g7_a_disk_that_is_lost_right_after_a_departure_has_everything_bumped() {
    let mut world = World::running_with(3, usual);
    world.cut(0, 2);
    let call = one(&mut world, 0, "cart/13");
    world.flush(0);
    world.deliver_all(0, 1);
    world.flush(1);
    world.deliver_all(1, 0);
    assert!(satisfied(&world, 0, call));
    world.input(0, Input::Drain);
    while seats(&world, 2) == 3 {
        world.flush(0);
        world.deliver_all(0, 1);
        world.flush(1);
        // The roster's messages arrive, and what is pulled is lost.
        world.deliver_all(1, 2);
        world.flush(2);
        world.deliver_all(2, 1);
        world.deliver_all(1, 0);
    }
    world.crash(0);
    assert!(world.core(2).roster().spared);
}

/// A write was begun; its sidecar dies, and then the only peer that held it. Both are spared, and the bump comes all the same.
#[test]
fn g8_a_write_whose_sidecar_and_holder_are_spared_one_after_the_other_is_bumped() {
    let lease = Duration::from_secs(30);
    let mut world = World::running_with(5, usual);
    let ticket = world.ticket();
    let call = BeginWrite {
        announced: Announced::Classes {
            classes: vec![ClassPath::parse("cart/13").unwrap()],
            matching: Match::Any,
        },
        purge: PurgeMode::Hard,
        lease,
        deadline: world.now.plus(PATIENCE),
        random: 7,
    };
    world.input(0, Input::BeginWrite(ticket, call));
    world.settle();
    world.crash(0);
    let holds = |at: &usize| !world.nodes[*at].disk.intents().is_empty();
    let holder = (1..5).find(holds).unwrap();
    pass(&mut world, &[1, 2, 3, 4], CRASH_TIMEOUT);
    assert_eq!(seats(&world, holder), 4);
    world.crash(holder);
    let others: Vec<_> = (1..5).filter(|at| *at != holder).collect();
    pass(&mut world, &others, CRASH_TIMEOUT);
    assert!(fresh(&world, others[0]), "{}", world.describe());
    let before = tokens(&world, &others);
    pass(&mut world, &others, lease);
    assert!(fresh(&world, others[0]));
    let after = tokens(&world, &others);
    assert!(before.iter().all(|token| !after.contains(token)));
}
